"""Which stored replies answer a request again: complete ones of the judge of this run, and what this run was told."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from sae_bench.judge.cache import Cache
from sae_bench.judge.records import Completion
from sae_bench.judge.served import Served

FINAL = 2  # times that a batch may be asked the same without a complete reply


@dataclass
class Asked:
    """What one judge may take from its cache.

    Attributes:
        fingerprints: whether another fingerprint is another judge.
        served: who judges; None until somebody has answered.
        mine: keys whose replies came in this run: they count, whatever became of them.
        all_of_it: whether a reply that is not complete is taken too, as nobody can be asked again.
        batch: whether it is taken once it was asked for ``FINAL`` times: a batch is asked by hand.
    """

    fingerprints: bool = True
    served: Served | None = None
    mine: set[str] = field(default_factory=set)
    all_of_it: bool = False
    batch: bool = False

    def replayed(self, cache: Cache, keys: Iterable[str], fresh: bool = False) -> dict[str, Completion]:
        """The stored completions that answer these keys again, each with ``cached`` set. Raises JudgeError.

        If ``fresh`` is set, only those of this run do.
        """
        found: dict[str, Completion] = {}
        if self.served is None:
            return found
        for key, row in cache.kept(keys, self.served, self.fingerprints).items():
            whole = row.completion.status == "ok" and not fresh
            if whole or key in self.mine or self.all_of_it or (self.batch and row.tries >= FINAL):
                found[key] = replace(row.completion, cached=True)
        return found
