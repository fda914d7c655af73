"""Labelled texts through the model, batch by batch, and what is kept of them: pooled codes, and tokens in files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_bench.data.labelled import Suite
from sae_bench.engine.batch import Batch
from sae_bench.engine.plan import Batches, Options
from sae_bench.engine.views import CoderView, SiteView
from sae_bench.engine.workspace import CoderFailure, Entry, Workspace
from sae_bench.streams.pooled import Pooled, TokenStore
from sae_bench.streams.prefixes import Prefixes
from sae_bench.streams.token_view import GroupCodes


@dataclass(frozen=True)
class Carried:
    """One batch: the number of each sequence's text, int64 ``[sequences]``, and activations and prefixes by hook.

    ``texts`` are the places of these texts in the suite.

    What texts that begin alike share is equal in all of them, see :mod:`sae_bench.streams.prefixes`.
    """

    batch: Batch
    texts: Sequence[int]
    numbers: Tensor
    x: Mapping[str, tuple[Tensor, Tensor]]
    alike: Prefixes

    def kept(self, hook: str) -> Tensor:
        """Activations of the tokens inside the mask ``[tokens, d]``, text after text."""
        return self.x[hook][0][self.batch.kept]


@dataclass(frozen=True)
class Passes:
    """How texts of a suite run through the model: in batches of ``size`` tokens."""

    work: Workspace
    suite: Suite
    size: int
    options: Options

    def carried(self, texts: NDArray[np.int64], hooks: Sequence[str]) -> Iterator[Carried]:
        """What the model carries at ``hooks`` on ``texts`` (places in the suite), which are numbered in their order."""
        batches = Batches.of(self.suite.tokens, self.size, texts.tolist())
        numbers = {int(text): i for i, text in enumerate(texts)}
        device = self.work.subject.device
        with Prefixes([self.suite.tokens[i].ids for i in texts.tolist()]) as alike:
            for index, members in enumerate(batches.groups):
                batch = Batch(self.work, *batches.tensors(index, self.options))
                of_text = [numbers[i] for i in members]
                shared = alike.of(of_text, device)
                x = {hook: alike.activations(hook, batch.activations(hook), shared) for hook in hooks}
                yield Carried(batch, members, torch.tensor(of_text, device=device), x, alike)


def pool_batch(
    carried: Carried,
    entries: Mapping[str, Entry],
    pooled: Mapping[str, Pooled],
    stores: Mapping[str, TokenStore],
    failed: Callable[[Entry, str], None],
    tokens: GroupCodes | None = None,
) -> None:
    """Keep one batch: tokens in ``stores`` (by hook), and in ``pooled`` the codes of ``entries``, by encoder.

    The codes of single tokens go to ``tokens``, if they are to be kept.

    Where a coder of ``pooled`` has channels, all of the activation is pooled. ``failed`` is told of a coder that fails.
    """
    batch, numbers = carried.batch, carried.numbers
    places = None if tokens is None else tokens.numbers(carried.texts, batch)
    for hook, store in stores.items():
        store.add(carried.x[hook][0], batch, numbers)
    for key, entry in entries.items():
        activations, prefix = carried.x[entry.hook_in]
        try:
            if pooled[key].channels:
                mean = batch.work.moments[entry.hook_in].mean
                pooled[key].add_channels(activations - mean, batch, numbers)
            else:
                codes = carried.alike.codes(key, CoderView(SiteView(batch, entry.hook_in), entry).codes, prefix)
                if pooled[key].poolings:
                    pooled[key].add_codes(codes, batch, numbers)
                if tokens is not None and places is not None:
                    tokens.of(key, codes.n_latents).add(codes, places)
        except CoderFailure as failure:
            failed(entry, str(failure))
