"""A module with dense encode and decode becomes a coder with the same numbers, or one clear sentence."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sae_bench.errors import CoderError
from sae_bench.saes import conformance
from sae_bench.saes.protocol import CoderInfo
from sae_bench.saes.wrap import DenseCoder, as_coder, content_sha256
from tests.builders.foreign_saes import Dense, wrapped
from tests.builders.tiny_saes import HOOK, LATENTS, WIDTH, activations, tiny_coder


def info_of(n: int, d_in: int = WIDTH, d_out: int | None = None) -> CoderInfo:
    return CoderInfo("dense", n, d_in, d_out or d_in, (HOOK,), (HOOK,), signed=True)


def test_a_dense_module_is_wrapped_with_one_warning_and_keeps_its_numbers():
    module = Dense().train()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        coder = as_coder(module, hook=HOOK, d_in=WIDTH)
        x = activations(50)
        codes = coder.encode(x)
        out = coder.decode(codes)
    assert [str(w.message) for w in seen if "is wrapped" in str(w.message)] == [
        "tests.builders.foreign_saes.Dense is wrapped: its dense latents cost memory and time that sparse codes do not"
    ]
    with torch.no_grad():
        torch.testing.assert_close(codes.dense(), module.encode(x))
        torch.testing.assert_close(out, module.decode(module.encode(x)))
    assert module.training, "the module of a user who goes on training is left as it was"
    assert not codes.values.requires_grad
    assert not out.requires_grad
    assert conformance.check(coder, x) == []
    assert (coder.info.n_latents, coder.info.d_in, coder.info.d_out, coder.info.name) == (
        LATENTS,
        WIDTH,
        WIDTH,
        "tests.builders.foreign_saes.Dense",
    )


def test_a_coder_that_conforms_is_not_wrapped():
    coder = tiny_coder()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert as_coder(coder) is coder


def test_decoder_rows_are_those_of_the_decoder_without_the_bias():
    module = Dense()
    coder = wrapped(module)
    latents = torch.tensor([4, 0, 4, LATENTS - 1])
    torch.testing.assert_close(coder.decoder_rows(latents), module.dec.detach()[latents], rtol=1e-4, atol=1e-5)
    assert coder.decoder_rows(latents[:0]).shape == (0, WIDTH)


@pytest.mark.parametrize("at_once", [1, 3, 7, 1000])
def test_tokens_are_taken_in_groups_without_changing_anything(at_once):
    module, x = Dense(), activations(20)
    coder = DenseCoder(module, info_of(LATENTS), tokens_at_once=at_once)
    with torch.no_grad():
        latents = module.encode(x)
        out, module._largest = module.decode(latents), 0
    codes = coder.encode(x)
    torch.testing.assert_close(codes.dense(), latents)
    torch.testing.assert_close(coder.decode(codes), out)
    rows = coder.decoder_rows(torch.arange(LATENTS))
    torch.testing.assert_close(rows, module.dec.detach(), rtol=1e-4, atol=1e-5)
    assert module._largest <= at_once + 1  # one more for the latent-free token that directions are measured from


def test_a_wide_dictionary_is_taken_in_small_groups():
    n = 1 << 20
    module = Dense(n, d_in=2)
    coder = DenseCoder(module, info_of(n, 2))
    codes = coder.encode(activations(40, 2))
    coder.decode(codes)
    assert module._largest <= 16
    assert codes.n_tokens == 40


def test_an_empty_batch_never_reaches_the_module():
    coder = wrapped(Dense())
    codes = coder.encode(torch.zeros(0, WIDTH))
    assert (codes.n_tokens, len(codes.indices), codes.n_latents) == (0, 0, LATENTS)
    assert coder.decode(codes).shape == (0, WIDTH)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_module_computes_in_its_own_type(dtype):
    module = Dense().to(dtype)
    coder, x = wrapped(module), activations(20)
    with torch.no_grad():
        latents = module.encode(x.to(dtype))
        assert torch.equal(coder.encode(x).dense(), latents)
        assert torch.equal(coder.decode(coder.encode(x)), module.decode(latents))


def test_codes_in_another_type_can_be_decoded():
    module = Dense().bfloat16()
    coder = wrapped(module)
    codes = coder.encode(activations(4))
    longer = codes._replace(values=codes.values.double())
    assert torch.equal(coder.decode(longer), coder.decode(codes))


def test_a_module_with_buffers_only_and_one_with_no_tensors_are_wrapped():
    class Buffered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("W", torch.eye(WIDTH, dtype=torch.float64))

        def encode(self, x: Tensor) -> Tensor:
            return (x @ self.W).relu()

        def decode(self, latents: Tensor) -> Tensor:
            return latents @ self.W

    assert wrapped(Buffered()).encode(activations(3)).values.dtype == torch.float64
    plain = SimpleNamespace(encode=lambda x: x.relu(), decode=lambda z: z)
    coder = wrapped(plain)
    assert torch.equal(coder.encode(activations(3)).dense(), activations(3).relu())


def test_parameters_on_meta_are_refused():
    with torch.device("meta"):
        module = Dense.__new__(Dense)
        nn.Module.__init__(module)
        module.enc = nn.Parameter(torch.zeros(WIDTH, LATENTS))
    with pytest.raises(CoderError, match="meta device, without values"):
        as_coder(module, hook=HOOK, d_in=WIDTH)


def namespace(encode: Any, decode: Any, **more: Any) -> Any:
    return SimpleNamespace(encode=encode, decode=decode, **more)


def raising(x: Tensor) -> Tensor:
    raise KeyError("W_enc")


WRONG = {
    "encode returns a tuple": (namespace(lambda x: (x, x), lambda z: z), "encode must turn"),
    "encode drops the tokens": (namespace(lambda x: x.sum(0), lambda z: z), "encode must turn"),
    "encode turns the table": (namespace(lambda x: x.T, lambda z: z.T), "encode must turn"),
    "decode returns nothing": (namespace(lambda x: x, lambda z: None), "decode must turn"),
    "decode returns a vector": (namespace(lambda x: x, lambda z: z[0]), "decode must turn"),
    "decode of another width": (namespace(lambda x: x, lambda z: z[:, :5]), "turns 16 numbers into 5"),
    "encode raises": (namespace(raising, lambda z: z), "fails on two tokens of 16 zeros: KeyError: 'W_enc'"),
    "width is wrong": (Dense(d_in=WIDTH + 1), "fails on two tokens of 16 zeros: RuntimeError"),
    "no methods": (nn.Linear(2, 2), "encode and decode methods, but Linear has not"),
    "a class": (Dense, "the class Dense is no object"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_sae_is_refused_in_one_sentence(what):
    module, expected = WRONG[what]
    with pytest.raises(CoderError) as error:
        as_coder(module, hook=HOOK, d_in=WIDTH)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_shapes_that_go_wrong_later_are_refused_too():
    batchy = namespace(lambda x: x if len(x) == 2 else x[:1], lambda z: z if len(z) == 2 else z[:, :1])
    coder = wrapped(batchy)
    with pytest.raises(CoderError, match=r"encode of x \[5, 16\] must return a tensor of shape \[5, 16\]"):
        coder.encode(activations(5))
    with pytest.raises(CoderError, match=r"decode must return a tensor of shape \[5, 16\], but it returned \[5, 1\]"):
        coder.decode(tiny_coder(n_latents=WIDTH).encode(activations(5)))


def test_hook_and_width_are_found_in_the_configuration():
    config = SimpleNamespace(d_in=WIDTH, metadata=SimpleNamespace(hook_name="blocks.0.hook_resid_pre"))
    module = namespace(lambda x: x.relu(), lambda z: z, cfg=config)
    coder = wrapped(module, hook=None, d_in=None)
    assert (coder.info.hooks_in, coder.info.d_in) == (("blocks.0.hook_resid_pre",), WIDTH)
    module = namespace(lambda x: x.relu(), lambda z: z, W_dec=torch.zeros(5, WIDTH))
    assert wrapped(module, d_in=None).info.d_in == WIDTH
    assert wrapped(module, d_in=None, name="mine").info.name == "mine"


def test_a_module_that_does_not_say_where_it_reads_or_how_wide_is_refused():
    module = namespace(lambda x: x, lambda z: z)
    with pytest.raises(CoderError, match="does not say where it reads the model"):
        as_coder(module, d_in=WIDTH)
    with pytest.raises(CoderError, match="does not say how wide its input is"):
        as_coder(module, hook=HOOK)


def test_a_dense_transcoder_needs_its_second_hook():
    module = Dense(d_out=7)
    with pytest.raises(CoderError, match="turns 16 numbers into 7"):
        as_coder(module, hook=HOOK, d_in=WIDTH)
    coder = wrapped(module, hook_out="blocks.1.hook_mlp_out")
    assert coder.info.is_transcoder
    assert coder.info.d_out == 7
    assert conformance.check(coder, activations(5)) == []


def test_the_digest_tells_saes_apart_by_what_they_do():
    same, again = tiny_coder("relu"), tiny_coder("relu")
    assert content_sha256(same) == content_sha256(again)
    assert content_sha256(same) != content_sha256(tiny_coder("relu", seed=1))
    assert content_sha256(same) != content_sha256(tiny_coder("relu", hook="blocks.0.hook_resid_post"))
    plain = tiny_coder("relu", apply_b_dec_to_input=False)
    moved = tiny_coder("relu", apply_b_dec_to_input=False)
    moved.weights.b_dec.add_(1)  # changes neither codes nor directions
    assert content_sha256(plain) != content_sha256(moved)
    assert content_sha256(tiny_coder("relu", n_latents=0)) == content_sha256(tiny_coder("relu", n_latents=0))


def test_the_digest_leaves_the_global_random_state_alone():
    state = torch.get_rng_state()
    content_sha256(tiny_coder("topk"))
    assert torch.equal(state, torch.get_rng_state())
