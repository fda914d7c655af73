"""Sizes of what latents add: norms of decoder directions, measured when they are needed, of coders of any make."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from sae_bench.engine.workspace import NORM_ROWS, CoderFailure, Entry, Workspace
from sae_bench.saes.protocol import Codes, codes_from_dense

N = 2 * NORM_ROWS + 10


class Rows:
    """A coder of which only the directions matter; it keeps for which latents they were asked."""

    def __init__(self, change: Any = lambda rows: rows) -> None:
        self.rows = torch.randn(N, 6, generator=torch.Generator().manual_seed(0))
        self.change = change
        self.asked: list[list[int]] = []

    def decoder_rows(self, latents: Tensor) -> Any:
        self.asked.append(latents.tolist())
        return self.change(torch.stack([self.rows[i] for i in latents.tolist()]))  # nothing cannot be stacked


def codes_of(*latents: int) -> Codes:
    dense = torch.zeros(2, N)
    dense[1, list(latents)] = -2.0
    return codes_from_dense(dense)


def sizes(work: Workspace, coder: Any, codes: Codes) -> Tensor:
    return work.sizes(Entry("a", "a", coder), codes)


def workspace() -> Workspace:
    return Workspace(SimpleNamespace(), (), {})  # type: ignore[arg-type]


def test_sizes_are_magnitude_times_norm_and_a_direction_is_asked_for_once() -> None:
    work, coder = workspace(), Rows()
    for latents in ((3, 5), (5, NORM_ROWS), (), (3, N - 1)):
        found = sizes(work, coder, codes_of(*latents))
        expected = 2 * coder.rows[list(latents)].double().norm(dim=1)
        torch.testing.assert_close(found, expected)
    asked = [latent for tile in coder.asked for latent in tile]
    assert sorted(asked) == list(range(N))


def test_what_is_asked_for_does_not_depend_on_what_was_measured_before() -> None:
    """Else a coder whose rows come out of a product could give other bits after a kill."""
    one, other = Rows(), Rows()
    work = workspace()
    for latents in ((3, 5), (N - 1,), (4,)):
        sizes(work, one, codes_of(*latents))
    sizes(workspace(), other, codes_of(3, 4, 5, N - 1))
    assert sorted(one.asked) == sorted(other.asked)


@pytest.mark.parametrize("change", [lambda r: r[1:], lambda r: r[0], lambda r: None, lambda r: r.sum(1)])
def test_rows_that_cannot_be_meant_are_the_failure_of_this_coder(change: Any) -> None:
    with pytest.raises(CoderFailure):
        sizes(workspace(), Rows(change), codes_of(3))


def test_whole_numbers_are_directions_too() -> None:
    coder = Rows(lambda rows: rows.long())
    assert float(sizes(workspace(), coder, codes_of(3))) == pytest.approx(
        2 * float(coder.rows[3].long().double().norm())
    )
