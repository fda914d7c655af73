"""What a run cost, as every result says: counts of work that no other load of the machine can change."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from sae_bench.api import Session, evaluate
from sae_bench.cli.main import main
from sae_bench.kernels import topk
from sae_bench.saes.weights import Weights
from sae_bench.settings import Settings
from tests.builders.foreign_saes import Dense, wrapped
from tests.builders.kernel_inputs import LargestAllocation
from tests.builders.tiny_models import WIDTH, TinyTokenizer, number_texts, tiny_gpt2
from tests.builders.tiny_saes import LATENTS, coder_of, tiny_coder, tiny_rule, tiny_weights
from tests.builders.token_rows import LENGTH, coder, token_rows
from tests.builders.token_rules import Planted, on, settings_of

OF_ENCODING = ("encode_tokens", "code_entries", "code_bytes", "dense_elements")
SETTINGS: dict[str, Any] = {"dtype": "float64", "controls": "none", "resamples": 50}


def counters(saes: Any, **settings: Any) -> dict[str, int]:
    """The counters of the first result of a run on the tiny model."""
    given = SETTINGS | {"model": tiny_gpt2().double(), "data": token_rows(), "mask": "none"} | settings
    found = evaluate(saes, **given)
    assert {result.status for result in found} == {"ok"}
    return found[0].provenance.counters


def beyond(more: dict[str, int], less: dict[str, int]) -> dict[str, int]:
    """What the larger run did more, by counter; it did nothing less often."""
    found = {name: n - less.get(name, 0) for name, n in more.items() if n != less.get(name, 0)}
    assert less.keys() <= more.keys()
    assert min(found.values(), default=1) > 0
    return found


@pytest.mark.parametrize("controls", ["none", "default"])
def test_an_added_task_makes_no_pass_of_the_model_and_encodes_nothing(controls: str) -> None:
    """But for the codes of the control identity, which only sparsity reads: they are the channels themselves."""
    saes = [coder("a"), coder("b", seed=1)]
    first = counters(saes, tasks="reconstruction", controls=controls)
    read = beyond(counters(saes, tasks="reconstruction,sparsity", controls=controls), first)
    of_encoding = {"encode", *OF_ENCODING} - {"dense_elements"}
    assert set(read) == (of_encoding if controls == "default" else set())
    assert read.get("encode", 0) in (0, first["prefix"])
    assert read.get("code_entries", 0) <= read.get("encode_tokens", 0) * WIDTH
    more = beyond(counters(saes, tasks="reconstruction,sparsity,loss_recovered", controls=controls), first)
    more = {name: n for name, n in more.items() if name not in of_encoding}
    ablated = {"suffix_zero": 1, "suffix_mean": 1}  # every document carries the same at every position
    spliced = first["decode"] - (first["prefix"] - 1 if controls == "default" else 0)  # so with the control "mean"
    assert more == {"suffix_clean": first["prefix"], "suffix_spliced": spliced} | ablated


def test_encoding_is_counted_by_token_and_by_entry() -> None:
    """Top-4 codes of 12 tokens a document, as float64, with latents and one pointer a token as int64."""
    assert "calibration_encode_tokens" not in counters(coder("a", k=4), tasks="sparsity"), "only controls need it"
    found = counters(coder("a", k=4), tasks="sparsity", controls="permuted")
    tokens, sample = found["prefix"] * LENGTH, found["calibration_prefix"] * LENGTH
    for prefix, n in (("", tokens), ("calibration_", sample)):
        entries = found[f"{prefix}code_entries"]
        assert found[f"{prefix}encode_tokens"] == n
        assert 3.5 * n < entries <= 4 * n  # of the four largest, those above 0
        assert found[f"{prefix}code_bytes"] == 16 * entries + 8 * n
        assert found[f"{prefix}dense_elements"] == 0


@pytest.mark.parametrize("batch_tokens", [LENGTH * 5, 1, 10_000])
@pytest.mark.slow
def test_the_batch_size_changes_no_counter(batch_tokens: int) -> None:
    saes = [coder("a"), tiny_coder("relu", dtype=torch.float64)]
    given = {"tokenizer": TinyTokenizer(), "data": number_texts(12, shortest=6), "context": 16, "mask": "special"}
    given |= {"controls": "permuted,random", "parameters": {"downstream_sparsity.positions": 2}}
    given |= {"tasks": "reconstruction,sparsity,loss_recovered,downstream_sparsity"}
    reference = counters(saes, **given, batch_tokens=LENGTH * 2)
    found = counters(saes, **given, batch_tokens=batch_tokens)
    for shared_in_a_batch in ("suffix_zero", "suffix_mean"):
        assert 0 < found.pop(shared_in_a_batch) <= found["prefix"]
        del reference[shared_in_a_batch]
    assert found == reference


def test_dense_latents_are_counted_where_a_module_makes_them() -> None:
    module = wrapped(Dense().double())
    found = counters(module, tasks="sparsity")
    assert found["dense_elements"] == found["encode_tokens"] * LATENTS > 0
    with_decode = counters(module, tasks="reconstruction")
    assert with_decode["dense_elements"] == 2 * found["dense_elements"]
    beside = counters([coder(), module], tasks="reconstruction", controls="permuted")
    assert beside["dense_elements"] == 3 * found["dense_elements"], "the permuted decoder decodes the same codes"


def test_tokens_that_bfloat16_cannot_tell_apart_are_counted() -> None:
    """All latents equal: no token is certified, so all are selected in float32 and the first k latents fire."""
    n = 2 * topk.TILE_LATENTS + 4
    weights = tiny_weights("topk", n_latents=n)
    one = {"W_enc": weights.W_enc[:, :1].expand(-1, n).contiguous(), "b_enc": weights.b_enc[:1].expand(n).contiguous()}
    same = Weights(**dict(weights.items()) | one)
    coder = coder_of(same, tiny_rule("topk"), name="equal")
    assert "uncertified_tokens" not in counters(coder, tasks="sparsity")
    coder.select_in = "bfloat16"
    found = counters(coder, tasks="sparsity")
    assert found["uncertified_tokens"] == found["encode_tokens"] > 0


def test_no_dense_elements_means_that_there_were_none() -> None:
    """The count is 0 by what coders say; here it is held against every array that the whole run makes."""
    n, tokens = 4000, 128 * LENGTH
    weights = tiny_weights("topk", n_latents=n)
    saes = [coder_of(weights, tiny_rule("topk"), name="wide")]
    with LargestAllocation() as seen:
        found = counters(
            saes, tasks="reconstruction,sparsity,loss_recovered", data=token_rows(256), batch_tokens=tokens
        )
    assert found["dense_elements"] == 0
    assert found["encode_tokens"] > tokens
    assert seen.numbers < tokens * n / 2, seen.by


def session_of(saes: Any, given: dict[str, Any]) -> tuple[Session, dict[tuple[str, str], dict[str, int]]]:
    session = Session(saes, Settings(**given))
    session.subject.counters.update(dict.fromkeys(session.subject.counters, 0))
    found = session.run(lambda what, done, total: None)
    return session, {(r.sae.name, r.task): r.provenance.counters for r in found}


def test_every_pass_that_the_model_makes_is_in_the_counters() -> None:
    """The back end counts what it is asked for by itself, over all tasks on text and with ablations."""
    given = SETTINGS | {"model": tiny_gpt2().double(), "data": number_texts(24), "tokenizer": TinyTokenizer()}
    given |= {"context": 16, "tasks": "reconstruction,sparsity,loss_recovered,token_rules,downstream_sparsity"}
    given |= {"controls": "permuted,random", "parameters": {"downstream_sparsity.positions": 2}}
    session, found = session_of([tiny_coder("topk", dtype=torch.float64)], given)
    (one,) = {json.dumps(c) for c in found.values()}
    counted = json.loads(one)
    asked = session.subject.counters
    assert asked["prefix"] == sum(n for name, n in counted.items() if name.endswith("prefix"))
    assert asked["suffix"] == sum(n for name, n in counted.items() if "suffix_" in name)
    assert counted["ablation_suffix_cache"] > 0
    assert asked["full"] == 0
    assert {f"ablation_{name}" for name in OF_ENCODING} <= counted.keys()


def test_explanations_that_run_the_model_say_so_in_their_own_result() -> None:
    """The n-gram explanation asks for passes of its own when results are made, each SAE for its own latents."""
    given = settings_of({"tasks": "token_rules,sparsity", "controls": "random"})
    saes = [Planted(on(7), on(5), name="a"), Planted(on(5), on(6), name="b")]
    _, without = session_of(saes, given | {"parameters": {"token_rules.fewest_firings": 3}})
    asked = {"token_rules.trie_examples": 4, "token_rules.fewest_firings": 3}
    session, found = session_of(saes, given | {"parameters": asked})
    shared = without["a", "sparsity"]
    assert all(c == shared for c in without.values())
    assert found["a", "sparsity"] == found["b", "sparsity"] == shared
    own = {sae: beyond(found[sae, "token_rules"], shared) for sae in ("a", "b")}
    for counts in own.values():
        assert counts.keys() == {"explain_prefix", *(f"explain_{n}" for n in OF_ENCODING[:3])}
    everything = session.subject.counters["prefix"] - shared["prefix"] - shared["calibration_prefix"]
    total = own["a"]["explain_prefix"] + own["b"]["explain_prefix"]
    assert max(c["explain_prefix"] for c in own.values()) < everything <= total  # the random control is in both


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Results of two SAEs of the demo, and the same with other counters in those of one."""
    out = tmp_path_factory.mktemp("results")
    given: dict[str, Any] = {"tasks": "sparsity", "tier": "smoke", "limit": 32, "controls": "none"}
    evaluate(["demo/topk_k32", "demo/relu"], out=out / "as written", **given)
    shutil.copytree(out / "as written", out / "changed")
    for file in (out / "changed" / "demo__relu").rglob("sparsity@*.json"):
        content = json.loads(file.read_text())
        counted = content["provenance"]["counters"]
        content["provenance"]["counters"] = {"prefix": 1 + counted["prefix"], "counter_of_a_later_version": 7}
        file.write_text(json.dumps(content))
    return out / "as written", out / "changed"


@pytest.mark.parametrize("command", ["compare", "board", "verify"])
def test_no_conclusion_depends_on_counters(
    folders: tuple[Path, Path], command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Results of another version, which counts more or less, stay comparable and verifiable."""
    said = []
    for folder in folders:
        arguments = {
            "compare": [folder / "demo__relu", folder / "demo__topk_k32", "--all-metrics", "--format", "json"],
            "board": [folder, "--format", "json"],
            "verify": [*folder.glob("demo__relu/*/sparsity@*.json"), "--sae", "demo/relu", "--seed", "0"],
        }[command]
        assert main([command, *map(str, arguments)]) == 0
        said.append(capsys.readouterr().out.replace(str(folder), ""))
    assert said[0] == said[1] != ""
