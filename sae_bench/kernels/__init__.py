"""Selection and decoding on sparse codes, in tiles of bounded size."""
