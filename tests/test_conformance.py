"""The conformance test passes honest coders and names each way of breaking the contract."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from sae_bench.saes.conformance import check
from sae_bench.saes.protocol import Codes, SparseCoder, codes_from_dense
from tests.builders.tiny_saes import ACTIVATIONS, LATENTS, WIDTH, activations, tiny_coder


class Altered:
    """An honest coder of which one method is replaced."""

    def __init__(self, activation: str = "topk", **methods: Callable[..., Any]) -> None:
        self.inner = tiny_coder(activation)
        self.info = self.inner.info
        self.methods = methods

    def encode(self, x: Tensor) -> Any:
        return self.methods.get("encode", SparseCoderMethods.encode)(self.inner, x)

    def decode(self, codes: Codes, x: Tensor | None = None) -> Tensor:
        return self.methods.get("decode", SparseCoderMethods.decode)(self.inner, codes, x)

    def decoder_rows(self, latents: Tensor) -> Tensor:
        return self.methods.get("decoder_rows", SparseCoderMethods.decoder_rows)(self.inner, latents)


class SparseCoderMethods:
    """What an honest coder does."""

    @staticmethod
    def encode(c: SparseCoder, x: Tensor) -> Codes:
        return c.encode(x)

    @staticmethod
    def decode(c: SparseCoder, codes: Codes, x: Tensor | None) -> Tensor:
        return c.decode(codes, x)

    @staticmethod
    def decoder_rows(c: SparseCoder, latents: Tensor) -> Tensor:
        return c.decoder_rows(latents)


def problems(**methods: Callable[..., Any]) -> str:
    return "; ".join(check(Altered(**methods), activations(40)))


def batch_top_k(c: Any, x: Tensor) -> Codes:
    """The 5 * tokens largest pre-activations of the batch."""
    w = c.weights
    pre = ((x - w.b_dec) @ w.W_enc + w.b_enc).relu()
    cut = pre.flatten().topk(5 * len(x)).values[-1]
    return codes_from_dense(pre * (pre >= cut))


def changed(**fields: Callable[[Codes], Any]) -> Callable[[Any, Tensor], Codes]:
    """An encode whose codes are altered in some fields."""

    def encode(c: Any, x: Tensor) -> Codes:
        codes = c.encode(x)
        return codes._replace(**{name: change(codes) for name, change in fields.items()})

    return encode


def at(tensor: Tensor, place: int, value: float) -> Tensor:
    out = tensor.clone()
    out[place] = value
    return out


def with_gradient(c: Any, x: Tensor) -> Codes:
    codes = c.encode(x)
    return codes._replace(values=codes.values * torch.ones((), requires_grad=True))


def normalised_over_the_batch(c: Any, x: Tensor) -> Codes:
    return c.encode((x - x.mean(0)) / (x.std(0, correction=0) + 1e-3))


def noisy(c: Any, x: Tensor) -> Codes:
    torch.rand(1)
    return c.encode(x)


def duplicated(c: Any, x: Tensor) -> Codes:
    codes = c.encode(x)
    return Codes(codes.indptr * 2, codes.indices.repeat_interleave(2), codes.values.repeat_interleave(2), LATENTS)


BROKEN_ENCODE = {
    "batch-level top-k": (batch_top_k, "rows are not independent"),
    "statistics of the batch": (normalised_over_the_batch, "rows are not independent"),
    "global random numbers": (noisy, "encode uses the global random state"),
    "gradient": (with_gradient, "encode returns values that carry a gradient"),
    "dense latents": (lambda c, x: c.encode(x).dense(), "encode returns a Tensor, not Codes"),
    "latents beyond the dictionary": (changed(indices=lambda c: at(c.indices, 3, LATENTS)), "outside the dictionary"),
    "negative latents": (changed(indices=lambda c: at(c.indices, 0, -1)), "outside the dictionary"),
    "zeros": (changed(values=lambda c: at(c.values, 2, 0.0)), "values are zero or not finite"),
    "NaN": (changed(values=lambda c: at(c.values, 2, float("nan"))), "values are zero or not finite"),
    "negative values": (changed(values=lambda c: at(c.values, 2, -1.0)), "info.signed is false"),
    "rows that run backwards": (changed(indptr=lambda c: at(c.indptr, 2, 60)), "indptr does not run"),
    "rows that end early": (changed(indptr=lambda c: at(c.indptr, -1, int(c.indptr[-1]) - 1)), "indptr does not run"),
    "rows that begin late": (changed(indptr=lambda c: at(c.indptr, 0, 1)), "indptr does not run"),
    "one row too few": (changed(indptr=lambda c: c.indptr[:-1]), "encode returns 39 rows of 48 latents"),
    "another dictionary": (changed(n_latents=lambda c: 47), "encode returns 40 rows of 47 latents"),
    "fewer values": (changed(values=lambda c: c.values[:-1]), "indices and values differ in length"),
    "short integers": (changed(indices=lambda c: c.indices.int()), "not int64"),
    "a latent twice": (duplicated, "a latent appears twice in a token"),
}


@pytest.mark.parametrize("what", BROKEN_ENCODE)
def test_a_broken_encode_is_named(what):
    encode, expected = BROKEN_ENCODE[what]
    assert expected in problems(encode=encode)


def decode_with_gradient(c: Any, codes: Codes, x: Tensor | None) -> Tensor:
    return c.decode(codes, x) * torch.ones((), requires_grad=True)


def decode_with_noise(c: Any, codes: Codes, x: Tensor | None) -> Tensor:
    torch.rand(1)
    return c.decode(codes, x)


BROKEN_DECODE = {
    "relu after the decoder": (lambda c, z, x: c.decode(z, x).relu(), "decode is not affine"),
    "homogeneous but not additive": (lambda c, z, x: (c.decode(z, x) - c.weights.b_dec).abs(), "decode is not affine"),
    "a square": (lambda c, z, x: c.decode(z, x) ** 2, "decode is not affine"),
    "a norm of one": (lambda c, z, x: torch.nn.functional.normalize(c.decode(z, x), dim=1), "decode is not affine"),
    "squared codes": (lambda c, z, x: c.decode(z._replace(values=z.values**2), x), "decode is not affine"),
    "another width": (lambda c, z, x: c.decode(z, x)[:, 1:], "decode returns [40, 15], not [40, 16]"),
    "a token less": (lambda c, z, x: c.decode(z, x)[1:], "decode returns [39, 16]"),
    "infinite": (lambda c, z, x: c.decode(z, x) / 0, "not finite"),
    "gradient": (decode_with_gradient, "decode returns a tensor that carries a gradient"),
    "global random numbers": (decode_with_noise, "decode uses the global random state"),
}


@pytest.mark.parametrize("what", BROKEN_DECODE)
def test_a_broken_decode_is_named(what):
    decode, expected = BROKEN_DECODE[what]
    assert expected in problems(decode=decode)


BROKEN_ROWS = {
    "of the encoder": lambda c, i: c.weights.W_enc.T[i],
    "normalised": lambda c, i: torch.nn.functional.normalize(c.decoder_rows(i), dim=1),
    "in another order": lambda c, i: c.decoder_rows((i + 1) % LATENTS),
    "with the bias": lambda c, i: c.decoder_rows(i) + c.weights.b_dec,
    "as columns": lambda c, i: c.decoder_rows(i).T,
    "one row for all": lambda c, i: c.decoder_rows(i)[:1],
    "wrong for high latents only": lambda c, i: c.decoder_rows(i) * (1 + (i > 30)).unsqueeze(1),
    "not finite": lambda c, i: c.decoder_rows(i) / 0,
}


@pytest.mark.parametrize("what", BROKEN_ROWS)
def test_broken_directions_are_named(what):
    assert problems(decoder_rows=BROKEN_ROWS[what]) == "decoder_rows disagrees with decode"


def test_directions_of_latents_that_never_fired_are_looked_at_too():
    coder = tiny_coder("relu")
    coder.weights.b_enc[:] = -1e6
    altered = Altered("relu", decoder_rows=lambda c, i: 2 * c.decoder_rows(i))
    altered.inner = coder
    assert check(altered, activations(10)) == ["decoder_rows disagrees with decode"]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tokens", [0, 1, 3, 100])
def test_healthy_coders_pass(activation, dtype, tokens):
    coder = tiny_coder(activation, dtype=dtype)
    assert check(coder, activations(tokens, dtype=dtype)) == []
    assert check(Altered(activation), activations(tokens)) == []


def test_a_large_bias_is_no_reason_to_fail():
    """Massive activations: rounding of a bias of 10000 must not look like a decoder that is not affine."""
    coder = tiny_coder("topk", apply_b_dec_to_input=False)
    coder.weights.b_dec[2] = 1e4
    assert check(coder, activations(40)) == []


def test_gradients_are_seen_even_where_the_caller_has_switched_them_off():
    with torch.no_grad():
        assert "carry a gradient" in problems(encode=with_gradient)


def test_the_check_itself_uses_no_random_numbers():
    state = torch.get_rng_state()
    assert check(tiny_coder("gated"), activations(10)) == []
    assert torch.equal(state, torch.get_rng_state())
    assert tiny_coder().info.d_in == WIDTH
