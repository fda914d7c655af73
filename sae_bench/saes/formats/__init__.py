"""One file a layout on disk, listed in :data:`sae_bench.registry.FORMATS` in the order in which they are tried.

A format module has ``matches(source) -> bool``, which opens headers at most, and ``read(source, told) -> Reading``,
which raises CoderError with one sentence. CONTRIBUTING.md shows how to add one.
"""
