"""Which results are of one SAE, which were measured alike, and the L0 that stands beside a score."""

from __future__ import annotations

from collections.abc import Sequence

from sae_bench.board.collect import Entry
from sae_bench.board.columns import L0
from sae_bench.schema import CoderRecord, MetricValue, Protocol
from sae_bench.show import marks

SaeKey = tuple[str, str]  # name, weights_sha256
_OF_THE_TASK = {"task", "version", "task_sha256", "parameters", "model", "data"}


def key_of(sae: CoderRecord) -> SaeKey:
    """What makes two results those of one SAE."""
    return sae.name, sae.weights_sha256


def conditions(protocol: Protocol) -> str:
    """All that changes a number but the task. The names of model and data do not."""
    return protocol.model_dump_json(exclude=_OF_THE_TASK)


class L0s:
    """The L0 of every SAE that was measured most alike to a protocol."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._best: dict[tuple[SaeKey, _Alike], tuple[tuple[int, str], MetricValue]] = {}
        task, _, metric = L0.partition(".")
        for e in entries:
            if e.result.task == task and metric in e.result.metrics and marks.ranked(e.result):
                p = e.result.provenance.protocol
                value, size = e.result.metrics[metric], (p.n_documents, conditions(p))
                for alike in _alike(p):
                    key = key_of(e.result.sae), alike
                    if key not in self._best or size > self._best[key][0]:
                        self._best[key] = size, value

    def nearest(self, sae: SaeKey, protocol: Protocol) -> MetricValue | None:
        """That on the same text, else of the same model and mask, else on the most documents; None without any."""
        keys = ((sae, alike) for alike in _alike(protocol))
        return next((self._best[key][1] for key in keys if key in self._best), None)


_Alike = tuple[str | None, tuple[str, tuple[str, ...]] | None, str | None]  # text, model and hook points, mask


def _alike(p: Protocol) -> list[_Alike]:
    """What another protocol may have in common with this one, from all to nothing; None is what may differ."""
    return [
        (text, model, mask)
        for text in (p.data_sha256, None)
        for model in ((p.model_sha256, p.hooks_in), None)
        for mask in (p.mask, None)
    ]
