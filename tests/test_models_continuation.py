"""Continuing behind a change at one position gives the logits of a forward pass with a hook, on both back ends."""

import gc
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from sae_bench.errors import ModelError
from sae_bench.kernels.effects import effect_sparsity
from sae_bench.models import continuation as module
from sae_bench.models.continuation import Continuation
from sae_bench.models.hooks import find_blocks, known_names
from sae_bench.models.huggingface_suffix import cache_argument
from sae_bench.models.loading import load_subject
from sae_bench.models.subject import Capture
from tests.builders import tiny_models
from tests.builders.marks import slow_but

HOOK = "blocks.1.hook_resid_post"
SEQ = 24  # three times the attention window of the tiny Gemma 2
# near the start, twice at one place, in a shorter sequence, and where fewer tokens than asked for are left
SEQUENCES = torch.tensor([0, 1, 2, 1, 2, 0, 1])
POSITIONS = torch.tensor([0, 12, 5, 12, 13, 23, 20])
HORIZON = 6
STEPS = [6, 6, 6, 6, 2, 1, 4]
FAMILIES = ["gpt2", "llama", "gemma2", "neox"]


def batch():
    tokens = torch.randint(1, tiny_models.VOCAB, (3, SEQ), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(tokens, dtype=torch.bool)
    tokens[2, 15:], mask[2, 15:] = 0, False
    return tokens, mask


def changes(clean, seed=1):
    """New activations at the places above."""
    noise = torch.randn(len(SEQUENCES), clean.shape[2], generator=torch.Generator().manual_seed(seed))
    return clean[SEQUENCES, POSITIONS] + noise.to(clean) * clean.std()


def prepared(model, hook=HOOK, backend="hf", **options):
    subject, _ = load_subject(model, backend=backend)
    capture = subject.capture(*batch(), [hook])
    return subject, capture, Continuation(subject, capture, hook, **options)


def hooked_forward(model, tokens, layer, position, activation):
    """A pass over one whole sequence without padding, with a hook of PyTorch on a block's output."""

    def put(_module, _args, out):
        changed = (out[0] if isinstance(out, tuple) else out).clone()
        changed[0, position] = activation
        return (changed, *out[1:]) if isinstance(out, tuple) else changed

    handle = find_blocks(model)[1][layer].register_forward_hook(put)
    try:
        with torch.no_grad():
            return model(tokens[None], use_cache=False).logits[0]
    finally:
        handle.remove()


def assert_close_to_the_change(found, expected, clean, tolerance):
    """Equal up to a share of the largest change that the ablation makes."""
    scale = (expected - clean).abs().max()
    assert scale > 1e-2
    assert (found - expected).abs().max() <= tolerance * scale


@pytest.mark.parametrize("family", slow_but(2, sorted(FAMILIES, key=("gemma2", "gpt2").__contains__, reverse=True)))
@pytest.mark.parametrize("backend", ["hf", "tl"])
def test_logits_are_those_of_a_forward_pass_with_a_hook(family, backend):
    model, plain = tiny_models.FAMILIES[family](), tiny_models.FAMILIES[family]()
    _, capture, continuation = prepared(model, backend=backend)
    assert continuation.cached == (backend == "hf")
    new = changes(capture.activations[HOOK])
    logits, valid = continuation.ablated(SEQUENCES, POSITIONS, new, HORIZON)
    clean, clean_valid = continuation.clean(SEQUENCES, POSITIONS, HORIZON)
    assert logits.shape == (7, HORIZON, tiny_models.VOCAB)
    assert torch.equal(valid, torch.arange(HORIZON) < torch.tensor(STEPS)[:, None])
    assert torch.equal(valid, clean_valid)
    assert (logits[~valid] == 0).all()
    lengths = capture.attention_mask.sum(1)
    for row, (s, p, steps) in enumerate(zip(SEQUENCES, POSITIONS, STEPS, strict=True)):
        tokens = capture.tokens[s, : lengths[s]]
        expected = hooked_forward(plain, tokens, 1, p, new[row])[p : p + steps]
        unchanged = plain(tokens[None]).logits[0, p : p + steps]
        assert_close_to_the_change(logits[row, :steps], expected, unchanged, 1e-5)
        assert_close_to_the_change(clean[row, :steps], unchanged, expected, 1e-5)


@pytest.mark.parametrize(
    "family", slow_but(1, sorted(tiny_models.FAMILIES, key=("gemma2", "gpt2").__contains__, reverse=True))
)
def test_every_hook_point_gives_the_logits_of_a_splice(family):
    """Hook points inside a block too, where the block's own keys before the position are those of the clean run."""
    model = tiny_models.FAMILIES[family]()
    subject, _ = load_subject(model)
    names = [name for name in known_names(model) if name.startswith(("hook_embed", "blocks.1"))]
    everything = subject.capture(*batch(), names)
    clean = subject.splice(*batch(), {})
    for name in names:
        continuation = Continuation(subject, everything, name)
        assert continuation.cached == (name != "hook_embed")
        x = everything.activations[name]
        new = changes(x)
        logits, _ = continuation.ablated(SEQUENCES, POSITIONS, new, HORIZON)
        full = x[SEQUENCES].clone()
        full[torch.arange(7), POSITIONS] = new
        spliced = subject.splice(everything.tokens[SEQUENCES], everything.attention_mask[SEQUENCES], {name: full})
        for row, (s, p, steps) in enumerate(zip(SEQUENCES, POSITIONS, STEPS, strict=True)):
            place = slice(p, p + steps)
            assert_close_to_the_change(logits[row, :steps], spliced[row, place], clean[s, place], 2e-5)


@pytest.mark.parametrize("backend", ["hf", "tl"])
def test_differences_are_ablated_minus_clean_and_every_row_comes_once(backend):
    _, capture, continuation = prepared(tiny_models.tiny_llama(), backend=backend)
    new = changes(capture.activations[HOOK])
    logits, _ = continuation.ablated(SEQUENCES, POSITIONS, new, HORIZON)
    clean, _ = continuation.clean(SEQUENCES, POSITIONS, HORIZON)
    seen = []
    for rows, diff, _ in continuation.differences(SEQUENCES, POSITIONS, new, HORIZON):
        seen += rows.tolist()
        for row, found in zip(rows, diff, strict=True):
            expected = (logits - clean)[row, : STEPS[row]]
            torch.testing.assert_close(found, expected, atol=1e-5 * float(expected.abs().max()), rtol=0)
    assert sorted(seen) == list(range(7))


def test_a_change_to_the_same_activation_is_no_effect():
    _, capture, continuation = prepared(tiny_models.tiny_gpt2())
    same = capture.activations[HOOK][SEQUENCES, POSITIONS]
    for _, diff, _ in continuation.differences(SEQUENCES, POSITIONS, same, HORIZON):
        assert diff.abs().max() < 1e-5


@given(
    picks=st.lists(st.integers(0, 6), min_size=1, max_size=9),
    max_bytes=st.sampled_from([1, 5000, 20000, 1 << 30]),
    backend=st.sampled_from(["hf", "tl"]),
)
@settings(max_examples=8, deadline=None)
def test_a_row_does_not_depend_on_its_batch(picks, max_bytes, backend):
    subject, capture, new, expected = _everything(backend)
    continuation = Continuation(subject, capture, HOOK, max_bytes=max_bytes)
    picks = torch.tensor(picks)
    args = SEQUENCES[picks], POSITIONS[picks], new[picks], HORIZON
    found, _ = continuation.ablated(*args)
    torch.testing.assert_close(found, expected[picks], atol=1e-9, rtol=0)
    for rows, diff, _ in continuation.differences(*args):
        alone = continuation.differences(*(x[rows[:1]] for x in args[:3]), HORIZON)
        torch.testing.assert_close(diff[:1], next(alone)[1], atol=1e-9, rtol=0)


_KEPT = {}


def _everything(backend):
    """In float64: what is left of a difference is then a difference of substance."""
    if backend not in _KEPT:
        subject, capture, continuation = prepared(tiny_models.tiny_gpt2().double(), backend=backend)
        new = changes(capture.activations[HOOK])
        _KEPT[backend] = (subject, capture, new, continuation.ablated(SEQUENCES, POSITIONS, new, HORIZON)[0])
    return _KEPT[backend]


@pytest.mark.parametrize(("dtype", "tolerance"), slow_but(1, [(torch.float64, 1e-6), (torch.float32, 1e-4)]))
def test_ablations_are_those_of_an_independent_program(shared, dtype, tolerance):
    """Eight latents of a real SAE in a real model; the reference stores float32 differences from a float64 program."""
    reference = json.loads((shared / "lm" / "reference_ablation.json").read_text())
    deltas = torch.from_numpy(np.load(shared / "lm" / "reference_ablation.npz")["delta"]).double()
    decoder = load_file(shared / "lm" / "saes" / reference["sae"] / "sae_weights.safetensors")["W_dec"]
    tokens = torch.from_numpy(np.load(shared / "lm" / "reference_tokens.npy"))[:4]
    subject, _ = load_subject(shared / "lm" / "model", dtype=dtype)
    capture = subject.capture(tokens, torch.ones_like(tokens, dtype=torch.bool), [reference["site"]])
    continuation = Continuation(subject, capture, reference["site"])
    assert continuation.cached

    rows = reference["rows"]
    sequences, positions, latents = (torch.tensor([r[k] for r in rows]) for k in ("sequence", "position", "latent"))
    size = torch.tensor([r["activation"] for r in rows], dtype=torch.float64)
    x = capture.activations[reference["site"]][sequences, positions].double()
    removed = x - size[:, None] * decoder[latents].double()
    for found, diff, _ in continuation.differences(sequences, positions, removed, 16):
        expected = deltas[found]
        assert (diff - expected).abs().max() <= tolerance * expected.abs().max()
        for centre, key in (("none", "raw"), ("median", "median_centred")):
            theirs = [rows[i][f"l1_over_l2_squared_over_n_{key}"] for i in found.tolist()]
            ours = effect_sparsity(diff, centre=centre).sparsity
            np.testing.assert_allclose(ours, theirs, rtol=tolerance)


def test_work_is_counted_by_kind():
    subject, capture, continuation = prepared(tiny_models.tiny_gpt2())
    subject.counters.update(dict.fromkeys(subject.counters, 0))
    new = changes(capture.activations[HOOK])
    continuation.ablated(SEQUENCES, POSITIONS, new, HORIZON)
    list(continuation.differences(SEQUENCES, POSITIONS, new, HORIZON))
    assert continuation.counters == {"ablation_cached": 14, "continuation_cached": 6}  # two of 7 share a place
    assert subject.counters == {"prefix": 0, "suffix": 0, "full": 0, "selftest": 0}
    bridge, capture, continuation = prepared(tiny_models.tiny_gpt2(), backend="tl")
    bridge.counters["full"] = 0
    continuation.ablated(SEQUENCES, POSITIONS, new, HORIZON)
    continuation.clean(SEQUENCES, POSITIONS, HORIZON)
    assert continuation.counters == {"ablation_full": 7, "continuation_full": 7}
    assert bridge.counters["full"] == 14


def test_only_the_blocks_behind_the_hook_run_and_only_on_the_tokens_behind():
    model = tiny_models.tiny_llama()
    _, capture, continuation = prepared(model)
    ran = []
    for layer, block in enumerate(model.model.layers):
        block.mlp.register_forward_hook(lambda _m, _a, out, layer=layer: ran.append((layer, tuple(out.shape))))
    place = torch.tensor([1, 1, 1]), torch.tensor([12, 12, 12])
    continuation.ablated(*place, capture.activations[HOOK][place], HORIZON)
    assert ran == [(2, (3, HORIZON, tiny_models.WIDTH))]


# --- the self-test ---------------------------------------------------------------------------------------------------


def break_cache(model, how, beyond=0):
    """Let the model misuse keys and values that it is given, for sequences longer than `beyond`."""
    forward = model.forward
    name = cache_argument(model)

    def broken(*args, cache=None, attention_mask=None, **more):
        if cache is not None and attention_mask.shape[1] > beyond:
            if how == "raises":
                raise TypeError("forward() got an unexpected keyword argument 'cache'")
            cache, attention_mask = None, None
        return forward(*args, **{name: cache}, attention_mask=attention_mask, **more)

    def nameless(*args, **more):
        """What a later version may do: the argument is gone, and whatever is given is swallowed."""
        return forward(*args, **{key: value for key, value in more.items() if key != name})

    model.forward = nameless if how == "nameless" else broken
    return model


def test_keys_and_values_are_given_under_the_name_that_the_signature_has():
    """transformers renamed the argument; a name that only **kwargs takes would be ignored in silence."""

    class Older(torch.nn.Module):
        def forward(self, input_ids, past_key_values=None, **more): ...

    class Both(torch.nn.Module):
        def forward(self, input_ids, cache=None, past_key_values=None): ...

    class Neither(torch.nn.Module):
        def forward(self, input_ids, **more): ...

    assert (cache_argument(Older()), cache_argument(Both())) == ("past_key_values", "cache")
    with pytest.raises(ModelError, match="forward of Neither takes neither cache nor past_key_values"):
        cache_argument(Neither())


@pytest.mark.parametrize("how", ["raises", "ignores", "nameless"])
def test_a_model_that_cannot_reuse_keys_runs_whole_sequences_and_says_so(how):
    plain = tiny_models.tiny_gpt2()
    _, capture, exact = prepared(plain)
    with pytest.warns(UserWarning, match="run over whole sequences"):
        _, _, fallback = prepared(break_cache(tiny_models.tiny_gpt2(), how))
    assert (exact.cached, fallback.cached) == (True, False)
    new = changes(capture.activations[HOOK])
    args = SEQUENCES, POSITIONS, new, HORIZON
    (a, valid), (b, also) = exact.ablated(*args), fallback.ablated(*args)
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    assert torch.equal(valid, also)
    assert fallback.counters == {"ablation_full": 7}


def test_the_test_runs_once_and_again_for_longer_sequences():
    """Attention windows and scaled rotary positions show up from some length on."""
    subject, _ = load_subject(break_cache(tiny_models.tiny_gpt2(), "ignores", beyond=12))
    tokens, mask = batch()

    def cached(length):
        before = subject.counters["selftest"]
        short = subject.capture(tokens[:, :length], mask[:, :length], [HOOK])
        return Continuation(subject, short, HOOK).cached, subject.counters["selftest"] - before

    assert cached(8) == (True, 19)  # of the hook point 2 passes over 2 sequences, for `can_resume` 5, and 5 over one
    assert cached(8) == (True, 0)
    assert cached(5) == (True, 0)
    assert cached(1) == (True, 0)
    assert cached(20) == (False, 5)
    assert cached(8) == (False, 0)


def test_rotary_positions_that_scale_with_the_length_are_not_reused():
    """Phi-3's long variants rotate by what is the longest position of a pass: few tokens look like a short text."""
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 12}
    rope |= {"short_factor": [1.0, 1.0], "long_factor": [2.0, 4.0]}
    model = tiny_models.tiny_llama(rope_parameters=rope)
    subject, _, continuation = prepared(model)
    assert not continuation.cached
    short = subject.capture(*(x[:, :10] for x in batch()), [HOOK])
    assert Continuation(load_subject(model)[0], short, HOOK).cached
    logits, _ = continuation.clean(torch.tensor([0]), torch.tensor([1]), 4)
    torch.testing.assert_close(logits, subject.splice(*batch(), {})[:1, 1:5])


def test_what_was_tested_goes_with_the_model():
    subject, _, _ = prepared(tiny_models.tiny_gpt2())
    assert subject in module._TESTED
    before = len(module._TESTED)
    del subject, _
    gc.collect()
    assert len(module._TESTED) < before


def test_one_token_is_enough():
    subject, _ = load_subject(tiny_models.tiny_llama())
    tokens = torch.tensor([[7]])
    capture = subject.capture(tokens, torch.ones_like(tokens, dtype=torch.bool), [HOOK])
    continuation = Continuation(subject, capture, HOOK)
    zero = torch.zeros(1, dtype=torch.int64)
    logits, valid = continuation.clean(zero, zero, 16)
    assert continuation.cached
    assert valid.sum() == 1
    torch.testing.assert_close(logits[:, :1], subject.splice(tokens, capture.attention_mask, {}))


def test_nothing_is_left_behind_and_the_owner_keeps_his_mode():
    model = tiny_models.tiny_gpt2(resid_pdrop=0.5, attn_pdrop=0.5).train()
    _, capture, continuation = prepared(model)
    before = capture.activations[HOOK].clone()
    args = SEQUENCES, POSITIONS, changes(before), HORIZON
    first, again = continuation.ablated(*args)[0], continuation.ablated(*args)[0]
    assert torch.equal(first, again)  # no dropout, and no state kept from the first call
    assert torch.equal(capture.activations[HOOK], before)
    assert all(m.training and not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())
    assert not any("forward" in m.__dict__ for m in model.modules())
    assert not first.requires_grad


def test_half_precision_logits_come_in_float32():
    _, capture, continuation = prepared(tiny_models.tiny_gpt2().to(torch.bfloat16))
    new = changes(capture.activations[HOOK])
    assert continuation.ablated(SEQUENCES, POSITIONS, new, HORIZON)[0].dtype == torch.float32
    assert next(continuation.differences(SEQUENCES, POSITIONS, new, HORIZON))[1].dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s, p, x, t: (s + 3, p, x, t), "sequence 3, which is no real token of the 3 sequences"),
        (lambda s, p, x, t: (s, p + 12, x, t), "change 1 is at position 24"),
        (lambda s, p, x, t: (torch.full_like(s, 2), p, x, t), "change 5 is at position 23 of sequence 2"),
        (lambda s, p, x, t: (s, p - 1, x, t), "position -1"),
        (lambda s, p, x, t: (s, p[1:], x, t), "one sequence and one position each"),
        (lambda s, p, x, t: (s, p, x, 0), "a horizon of 1 or more"),
        (lambda s, p, x, t: (s, p, x[1:], t), r"must be \[7, 16\], one for each change, not \[6, 16\]"),
    ],
)
def test_changes_that_do_not_fit_are_refused(change, says):
    _, capture, continuation = prepared(tiny_models.tiny_gpt2())
    with pytest.raises(ModelError, match=says):
        continuation.ablated(*change(SEQUENCES, POSITIONS, changes(capture.activations[HOOK]), HORIZON))


def test_a_capture_of_something_else_is_refused():
    subject, capture, _ = prepared(tiny_models.tiny_gpt2())
    with pytest.raises(ModelError, match=r"needs its activations .* not none; add it to the captured hooks"):
        Continuation(subject, capture, "blocks.0.hook_resid_post")
    inner = subject.capture(*batch(), ["blocks.1.hook_mlp_out"])
    bare = Capture(inner.tokens, inner.attention_mask, inner.activations)
    with pytest.raises(ModelError, match="needs a capture of it"):
        Continuation(subject, bare, "blocks.1.hook_mlp_out")
