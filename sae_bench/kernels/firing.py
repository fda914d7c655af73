"""How well the activation of a latent tells tokens with a label from those without, and how sure that is.

Average precision and recall at a precision follow from all tokens in the order of their activation, so they are no
function of sums over texts. How they move with the texts is found by leaving out groups of texts in turn (the
delete-a-group jackknife; Shao & Tu 1995, "The jackknife and bootstrap", section 2.3), which holds also for what is no
smooth function of the data, as a recall at the last threshold that is precise enough.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from sae_bench.kernels.ranks import clusters

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
GROUPS = 60  # of texts that are left out in turn; with 20 intervals held the truth less often
PRECISION = 0.9  # at which a recall is asked for


class Tokens(NamedTuple):
    """Tokens of some texts: bool ``labels`` ``[tokens]``, and ``groups`` ``[tokens]``, the group of each one's text."""

    labels: NDArray[np.bool_]
    groups: Ints
    n_groups: int

    @property
    def sizes(self) -> tuple[Array, Array]:
        """How many tokens have the label and how many there are ``[1 + n_groups]``: of all, then without a group."""
        return self.without(self.labels), self.without(np.ones(len(self.labels)))

    def without(self, counts: NDArray[Any]) -> Array:
        """Sums over tokens of ``counts`` ``[tokens]``: of all, then without each group in turn, ``[1 + n_groups]``."""
        of_group = np.bincount(self.groups, weights=counts, minlength=self.n_groups)
        return np.concatenate([[of_group.sum()], of_group.sum() - of_group])


def groups_of(positive: NDArray[np.bool_]) -> tuple[Ints, int]:
    """A group for each text ``[texts]``, and how many there are; texts with the label are spread evenly over them."""
    n = min(GROUPS, len(positive))
    order = np.argsort(~positive, kind="stable")
    found = np.empty(len(positive), dtype=np.int64)
    found[order] = np.arange(len(positive)) % max(n, 1)
    return found, n


def curve(tokens: Tokens, places: Ints, values: Array) -> tuple[Array, Array]:
    """Average precision and recall at :data:`PRECISION`, each ``[1 + n_groups]``: of all, then without a group.

    A latent has ``values`` above 0 at the tokens ``places``, and 0 at all others, which are one tie; activations within
    1e-6 of each other are ties too. The recall is the largest of any threshold of at least that precision, 0 without
    one. Without tokens that have the label there is none, and what is left out then is as if it had been left in.
    """
    positives, everyone = tokens.sizes
    step = _falling(values)
    n_steps, n_groups = (int(step.max()) + 1 if len(step) else 0), tokens.n_groups
    cell = step * n_groups + tokens.groups[places]
    hits, fired = (
        np.bincount(cell, weights=weights, minlength=n_steps * n_groups).reshape(n_steps, n_groups).cumsum(0)
        for weights in (tokens.labels[places].astype(np.float64), np.ones(len(places)))
    )
    hits, fired = np.vstack([_leaving_out(hits), positives]), np.vstack([_leaving_out(fired), everyone])
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = np.where(fired > 0, hits / fired, 0.0), hits / positives
    gained = np.diff(recall, axis=0, prepend=0.0)
    area = (gained * precision).sum(0)
    at_precision = np.where(precision >= PRECISION, recall, 0.0).max(0)
    area, at_precision = (np.where(positives > 0, found, found[0]) for found in (area, at_precision))
    return area, at_precision


def _falling(values: Array) -> Ints:
    """The place of each value's cluster of near-ties, the largest values first."""
    place = clusters(torch.from_numpy(values)).numpy()
    return np.asarray(place.max(initial=0) - place, dtype=np.int64)


def _leaving_out(of_group: Array) -> Array:
    """From counts of groups ``[steps, groups]`` to those of all and without each, ``[steps, 1 + groups]``."""
    whole = of_group.sum(1, keepdims=True)
    return np.concatenate([whole, whole - of_group], axis=1)


def pseudo_values(found: Array, groups: Ints) -> Array:
    """A column ``[texts]`` whose mean is the figure, and whose sums under bootstrap weights spread as the figure does.

    ``found`` ``[1 + n_groups]`` is the figure of all texts, then without each group; ``groups`` ``[texts]``. A figure
    that does not exist without a group is taken not to move with it.
    """
    n, sizes = len(groups), np.bincount(groups, minlength=len(found) - 1)
    n_groups = int((sizes > 0).sum())
    if n_groups < 2:
        return np.full(n, found[0])
    without = np.where(np.isfinite(found[1:]), found[1:], found[0])
    deviation = (n_groups - 1) * (without.mean() - without)
    moves = deviation[groups] * n / np.sqrt(sizes[groups] * n_groups * (n_groups - 1))
    return np.asarray(found[0] + moves - moves.mean(), dtype=np.float64)
