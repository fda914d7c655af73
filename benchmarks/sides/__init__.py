"""What runs inside a contender's own process; see ``benchmarks/harness.py``."""
