"""What the model says with values of a task's own in place of an activation, by a key that names one replacement."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from sae_bench.kernels.divergence import Scores

if TYPE_CHECKING:
    from sae_bench.engine.views import CoderView

REPLACEMENTS = ("clean", "zero", "mean", "spliced")  # what has a name of its own; see Site.loss


class _Asked(NamedTuple):
    """What the model was run on under a key, and what came of it."""

    mark: Tensor
    scores: Scores


def scores_under(key: str, view: CoderView, values: Tensor) -> Scores:
    """See :meth:`CoderView.scores`. Raises ValueError."""
    if key in REPLACEMENTS:
        raise ValueError(f"the key {key!r} is taken: replaced({key!r}) has its scores")
    if values.shape != view.target.shape:
        raise ValueError(f"scores takes values {list(view.target.shape)}, not {list(values.shape)}")
    mark = _mark(values.index_select(0, view.batch.put("kept_tokens")))
    asked = view.task, view.entry.key
    view.batch.check(
        mark.isfinite().logical_not_(),
        lambda bad: ValueError(f"the values under the key {key!r} are NaN or infinite at kept tokens"),
        *asked,
    )
    found = view.once(
        ("scores", view.task, key), lambda: _Asked(mark, view.batch.scores(view.hook, values, "replaced"))
    )
    if found.mark is mark:
        return found.scores
    view.batch.check(
        found.mark != mark,
        lambda bad: ValueError(f"the key {key!r} was used for other values in this batch; a key names one replacement"),
        *asked,
    )
    return found.scores


def _mark(values: Tensor) -> Tensor:
    """Three sums ``[3]`` by which replacements are told apart without keeping them."""
    x = values.double()
    place = torch.arange(1, x.shape[1] + 1, device=x.device, dtype=torch.float64)
    order = torch.arange(1, len(x) + 1, device=x.device, dtype=torch.float64)
    return torch.stack([x.sum(), x.square().sum(), (x @ place) @ order])
