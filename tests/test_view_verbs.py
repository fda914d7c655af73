"""The verbs of a view, against plain hooks on the model: decode, scores, noise, partners."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

from sae_bench.engine.batch import Batch
from sae_bench.engine.views import CoderView, SiteView
from sae_bench.engine.workspace import CoderFailure, Entry, Workspace
from sae_bench.models.loading import load_subject
from sae_bench.saes.calibration import Moments
from sae_bench.streams.guard import TaskFailure, guarded
from sae_bench.tasks.base import Task
from tests.builders.tiny_models import VOCAB, WIDTH, tiny_gpt2
from tests.builders.tiny_saes import HOOK, tiny_coder
from tests.builders.views import task

LAYER = int(HOOK.split(".")[1])
LENGTHS = [9, 6, 2, 7]
NAMES = ("a", "b", "c", "c/1")


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_gpt2().double()


def views(model: Any, *coders: Any, rows: list[int] | None = None, seed: int = 0) -> list[CoderView]:
    """Views of the coders on one batch of the sequences ``rows``."""
    subject = load_subject(model)[0]
    moments = Moments(torch.zeros(WIDTH).double(), torch.eye(WIDTH).double(), torch.randn(8, WIDTH).double(), 5.0, 8)
    hooks = tuple(sorted({hook for c in coders for hook in (*c.info.hooks_in, *c.info.hooks_out)}))
    work = Workspace(subject, hooks, dict.fromkeys(hooks, moments))
    chosen = list(range(len(LENGTHS))) if rows is None else rows
    tokens = torch.randint(1, VOCAB, (len(LENGTHS), max(LENGTHS)), generator=torch.Generator().manual_seed(1))
    attention = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS).unsqueeze(1)
    keep = attention & (torch.arange(max(LENGTHS)) > 0)
    longest = max(LENGTHS[i] for i in chosen)
    cut = (x[chosen][:, :longest] for x in (tokens, attention, keep))
    batch = Batch(work, *cut, names=tuple(NAMES[i] for i in chosen), seed=seed)
    entries = [Entry(f"sae {i}", f"sae {i}", coder) for i, coder in enumerate(coders)]
    made = [CoderView(SiteView(batch, entry.hook_out), entry) for entry in entries]
    batch.saes = {view.entry.key: view for view in made}
    return made


def by_hook(model: Any, view: CoderView, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """CE, KL and agreement of every prediction, with a forward hook of torch alone."""
    batch = view.batch

    def put(_module: Any, _args: Any, out: Any) -> Any:
        x = out[0] if isinstance(out, tuple) else out
        x = x.clone()
        full = torch.zeros_like(x)
        full[batch.attention] = values
        x[batch.keep] = full[batch.keep]
        return (x, *out[1:]) if isinstance(out, tuple) else x

    with torch.no_grad():
        clean = model(batch.tokens).logits[..., : view.batch.work.subject.vocab_size]
        handle = model.transformer.h[LAYER].register_forward_hook(put)
        logits = model(batch.tokens).logits[..., : view.batch.work.subject.vocab_size]
        handle.remove()
    p, q, targets = clean[batch.predicts], logits[batch.predicts], batch.targets
    kl = kl_div(q.log_softmax(1), p.log_softmax(1), log_target=True, reduction="none").sum(1)
    return cross_entropy(q, targets, reduction="none"), kl, p.argmax(1) == q.argmax(1)


# ---------------------------------------------------------------- decode


@pytest.mark.parametrize("activation", ["relu", "topk", "abstopk"])
def test_parts_of_a_code_add_up_to_the_reconstruction(model: Any, activation: str) -> None:
    (view,) = views(model, tiny_coder(activation, dtype=torch.float64))
    codes = view.codes
    strong = view.sizes > view.sizes.median()
    nothing = torch.zeros_like(strong)
    parts = view.decode(codes.only(strong)) + view.decode(codes.only(~strong)) - view.decode(codes.only(nothing))
    torch.testing.assert_close(parts, view.x_hat)
    assert codes.only(strong).n_tokens == sum(LENGTHS)
    assert torch.equal(codes.only(~nothing).values, codes.values)
    assert view.batch.work.counters["decode"] == 4 * len(LENGTHS)


def test_a_coder_that_normalises_gets_the_scale_of_the_same_tokens(model: Any) -> None:
    (view,) = views(model, tiny_coder("relu", normalise="layer_norm", dtype=torch.float64))
    assert view.info.decode_needs == "scale"
    torch.testing.assert_close(view.decode(view.codes), view.x_hat)


def test_codes_of_other_tokens_or_latents_are_refused(model: Any) -> None:
    (view,) = views(model, tiny_coder("relu", dtype=torch.float64))
    with pytest.raises(ValueError, match="decode takes codes of 24 tokens and"):
        view.decode(view.codes.select(view.kept))
    with pytest.raises(ValueError, match="decode takes codes of 24 tokens and"):
        view.decode(view.codes._replace(n_latents=7))


def test_a_part_that_decodes_to_nan_is_the_fault_of_its_coder(model: Any) -> None:
    coder = tiny_coder("relu", dtype=torch.float64)
    (view,) = views(model, coder)
    codes = view.codes
    coder.decode = lambda codes, x=None: torch.full((codes.n_tokens, WIDTH), torch.nan)  # type: ignore[method-assign]
    with pytest.raises(CoderFailure) as caught:
        view.decode(codes)
    assert caught.value.key == "sae 0"


# ---------------------------------------------------------------- scores


def test_scores_are_those_of_a_plain_hook(model: Any) -> None:
    (view,) = views(model, tiny_coder("topk", dtype=torch.float64))
    half = view.x_hat / 2
    for values, scores in ((half, view.scores(half, "half")), (view.x_hat, view.replaced("spliced"))):
        ce, kl, agrees = by_hook(model, view, values)
        torch.testing.assert_close(scores.ce, ce)
        torch.testing.assert_close(scores.kl, kl, atol=1e-12, rtol=1e-9)
        assert torch.equal(scores.agrees, agrees)
        assert scores.ce.dtype == scores.kl.dtype == torch.float64
        assert 0 < int(agrees.sum()) < len(agrees)
    torch.testing.assert_close(view.loss("spliced"), view.sum_predictions(view.replaced("spliced").ce))


def test_a_key_costs_one_pass_and_names_one_replacement_of_one_task(model: Any) -> None:
    (view,) = views(model, tiny_coder("topk", dtype=torch.float64))
    view.task = "mine"
    half = view.x_hat / 2
    first = view.scores(half, "half")
    assert view.scores(half.clone(), "half") is first
    assert view.batch.work.counters["suffix_replaced"] == len(LENGTHS)
    with pytest.raises(ValueError, match="'half' was used for other values"):
        view.scores(view.x_hat / 3, "half")
    swapped = half.clone()
    places = view.kept.nonzero().squeeze(1)
    swapped[places[:2]] = half[places[:2].flip(0)]
    with pytest.raises(ValueError, match="'half' was used for other values"):  # the same numbers at other tokens
        view.scores(swapped, "half")
    view.task = "another"
    assert not torch.equal(view.scores(view.x_hat / 3, "half").ce, first.ce)


@pytest.mark.parametrize("key", ["clean", "zero", "mean", "spliced"])
def test_names_of_fixed_replacements_are_no_keys(model: Any, key: str) -> None:
    (view,) = views(model, tiny_coder("topk", dtype=torch.float64))
    with pytest.raises(ValueError, match="is taken"):
        view.scores(view.x_hat, key)


def test_values_of_another_shape_or_without_a_meaning_are_refused(model: Any) -> None:
    (view,) = views(model, tiny_coder("topk", dtype=torch.float64))
    with pytest.raises(ValueError, match=r"scores takes values \[24, 16\], not \[20, 16\]"):
        view.scores(view.x_hat[view.kept], "kept")
    bad = view.x_hat.clone()
    bad[view.kept.nonzero()[3], 2] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinite at kept tokens"):
        view.scores(bad, "bad")
    outside = view.x_hat.clone()
    outside[0] = torch.nan  # position 0 is outside the mask: the model keeps its own activation there
    assert bool(view.scores(outside, "outside").ce.isfinite().all())


def test_what_is_kept_of_a_replacement_does_not_grow_with_the_vocabulary(model: Any) -> None:
    (view,) = views(model, tiny_coder("topk", dtype=torch.float64))
    view.scores(view.x_hat / 2, "half")
    kept = [tensor for tensor in tensors_in(view._memo) if tensor.shape[-1:] == (VOCAB,)]
    assert kept == []
    n = int(view.batch.predicts.sum())
    assert all(len(tensor) == n for tensor in view.scores(view.x_hat / 2, "half"))


def tensors_in(thing: Any) -> Iterator[Tensor]:
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, dict):
        for value in thing.values():
            yield from tensors_in(value)
    elif isinstance(thing, tuple | list):
        for value in thing:
            yield from tensors_in(value)


@pytest.mark.parametrize("rows", [[0], [1], [3], [2, 0], [3, 1, 0]])
def test_scores_of_a_document_do_not_depend_on_its_batch(model: Any, rows: list[int]) -> None:
    (whole,) = views(model, tiny_coder("topk", dtype=torch.float64))
    (part,) = views(model, tiny_coder("topk", dtype=torch.float64), rows=rows)
    sums = {}
    for view in (whole, part):
        scores = view.scores(view.x_hat + view.noise("jitter").normal(WIDTH), "jitter")
        for name, values in zip(scores._fields, scores, strict=True):
            for of, total in zip(view.batch.names, view.sum_predictions(values.double()).tolist(), strict=True):
                sums.setdefault((name, of), []).append(total)
    compared = [pair for pair in sums.values() if len(pair) == 2]
    assert len(compared) == 3 * len(rows)
    for one, other in compared:
        assert one == pytest.approx(other, rel=1e-9, abs=1e-9)


# ---------------------------------------------------------------- noise


def test_noise_belongs_to_the_document_and_the_role() -> None:
    model = tiny_gpt2().double()
    (whole,) = views(model, tiny_coder("topk", dtype=torch.float64))
    (part,) = views(model, tiny_coder("topk", dtype=torch.float64), rows=[3, 1])
    for draw in ("normal", "uniform"):
        a, b = (getattr(view.noise("role"), draw)(5) for view in (whole, part))
        assert a.shape == (sum(LENGTHS), 5)
        assert a.dtype == torch.float64
        starts = [0, 9, 15, 17]
        assert torch.equal(b[:7], a[starts[3] : starts[3] + 7])
        assert torch.equal(b[7:], a[starts[1] : starts[1] + 6])
        assert not torch.equal(a, getattr(whole.noise("other role"), draw)(5))
        assert torch.equal(a, getattr(whole.noise("role"), draw)(5))
    (other,) = views(model, tiny_coder("topk", dtype=torch.float64), seed=1)
    assert not torch.equal(other.noise("role").normal(5), whole.noise("role").normal(5))
    c, again = whole.noise("role").normal(3)[15:17], whole.noise("role").normal(3)[17:19]
    assert not torch.equal(c, again)  # two sequences of one document are not alike
    first, second = (torch.randn(3, generator=whole.noise("role").generator(0)) for _ in range(2))
    assert torch.equal(first, second)


# ---------------------------------------------------------------- partners


def test_partners_are_the_other_saes_wherever_they_read_and_share_their_codes(model: Any) -> None:
    hook = HOOK.replace(str(LAYER), str(LAYER - 1))
    coders = tiny_coder("topk"), tiny_coder("relu", seed=1), tiny_coder("relu", seed=2, hook=hook)
    a, b, c = views(model, *coders)
    assert a.partners == (b, c)
    assert c.partners == (a, b)
    assert b.codes is a.partners[0].codes
    assert c.hook != a.hook
    n = a.batch.work.counters["encode"]
    assert [view.codes.n_tokens for view in a.partners] == [sum(LENGTHS)] * 2
    assert a.batch.work.counters["encode"] == n + len(LENGTHS)  # b was encoded already
    assert a.batch.work.counters["prefix"] == len(LENGTHS)


def test_a_partner_that_fails_ends_the_task_and_not_this_sae(model: Any) -> None:
    a, b = views(model, tiny_coder("topk"), tiny_coder("relu", seed=1))
    b.entry.coder.encode = broken
    made: Task = task("sparsity")
    with pytest.raises(TaskFailure, match="task sparsity: the SAE sae 1, which it looks at, fails: RuntimeError: gone"):
        guarded(made, lambda: a.partners[0].codes, "measure", "sae 0")
    with pytest.raises(CoderFailure):
        guarded(made, lambda: b.codes, "measure", "sae 1")
    a.batch.failed = {"sae 1": "it failed before"}
    with pytest.raises(TaskFailure, match="sae 1, which it looks at, fails: it failed before"):
        guarded(made, lambda: a.partners, "measure", "sae 0")


def broken(x: Tensor) -> Any:
    raise RuntimeError("gone")
