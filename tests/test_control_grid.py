"""Controls of a hook point stand on a grid of L0, have the L0 that they say, and share what they are made of."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from sae_bench import registry
from sae_bench.engine.plan import Options, with_controls
from sae_bench.engine.workspace import Entry, Workspace
from sae_bench.saes import calibration, conformance, controls
from sae_bench.saes.calibration import Calibration, Moments, on_grid, shared_by
from sae_bench.saes.graded import Graded, GradedLinear, Turns
from sae_bench.saes.protocol import Codes, SparseCoder
from tests.builders.tiny_saes import activations, tiny_coder

GRADED = ("pca", "pca_topk", "random", "channels")
TOKENS = 4000


def moments(sample: Tensor) -> Moments:
    x = sample.double()
    mean = x.mean(0)
    covariance = (x - mean).T @ (x - mean) / len(x)
    return Moments(mean, covariance, sample, float(x.square().sum(1).mean().sqrt()), len(x))


def known(l0: float, sample: Tensor | None = None, shared: dict[Any, Any] | None = None) -> Calibration:
    own = moments(activations(TOKENS) if sample is None else sample)
    return Calibration(own, own, l0, {} if shared is None else shared)


def make(name: str, sae: SparseCoder, calibration: Calibration) -> SparseCoder:
    coder = registry.load(registry.controls()[name])(sae, calibration, 0)
    assert isinstance(coder, SparseCoder)
    return coder


def same(a: Codes, b: Codes) -> bool:
    return all(torch.equal(torch.as_tensor(x), torch.as_tensor(y)) for x, y in zip(a, b, strict=True))


def l0_of(codes: Codes) -> float:
    return len(codes.indices) / codes.n_tokens


@pytest.mark.parametrize("l0", [0.0, 1e-9, 0.4, 1.0, 1.09, 5.6, 31.9, 64.0, 90.0, 123_456.7])
def test_the_nearest_point_of_the_grid_is_within_half_a_percent(l0: float) -> None:
    point = on_grid(l0)
    assert math.log2(point) * calibration.GRID == pytest.approx(round(math.log2(point) * calibration.GRID), abs=1e-9)
    if l0 >= calibration.LEAST_L0:
        assert abs(point / l0 - 1) <= 0.005
    assert on_grid(point) == point


def test_powers_of_two_are_on_the_grid_exactly() -> None:
    """TopK SAEs mostly have such a k, and their controls then select as many of every token."""
    assert [on_grid(k) for k in (1, 2, 16, 32, 64, 128, 256)] == [1, 2, 16, 32, 64, 128, 256]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("l0", [2.378, 4.0, 5.66])
@pytest.mark.parametrize("name", GRADED)
def test_a_graded_control_has_the_l0_that_it_was_asked_for(name: str, l0: float, dtype: torch.dtype) -> None:
    sae, x = tiny_coder("topk", n_latents=200, dtype=dtype), activations(TOKENS, dtype=dtype)
    coder = make(name, sae, known(l0, x))
    codes = coder.encode(x)
    assert set(codes.counts().tolist()) == {math.floor(l0), math.ceil(l0)}
    assert l0_of(codes) == pytest.approx(l0, rel=0.01)
    assert coder.info.provenance["l0"] == l0
    assert conformance.check(coder, x[:40]) == []


@pytest.mark.parametrize("name", GRADED)
def test_which_tokens_get_one_more_is_theirs_and_not_of_their_company(name: str) -> None:
    sae, x = tiny_coder("topk", n_latents=100), activations(300)
    coder = make(name, sae, known(5.6568))
    whole = coder.encode(x)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    turned = coder.encode(x[order])
    assert torch.equal(turned.counts(), whole.counts()[order])
    parts = [coder.encode(part) for part in x.split(7)]  # type: ignore[no-untyped-call]
    assert torch.equal(torch.cat([part.counts() for part in parts]), whole.counts())
    nudged = coder.encode(x * (1 + 1e-6))
    assert (nudged.counts() != whole.counts()).sum() <= 1, "rounding moves a token as seldom as at any threshold"


@pytest.mark.parametrize("shape", ["normal", "heavy", "two lumps", "rank one", "constant"])
def test_the_share_of_tokens_with_one_more_holds_whatever_the_activations_look_like(shape: str) -> None:
    x = activations(TOKENS).double()
    if shape == "heavy":
        x = x * torch.arange(1, TOKENS + 1, dtype=torch.float64).unsqueeze(1).pow(0.5)
    elif shape == "two lumps":
        x[: TOKENS // 2] += 50
    elif shape == "rank one":
        x = x[:, :1] * torch.ones_like(x)
    elif shape == "constant":
        x = torch.ones_like(x)
    own = moments(x)
    found = Turns(own.mean, own.covariance, 0)(x)
    assert bool(((found >= 0) & (found < 1)).all())
    if shape != "constant":  # tokens that are all alike are treated alike
        assert float((found < 0.3).double().mean()) == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize("name", ["pca_topk", "random", "random_l0"])
def test_what_shares_an_encoding_takes_from_it_what_it_would_select_alone(name: str) -> None:
    """To the bit: other SAEs of the run, whose controls select more or fewer, change nothing."""
    sae, x, shared = tiny_coder("topk", n_latents=100), activations(200), dict[Any, Any]()
    points = [1.0, 2.378, 5.6568, 8.0]
    members = [make(name, sae, known(l0, shared=shared)) for l0 in points]
    alone = [make(name, sae, known(l0)) for l0 in points]
    for member, own in zip(members, alone, strict=True):
        assert isinstance(member, Graded)
        assert isinstance(members[-1], Graded)
        assert member.widest is members[-1].base, "the one with the highest L0 encodes for all"
        assert same(member.cut(member.widest.encode(x), x), own.encode(x))
        assert same(member.encode(x), own.encode(x))
    assert l0_of(members[0].encode(x)) < l0_of(members[-1].encode(x))


def test_ties_go_to_the_lower_latent() -> None:
    codes = Codes(torch.tensor([0, 3, 5]), torch.tensor([2, 5, 9, 0, 7]), torch.tensor([1.0, -2, 1, 3, 3]), 10)
    from sae_bench.saes.graded import ranks

    assert ranks(codes, codes.token_of_entry()).tolist() == [1, 0, 2, 0, 1]


def test_one_dictionary_and_one_decomposition_for_all_of_the_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a sweep holds as many of each as it has SAEs."""
    calls, eigh = [], torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda x: calls.append(1) or eigh(x))
    sae, one = tiny_coder("topk", n_latents=100), known(4.0)
    made = {
        (name, l0): make(name, sae, dataclasses.replace(one, l0=l0))
        for name in ("pca", "pca_topk", "random", "random_l0")
        for l0 in (2.0, 4.0, 4.757, 8.0)
    }
    assert len(calls) == 1
    for names, parts in ((("pca", "pca_topk"), ("W_enc", "W_dec")), (("random", "random_l0"), ("W_enc",))):
        for part in parts:
            found = set()
            for (name, _), coder in made.items():
                if name in names:
                    assert isinstance(coder, GradedLinear)
                    found.add(getattr(coder.base.weights, part).untyped_storage().data_ptr())
            assert len(found) == 1, (names, part)


def a_run(saes: Sequence[SparseCoder], names: tuple[str, ...]) -> Any:
    hook = saes[0].info.hooks_in[0]
    work = Workspace(None, (hook,), {hook: moments(activations(TOKENS))})  # type: ignore[arg-type]
    return with_controls([Entry(str(i), str(i), sae) for i, sae in enumerate(saes)], work, Options(controls=names))


def test_saes_of_a_hook_point_share_the_controls_of_the_nearest_point() -> None:
    names = ("mean", "identity", "pca", "random", "random_l0", "permuted", "pca_topk", "channels")
    saes = [tiny_coder("topk", k=k, n_latents=n) for k, n in ((8, 64), (8, 99), (4, 64), (5, 64))]
    cast = a_run(saes, names)
    of = cast.controls_of
    for name in names:
        keys = [of[str(i)][name] for i in range(len(saes))]
        distinct = {"mean": 1, "identity": 1, "permuted": 4, "random": 4, "random_l0": 4}.get(name, 3)
        assert len(set(keys)) == distinct, name
        assert (keys[0] == keys[1]) == (name not in ("permuted", "random", "random_l0")), (
            "other widths, other dictionary"
        )
    assert len(cast.controls) == len({key for own in of.values() for key in own.values()})


def test_a_control_that_does_not_say_what_it_depends_on_is_each_saes_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plug-in's control may read anything of its SAE, and sees the L0 that this has."""
    seen: list[float] = []

    def own(sae: SparseCoder, calibration: Calibration, seed: int) -> SparseCoder | None:
        seen.append(calibration.l0)
        return controls.random_init(sae, calibration, seed)

    @shared_by("l0")
    def told(sae: SparseCoder, calibration: Calibration, seed: int) -> SparseCoder | None:
        seen.append(calibration.l0)
        return controls.random_init(sae, calibration, seed)

    saes = [tiny_coder("topk", k=5, n_latents=64) for _ in range(2)]
    for control, makes in ((own, [5.0, 5.0]), (told, [on_grid(5)])):
        seen.clear()
        monkeypatch.setattr(registry, "load", lambda what, control=control: control)
        cast = a_run(saes, ("random",))
        assert seen == makes
        assert len(cast.controls) == len(makes)


def test_what_a_control_may_depend_on_is_checked_where_it_is_declared() -> None:
    with pytest.raises(ValueError, match=r'shared by "l0" and "width", not by \'seed\''):
        shared_by("l0", "seed")  # type: ignore[arg-type]
