"""What is left out of an aggregate stands beside its number, or there is no number."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from sae_bench import demo, evaluate
from sae_bench.data.documents import DataOptions, load_corpus
from sae_bench.data.labelled import LabelledOptions, Suite, load_suite
from sae_bench.data.sources import Document
from sae_bench.saes.load import expand
from sae_bench.streams.labelled import LabelledStream
from sae_bench.units import Units
from sae_bench.units.nested import draw, estimate
from tests.builders.labelled_texts import VOCABULARY, WORDS
from tests.builders.said import complaints
from tests.builders.tiny_models import tiny_gpt2
from tests.builders.tiny_saes import tiny_coder, write_native
from tests.builders.views import task
from tests.conftest import Run


@pytest.fixture(autouse=True)
def without_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As on a machine on which no package of labelled sets was ever fetched."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def suite_of(texts: list[str], names: str = "*") -> Suite:
    return load_suite(
        probe_data=None,
        demo=False,
        corpus=map(Document, texts),
        corpus_name="the corpus",
        tokenizer=WORDS,
        vocab_size=VOCABULARY,
        options=LabelledOptions(context=64, prepend_bos=True, names=names),
    )


def long_texts() -> list[str]:
    """Documents long enough for the set base64, and for no other of the suite."""
    return [" ".join(f"w{(i * 7 + j) % 900}" for j in range(60)) for i in range(200)]


# ---------------------------------------------------------------- labelled sets


def test_one_set_of_many_is_no_suite_and_each_other_has_its_own_reason() -> None:
    suite = suite_of(long_texts())
    assert [one.name for one in suite.sets] == ["base64"]
    assert suite.coverage == f"1 of {1 + len(suite.skipped)}"
    assert len(suite.skipped) == 194
    assert not suite.stands_for_all
    for name, reason in suite.skipped.items():
        if name.startswith("bias_in_bios"):
            assert "LabHC/bias_in_bios" in reason
        if name == "imdb":
            assert "stanfordnlp/imdb" in reason


def test_sets_that_were_named_are_what_was_wanted() -> None:
    assert suite_of(long_texts(), "base64,imdb,cola").stands_for_all
    assert not suite_of([], "imdb,cola").stands_for_all
    assert not suite_of(long_texts(), "*").stands_for_all


def plain_model(folder: Path) -> list[Any]:
    """The demo's model under a name of its own, for which the suite is the one of the hub."""
    shutil.copytree(demo.MODEL_PATH, folder / "model")
    texts = [" ".join(d.text for d in demo.documents(12, seed=seed)).replace("\n", " ") for seed in range(140)]
    (folder / "text.txt").write_text("\n\n".join(texts))
    return [
        "run",
        "--sae",
        "demo/relu",
        "--model",
        folder / "model",
        "--data",
        folder / "text.txt",
        "--json",
        "--limit",
        4,
    ]


def test_a_suite_that_is_mostly_missing_has_no_score_and_the_rest_can_be_named() -> None:
    """Also where no package lacks."""
    suite = replace(suite_of(long_texts()), lacking="")
    said = LabelledStream().why_not(cast(Any, SimpleNamespace(suite=suite)))
    assert said is not None
    assert said.startswith("1 of 195 sets available (")
    assert "--probe-sets base64" in said


def test_a_task_on_the_default_suite_that_is_not_here_is_skipped_with_one_command(cli: Run, tmp_path: Path) -> None:
    """And nobody sees the figures of the few sets that happen to be here."""
    given = plain_model(tmp_path)
    code, out, err = cli(*given, "--tasks", "sparse_probing", "--controls", "none")
    found = json.loads(out)["results"][0]
    assert (code, found["status"]) == (0, "skipped"), err
    assert found["reason"] == (
        "the package sae-probes 0.4.2 is not here; fetch it once: sae-bench probes fetch, or give a folder of sets "
        "with --probe-data"
    )
    assert len(found["left_out"]) == 103
    said = [one for one in complaints(err) if "labelled sets" in one]
    assert len(said) == 1
    assert "0 of 103 labelled sets are available: the package sae-probes" in said[0]


@pytest.mark.slow
def test_the_same_set_is_measured_where_it_was_named(cli: Run, tmp_path: Path) -> None:
    given = plain_model(tmp_path)
    code, out, _ = cli(*given, "--tasks", "sparse_probing", "--controls", "none", "--probe-sets", "base64,imdb")
    found = json.loads(out)["results"][0]
    assert (code, found["status"]) == (0, "ok")
    assert found["coverage"] == "1 of 2"


@pytest.mark.parametrize(("there", "has"), [(2, False), (3, True), (6, True)])
def test_a_figure_that_most_sets_lack_is_none_of_the_suite(there: int, has: bool) -> None:
    values = {f"s{i}@d:t{j}": 1.0 if i < there else math.nan for i in range(6) for j in range(5)}
    units = Units(tuple(values), {"examples": np.ones(30), "x": np.array([*values.values()])})
    found = estimate(draw(units, seed=0, resamples=20), lambda s: s.x / s.examples)
    assert (found.value is not None) == has
    assert has or found.reason == f"only {there} of 6 sets have a value"


# ---------------------------------------------------------------- text


def corpus(data: Any) -> dict[str, Any]:
    options = DataOptions(context=16, mean_from_evaluation=True)
    return load_corpus(data, tokenizer=WORDS, vocab_size=VOCABULARY, options=options).details


def test_files_that_a_folder_does_not_give_are_named(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text('{"text": "one two three"}\n')
    for name in ("c.csv", "d.json.zst", "README.md", ".hidden.json", "dataset_info.json"):
        (tmp_path / name).write_text("{}")
    with pytest.warns(UserWarning, match=r"2 of 4 files of data .* are left out, such as c\.csv"):
        details = corpus(tmp_path)
    assert details["files_left_out"] == ["c.csv", "d.json.zst"]


def test_a_folder_that_is_read_whole_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one two three"}\n')
    (tmp_path / "README.md").write_text("about")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "files_left_out" not in corpus(tmp_path)


def test_documents_that_are_too_short_are_counted_beside_the_number(cli: Run, tmp_path: Path) -> None:
    texts = [*(d.text for d in demo.documents(12)), "", "", ""]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    given = ["run", "--sae", "demo/relu", "--data", tmp_path / "t.jsonl", "--tasks", "sparsity", "--controls", "none"]
    code, out, err = cli(*given, "--mean-from", "evaluation")
    assert code == 0, err
    assert "3 of 15 documents of" in err
    assert "12 documents (" in out
    assert "3 left out as too short)" in out


# ---------------------------------------------------------------- SAEs, controls, latents


def test_weights_that_a_pattern_passes_over_are_said(tmp_path: Path) -> None:
    write_native(tiny_coder("topk"), tmp_path / "one")
    (tmp_path / "two.safetensors").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"1 folders and 1 files of weights, such as .*two\.safetensors"):
        assert expand([f"{tmp_path}/*"]) == [f"{tmp_path}/one"]


def test_a_control_that_has_no_figures_says_why() -> None:
    """Asked for by its name, and not there: one that has no latents where latents are measured."""
    texts = [d.text for d in demo.documents(60)]
    found = evaluate("demo/relu", model="demo", data=texts, tasks="token_rules", controls="mean,random",
                     resamples=20, parameters={"token_rules.latents": 4})[0]  # fmt: skip
    assert found.details["controls without figures"]["mean"].startswith("it has no latents")
    asked = {"mean", "random"}
    assert asked == set(found.controls) | set(found.details["controls without figures"])


@pytest.mark.parametrize(("rows", "said"), [(3, ["3 of 500 latents that were asked for"]), (375, [])])
def test_few_explained_latents_are_said(rows: int, said: list[str]) -> None:
    made = task("token_rules")
    tables = {"latent": Units(tuple(map(str, range(rows))), {"latents": np.ones(rows)})}
    assert [one[: len(said[0])] for one in made.cautions(tables, 10**6)] == said


@pytest.mark.parametrize(("ok", "said"), [(100, 0), (97, 0), (3, 1)])
def test_latents_without_a_score_are_said(ok: int, said: int) -> None:
    made = task("autointerp")
    scored = np.r_[np.ones(ok), np.zeros(100 - ok)]
    tables = {"latent": Units(tuple(map(str, range(100))), {"latents": np.ones(100), "ok": scored})}
    found = made.cautions(tables, 10**6)
    assert len(found) == said
    assert not said or found[0].startswith("3 of 100 latents have a score")


def test_a_caution_is_in_the_result_and_on_stderr() -> None:
    ids = np.random.default_rng(0).integers(1, 50, (40, 24))
    with pytest.warns(UserWarning, match=r"token_rules of tiny topk: \d+ of 48 latents"):
        found = evaluate(tiny_coder("topk"), model=tiny_gpt2(), data=ids, tasks="token_rules", controls="none",
                         resamples=20, parameters={"token_rules.fewest_firings": 60})[0]  # fmt: skip
    assert found.status == "ok"
    assert "of 48 latents" in found.details["cautions"][0]  # it has no more, though 500 are asked for
    assert found.details["latents asked for"] == 500
