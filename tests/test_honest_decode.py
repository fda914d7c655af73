"""No score without a feature: what decode is given, what it may not remember, and when an SAE is told to be tied."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sae_bench import evaluate
from sae_bench.board import collect, columns, data, latex, layout, text
from sae_bench.cli.main import main
from sae_bench.errors import CoderError
from sae_bench.registry import data_folder, tasks
from sae_bench.saes.conformance import check
from sae_bench.saes.decoding import MEMORY, decode, skip_share
from sae_bench.saes.load import load_sae
from sae_bench.saes.protocol import CoderInfo, Codes, TokenScale, codes_from_dense
from sae_bench.saes.weights import Weights
from sae_bench.settings import Told
from tests.builders.marks import slow_but
from tests.builders.tiny_models import WIDTH, tiny_gpt2
from tests.builders.tiny_saes import activations, coder_of, tiny_coder, tiny_rule, tiny_weights, write_native
from tests.builders.token_rows import HOOK, token_rows

FIDELITY = "reconstruction,loss_recovered"


class Coder:
    """A coder with the identity as its dictionary, all latents active: honest, and no feature either."""

    def __init__(self, n_latents: int = WIDTH, **info: Any) -> None:
        fields: dict[str, Any] = {"hooks_in": (HOOK,), "hooks_out": (HOOK,), "signed": True}
        self.info = CoderInfo(type(self).__name__, n_latents, WIDTH, WIDTH, **(fields | info))

    def encode(self, x: Tensor) -> Codes:
        return codes_from_dense(x.clone())

    def decode(self, codes: Codes, x: Any = None) -> Any:
        return codes.dense()

    def decoder_rows(self, latents: Tensor) -> Tensor:
        return torch.eye(WIDTH, dtype=torch.float64)[latents]


class Returns(Coder):
    """Decode returns what it is given of the activation."""

    def decode(self, codes: Codes, x: Any = None) -> Any:
        return x


class Keeps(Coder):
    """Encode keeps what it reads, and decode returns it where there are as many tokens."""

    def encode(self, x: Tensor) -> Codes:
        self.kept = x
        return super().encode(x)

    def decode(self, codes: Codes, x: Any = None) -> Any:
        return self.kept.clone() if codes.n_tokens == len(self.kept) else super().decode(codes) * 0


class KeepsByCodes(Coder):
    """The same for the very object that encode made, and the mean for any other."""

    def encode(self, x: Tensor) -> Codes:
        self.kept, self.made = x, super().encode(x)
        return self.made

    def decode(self, codes: Codes, x: Any = None) -> Any:
        return self.kept.clone() if codes.values is self.made.values else super().decode(codes) * 0


class ByAttribute(Coder):
    """The activations travel as an attribute of the values."""

    def encode(self, x: Tensor) -> Codes:
        codes = super().encode(x)
        codes.values.kept = x  # type: ignore[attr-defined]
        return codes

    def decode(self, codes: Codes, x: Any = None) -> Any:
        kept = getattr(codes.values, "kept", None)
        return super().decode(codes) * 0 if kept is None else kept.clone()


class ByOrder(Coder):
    """What the first entry of a token is decides whether all is given back."""

    def decode(self, codes: Codes, x: Any = None) -> Any:
        first = codes.indices[codes.indptr[:-1]] == 0
        return codes.dense() * first.unsqueeze(1)


class Random(Coder):
    """Decode draws numbers."""

    def decode(self, codes: Codes, x: Any = None) -> Any:
        return torch.randn(codes.n_tokens, WIDTH, dtype=codes.values.dtype)


class ByMemo(Coder):
    """Every code that was ever made is known, with the activation that it came from."""

    def __init__(self, **info: Any) -> None:
        super().__init__(**info)
        self.memo: dict[bytes, Tensor] = {}

    def encode(self, x: Tensor) -> Codes:
        self.memo |= {self._key(row): row for row in x}
        return super().encode(x)

    def decode(self, codes: Codes, x: Any = None) -> Any:
        dense = super().decode(codes)
        return torch.stack([self.memo.get(self._key(row), row * 0) for row in dense])

    @staticmethod
    def _key(row: Tensor) -> bytes:
        return row.numpy().tobytes()


class Constant(Coder):
    """Decode gives the same whatever is active."""

    def decode(self, codes: Codes, x: Any = None) -> Any:
        return torch.ones(codes.n_tokens, WIDTH, dtype=codes.values.dtype)


class Blind(Coder):
    """Decode adds up values, whichever latents they are of."""

    def decode(self, codes: Codes, x: Any = None) -> Any:
        return codes.dense().sum(1, keepdim=True).expand(-1, WIDTH) / WIDTH


class Module(torch.nn.Module):
    """A dense module of the user's own that keeps what it has read."""

    def encode(self, x: Tensor) -> Tensor:
        self.kept = x
        return x.clone()

    def decode(self, latents: Tensor) -> Tensor:
        return self.kept.clone() if len(self.kept) == len(latents) else latents * 0


def measured(sae: Any, **settings: Any) -> dict[str, Any]:
    """Results by task, on the tiny model in float64."""
    given = {"model": tiny_gpt2().double(), "data": token_rows(), "dtype": "float64", "resamples": 50}
    given |= {"tasks": FIDELITY, "controls": "permuted"}
    return {result.task: result for result in evaluate(sae, **(given | settings))}


@pytest.mark.parametrize("coder", [Returns(), Returns(decode_needs="scale")], ids=["nothing", "scale"])
def test_decode_that_returns_its_argument_has_nothing_to_return(coder: Coder) -> None:
    for result in measured(coder).values():
        assert result.status == "error"
        assert "decode returns" in str(result.reason)
        assert not result.metrics
    assert any("decode returns" in problem for problem in check(coder, activations(40, dtype=torch.float64)))


REMEMBERING: list[Callable[[], Any]] = [Keeps, KeepsByCodes, ByAttribute, ByOrder, Random]


@pytest.mark.parametrize("make", REMEMBERING)
@pytest.mark.parametrize("controls", slow_but(1, ["permuted", "none"]))
def test_a_decode_that_does_not_follow_from_its_codes_is_refused(make: Callable[[], Any], controls: str) -> None:
    for result in measured(make(), controls=controls).values():
        assert (result.status, result.metrics) == ("error", {})
        assert MEMORY in str(result.reason)
    assert MEMORY in "; ".join(check(make(), activations(40, dtype=torch.float64)))


@pytest.mark.filterwarnings("ignore:.*is wrapped")
def test_a_module_that_keeps_what_it_read_is_refused(tmp_path: Path) -> None:
    for result in measured(Module().double(), hook_in=HOOK).values():
        assert (result.status, result.metrics) == ("error", {})
        assert MEMORY in str(result.reason)


def test_a_memo_of_codes_is_not_affine_and_that_stands_beside_its_figures() -> None:
    coder = ByMemo()
    with pytest.warns(UserWarning, match="decode is not affine in the codes"):
        found = measured(coder)
    for result in found.values():
        assert any("decode is not affine in the codes" in caution for caution in result.cautions)
    assert "decode is not affine in the codes" in check(ByMemo(), activations(40, dtype=torch.float64))


@pytest.mark.parametrize("make", [Constant, Blind])
def test_a_tie_with_the_permuted_control_is_told_by_result_table_and_board(
    make: Callable[[], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.warns(UserWarning, match=f"reconstruction of {make.__name__}: fvu says nothing about the latents"):
        found = measured(make(), out=tmp_path)
    for task, figure in (("reconstruction", "fvu"), ("loss_recovered", "kl")):
        assert any(f"{figure} says nothing about the latents" in caution for caution in found[task].cautions)
    assert main(["show", str(tmp_path)]) == 0
    assert "reconstruction: fvu says nothing about the latents" in capsys.readouterr().out
    read = collect.collect(tmp_path, tasks())
    wanted = columns.read_columns(data_folder("leaderboard") / "columns.toml", read.specs)
    board = layout.make(read, wanted)
    drawn = [text.as_text(board), text.as_github(board), latex.as_latex(board), data.as_json(board)]
    if importlib.util.find_spec("vl_convert"):
        from sae_bench.board.page import as_html

        drawn.append(as_html(board, read, wanted)[0])
    for one in drawn:
        assert "says nothing about the latents" in one
        assert f"({make.__name__})" in one


def test_nothing_is_said_of_an_sae_whose_latents_do_it() -> None:
    """The identity as a dictionary is legal: L0 says what it is."""
    found = measured(Coder())
    assert [result.cautions for result in found.values()] == [(), ()]
    assert found["reconstruction"].metrics["fvu"].value == 0


def test_an_sae_of_one_latent_has_no_other_order() -> None:
    """With one latent the control would be the SAE itself, and tie it."""
    one = tiny_coder("relu", n_latents=1, dtype=torch.float64, hook=HOOK)
    assert all(not result.cautions and "permuted" not in result.controls for result in measured(one).values())


def test_what_decode_needs_is_said_in_words() -> None:
    with pytest.raises(CoderError, match=r'decode_needs_x=True does not say .* decode_needs="scale"'):
        Coder(decode_needs_x=True)
    with pytest.raises(CoderError, match="decode_needs must be one of nothing, scale, skip, but it is 'x'"):
        Coder(decode_needs="x")


def skipping(**info: Any) -> Any:
    weights = dataclasses.replace(tiny_weights(), W_skip=torch.eye(WIDTH))
    return coder_of(weights, tiny_rule(apply_b_dec_to_input=False), **info)


def test_a_skip_from_a_hook_point_to_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CoderError, match=f"skip connection to {HOOK}, which it reads"):
        Coder(decode_needs="skip")
    with pytest.raises(CoderError, match="skip connection to"):
        skipping()
    honest = skipping(hooks_out=("blocks.1.hook_mlp_out",))
    with pytest.raises(CoderError, match="skip connection to"):
        dataclasses.replace(honest.info, hooks_out=honest.info.hooks_in)
    path = write_native(honest, tmp_path / "skip")
    assert load_sae(path).info.decode_needs == "skip"
    with pytest.raises(CoderError, match="skip connection to"):
        load_sae(path, told=Told(hook_out=honest.info.hooks_in[0]))
    assert main(["inspect", str(path), "--hook-out", honest.info.hooks_in[0]]) == 2


@pytest.mark.parametrize(
    ("hook_in", "hook_out"),
    [
        ("blocks.0.hook_resid_post", "blocks.1.hook_resid_pre"),
        ("transformer.h.0:out", "blocks.0.hook_resid_post"),
        ("blocks.0.hook_resid_post", "blocks.0.hook_out"),
        ("blocks.0.ln2.hook_in", "blocks.0.hook_resid_mid"),
    ],
)
def test_two_names_of_one_place_are_one_place(hook_in: str, hook_out: str) -> None:
    coder = skipping(hooks_in=(hook_in,), hooks_out=(hook_out,))
    try:
        (reason,) = {str(result.reason) for result in measured(coder, tasks="reconstruction", dtype="auto").values()}
    except CoderError as error:
        reason = str(error)
    assert f"skip connection to {hook_out}, which is the same as {hook_in}" in reason


def test_a_skip_between_two_places_stays_and_its_share_stands_in_the_result() -> None:
    hooks = {"hooks_in": ("blocks.0.hook_resid_post",), "hooks_out": ("blocks.0.hook_mlp_out",)}
    with pytest.warns(UserWarning, match="the skip connection carries"):
        found = measured(skipping(**hooks), tasks="reconstruction")["reconstruction"]
    assert found.status == "ok"
    assert found.details["skip_share"].keys() == {"value", "calibration_tokens"}


def test_the_share_of_a_skip_is_that_of_the_variance_of_the_reconstruction() -> None:
    coder, x = skipping(hooks_out=("blocks.1.hook_mlp_out",)), activations(50)
    codes = coder.encode(x)
    skipped, whole = x.double().numpy(), coder.decode(codes, x).double().numpy()
    skipped, whole = skipped - skipped.mean(0), whole - whole.mean(0)
    assert skip_share(coder, x) == pytest.approx((skipped * whole).sum() / (whole**2).sum(), rel=1e-6)
    assert skip_share(tiny_coder(), x) is None


def test_a_bias_is_no_share_of_a_skip() -> None:
    weights = Weights(torch.zeros(WIDTH, 2), torch.zeros(2, WIDTH), torch.ones(WIDTH), W_skip=torch.zeros(WIDTH, WIDTH))
    coder = coder_of(weights, tiny_rule(apply_b_dec_to_input=False), hooks_out=("blocks.1.hook_mlp_out",))
    assert skip_share(coder, activations(50)) is None, "a reconstruction that does not vary has no shares"


@pytest.mark.parametrize("normalise", ["layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("given", [torch.bfloat16, torch.float32, torch.float64])
def test_the_scale_of_a_token_does_what_all_of_it_did(normalise: str, dtype: torch.dtype, given: torch.dtype) -> None:
    coder, x = tiny_coder("topk", normalise=normalise, dtype=dtype), activations(40).to(given)
    codes = coder.encode(x)
    # as it was computed when decode was given the activations
    out, u = codes.dense() @ coder.weights.W_dec + coder.weights.b_dec, x.to(dtype)
    back = out * u.std(1, keepdim=True) + u.mean(1, keepdim=True)
    back = back if normalise == "layer_norm" else out * (u.norm(dim=1, keepdim=True) / WIDTH**0.5)
    torch.testing.assert_close(decode(coder, codes, x), back, rtol=1e-5, atol=1e-5)
    if given == dtype or (given == torch.bfloat16 and dtype == torch.float32):
        assert torch.equal(decode(coder, codes, x), coder.decode(codes, x)), "to the bit"


def test_the_scale_says_nothing_of_the_direction() -> None:
    x = activations(20, dtype=torch.float64)
    turned = x[:, torch.randperm(WIDTH, generator=torch.Generator().manual_seed(0))]
    for one, other in zip(TokenScale.of(x), TokenScale.of(turned), strict=True):
        assert one.shape == (20, 1)
        torch.testing.assert_close(one, other)


def test_a_coder_that_is_a_module_is_asked_in_evaluation_mode() -> None:
    class Drops(torch.nn.Module, Coder):
        def __init__(self) -> None:
            torch.nn.Module.__init__(self)
            Coder.__init__(self)
            self.drop = torch.nn.Dropout(0.5)

        def encode(self, x: Tensor) -> Codes:
            return codes_from_dense(self.drop(x))

    sae = Drops().train()
    assert measured(sae)["reconstruction"].metrics["fvu"].value == 0
    assert sae.training, "the user's own object stays as it is"


def test_a_factory_that_does_not_say_what_decode_needs_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a_coder_of_old.py").write_text(
        "from sae_bench import CoderInfo\n"
        "def make():\n"
        "    return CoderInfo('old', 4, 4, 4, ('blocks.0.hook_resid_post',), ('blocks.0.hook_resid_post',),\n"
        "                     decode_needs_x=True)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["inspect", "a_coder_of_old:make"]) == 2
    said = capsys.readouterr().err
    assert 'say decode_needs="scale"' in said
    assert said.count("\n") == 1


def test_inspect_tells_what_a_skip_carries_and_refuses_one_between_two_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    d = 128  # of the demo's model
    weights = dataclasses.replace(tiny_weights(d_in=d), W_skip=torch.eye(d))
    honest = {"hooks_in": ("blocks.1.hook_resid_post",), "hooks_out": ("blocks.2.hook_resid_post",)}
    path = write_native(coder_of(weights, tiny_rule(apply_b_dec_to_input=False), **honest), tmp_path / "skip")
    argv = ["inspect", str(path), "--model", "demo", "--tokens", "64"]
    main(argv)
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("skip connection:"))
    assert re.fullmatch(r"skip connection: +carries [\d.]+% of the variance of the reconstruction, .*", line)
    assert main([*argv, "--hook-in", "blocks.3.hook_resid_pre"]) == 1
    assert "skip connection to blocks.2.hook_resid_post, which is the same as" in capsys.readouterr().out
