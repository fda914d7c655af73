"""``sae-bench inspect`` as a user meets it: what an SAE is, a preflight, exit codes, JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sae_bench import demo
from sae_bench.saes.linear import LinearCoder
from sae_bench.saes.load import load_sae
from tests.builders.marks import slow_but
from tests.builders.said import complaints
from tests.builders.tiny_saes import tiny_coder, write_native, write_saelens
from tests.conftest import Run

FEW = ("--tokens", 160)


def strict(text: str) -> Any:
    """JSON without NaN and infinity."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_a_healthy_sae_is_described_and_measured(cli: Run, tmp_path: Path) -> None:
    code, out, err = cli("inspect", "demo/topk_k32", *FEW)
    assert (code, complaints(err)) == (0, [])
    for wanted in ("1024", demo.HOOK, "topk", "breaks the contract: none", "FVU: ", "declared: 32", "findings: "):
        assert wanted in " ".join(out.split()), wanted
    assert not list(tmp_path.iterdir()), "nothing is written"


def test_a_wrong_hook_point_is_named_with_the_flag_that_settles_it(cli: Run) -> None:
    code, out, err = cli("inspect", "demo/topk_k32", "--hook-in", "blocks.1.hook_resid_post", *FEW)
    assert code == 1
    assert "demo/topk_k32 may not be evaluated as trained" in err
    assert f"likely: it reads {demo.HOOK}: FVU" in " ".join(out.split())
    assert f"to settle: --hook-in {demo.HOOK}" in out


@pytest.mark.parametrize(
    ("sae", "told", "wanted"),
    slow_but(
        3,
        [
            ("demo/topk_k32", ("--norm-factor", 8), "--norm-factor 1"),
            ("demo/topk_k32", ("--k", 4), "--k 32"),
            ("demo/jumprelu", ("--threshold", 0), "the threshold was never set"),
            ("demo/topk_k32", ("--bos", "no"), "--bos yes"),
            ("demo/relu", ("--mask", "none"), "position 0 decides the figures"),
        ],
    ),
)
def test_what_a_user_tells_wrongly_is_found(cli: Run, sae: str, told: tuple[Any, ...], wanted: str) -> None:
    code, out, _ = cli("inspect", sae, *told, *FEW)
    assert code == 1
    assert wanted in out


def test_json_holds_every_number(cli: Run) -> None:
    code, out, _ = cli("inspect", "demo/relu", "--hook-in", "blocks.3.hook_resid_post", "--json", *FEW)
    assert code == 1
    (found,) = strict(out)["saes"]
    assert found["name"] == "demo/relu"
    assert found["breaks_the_contract"] == []
    preflight = found["preflight"]
    assert preflight["healthy"] is False
    assert set(preflight["measured"]) >= {"fvu", "l0", "slope", "tokens", "variance_share_of_position_0"}
    assert preflight["findings"][0]["cause"] == "other_place"
    assert len(preflight["tried"]) > 15
    assert preflight["tried"][0]["gain"] == max(tried["gain"] for tried in preflight["tried"])


def test_several_saes_are_told_apart(cli: Run) -> None:
    code, out, _ = cli("inspect", "demo/topk_*", "demo/gated", *FEW)
    assert code == 0
    names = [line.split()[-1] for line in out.splitlines() if line.startswith("name:")]
    assert names == ["demo/topk_k16", "demo/topk_k32", "demo/topk_k32_undertrained", "demo/gated"]
    assert out.count("findings:") == 4


def test_without_a_model_the_sae_is_described_all_the_same(cli: Run, tmp_path: Path) -> None:
    write_native(tiny_coder("gated"), tmp_path / "sae")
    code, out, _ = cli("inspect", "sae")
    assert code == 0
    assert "give --model and --data" in out
    code, out, _ = cli("inspect", "sae", "--json")
    assert strict(out)["saes"][0]["preflight"] is None


def test_the_folder_of_a_model_that_the_sae_names_is_used_once_there_is_text(cli: Run, tmp_path: Path) -> None:
    coder = load_sae("demo/topk_k32")
    assert isinstance(coder, LinearCoder)
    write_native(coder, tmp_path / "sae", model=str(demo.MODEL_PATH))
    (tmp_path / "own.txt").write_text("\n\n".join(d.text for d in demo.documents(12, seed=5)))
    code, out, _ = cli("inspect", "sae")
    assert code == 0
    assert "give --data" in out
    code, out, _ = cli("inspect", "sae", "--data", "own.txt", *FEW)
    assert (code, "findings:" in out) == (0, True)


def test_token_ids_are_taken_as_they_begin(cli: Run, tmp_path: Path) -> None:
    import numpy as np

    from sae_bench.models.loading import load_subject

    tokenizer = load_subject(demo.MODEL_PATH)[1]
    rows = [tokenizer(d.text, add_special_tokens=False)["input_ids"][:20] for d in demo.documents(8)]
    np.save(tmp_path / "without.npy", np.array(rows))
    np.save(tmp_path / "with.npy", np.array([[0, *row] for row in rows]))
    assert cli("inspect", "demo", "--data", "with.npy", *FEW)[0] == 0
    code, out, _ = cli("inspect", "demo", "--data", "without.npy", *FEW)
    assert code == 1
    assert "texts begin with the BOS token" in out


def test_assumptions_and_warnings_have_lines_of_their_own(cli: Run, tmp_path: Path) -> None:
    folder = tmp_path / "sae"
    folder.mkdir()
    config = {"sae_type": "vanilla", "act_size": 16, "dict_size": 48, "hook_point": "blocks.0.hook_resid_pre"}
    (folder / "config.json").write_text(json.dumps(config | {"input_unit_norm": True, "tied_weights": False}))
    tensors = dict(tiny_coder("relu").weights.items())
    torch.save(tensors, folder / "sae.pt")
    code, out, err = cli("inspect", folder)
    assert code == 0
    assert "warning:             input_unit_norm is true" in out
    assert err.startswith("sae-bench: "), "a warning is one line"
    assert len(err.splitlines()) == 1


def test_code_that_depends_on_its_batch_breaks_the_contract(
    cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_sae.py").write_text(
        "import torch\n"
        "class Batchwise(torch.nn.Module):\n"
        "    d_in = 128\n"
        "    def encode(self, x):\n"
        "        return (x - x.mean(0)).relu()\n"
        "    def decode(self, z):\n"
        "        return z\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    code, out, err = cli("inspect", "own_sae:Batchwise", "--hook-in", demo.HOOK, "--model", "demo", *FEW)
    assert code == 1
    assert "rows are not independent" in out
    assert "cannot be evaluated as it is" in err


@pytest.mark.parametrize(
    ("arguments", "mentioned"),
    [
        (("demo", "--tokens", 5), "--tokens must be at least 32"),
        (("demo", "--model", str(demo.MODEL_PATH)), "--data"),
        (("demo", "--model", "nowhere/at/all", "--data", "demo"), "nowhere"),
        (("demo", "--hook-in", "blocks.9.hook_resid_post"), "blocks.9"),
        (("demo", "--data", "nowhere.txt"), "nowhere.txt"),
        (("demo/nothing",), "topk"),
    ],
)
def test_bad_input_is_one_sentence(cli: Run, arguments: tuple[Any, ...], mentioned: str) -> None:
    code, _, err = cli("inspect", *arguments)
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert mentioned in err


def test_a_model_of_another_width_is_a_finding_and_no_crash(cli: Run, tmp_path: Path) -> None:
    write_saelens(tiny_coder("topk"), tmp_path / "sae")
    code, out, _ = cli("inspect", "sae", "--model", "demo", *FEW)
    assert code == 1
    assert "reads 16 and predicts 16 numbers a token" in out
