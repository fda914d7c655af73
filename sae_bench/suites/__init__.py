"""Frozen suites: what is measured on what, so that results of different people stand in one table.

A suite is a file, ``leaderboard/suites/NAME.toml`` (:mod:`~sae_bench.suites.record`). A run keeps to one
(:mod:`~sae_bench.suites.keep`), its results claim it, and whoever reads them holds the claim against the file
(:mod:`~sae_bench.suites.claims`). ``sae-bench suite build`` seals one: :mod:`sae_bench.sealing`.
"""
