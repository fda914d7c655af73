"""Results as files. Nothing here imports torch."""
