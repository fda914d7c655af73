"""One file a layout on disk.

A format module has ``matches(folder) -> bool``, which opens no weights, and ``read(folder, device=..., dtype=...)``,
which returns a coder or raises CoderError with one sentence.
"""
