"""Frozen suites: what a file may say, what a run that keeps to one refuses, and which claims of results hold."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sae_bench import registry
from sae_bench.api import Session, evaluate
from sae_bench.board.collect import collect
from sae_bench.errors import UsageError
from sae_bench.results import store
from sae_bench.schema import Protocol, Result
from sae_bench.settings import Settings
from sae_bench.suites import claims, keep, record
from sae_bench.suites.claims import FREE, Claims, expected
from sae_bench.suites.record import Known, every, find, read
from tests.builders.suites import sealed, written
from tests.conftest import Run

SAE = "demo/topk_k16"
HUB = {
    "gemma-2-2b": "google/gemma-2-2b",
    "gpt2-small": "openai-community/gpt2",
    "llama-3.1-8b": "meta-llama/Llama-3.1-8B",
    "pythia-160m": "EleutherAI/pythia-160m",
    "qwen3-1.7b-base": "Qwen/Qwen3-1.7B-Base",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("suites")


@pytest.fixture(scope="module")
def small(folder: Path) -> Known:
    return sealed(folder)


@pytest.fixture(scope="module")
def made(small: Known, tmp_path_factory: pytest.TempPathFactory) -> list[Result]:
    """Results of a run that kept to the suite."""
    return evaluate(SAE, suite=small.file)


# ---------------------------------------------------------------- what ships


def test_the_suite_of_the_demo_is_sealed_and_those_of_the_hub_are_not() -> None:
    """No digest of what cannot be looked up here stands in a file."""
    shipped = every()
    assert {name for name, known in shipped.items() if known.sealed} == {"demo-v1"}
    assert {name: known.suite.model.id for name, known in shipped.items() if not known.sealed} == HUB
    for known in shipped.values():
        assert known.sealed or not re.search(r"\b[0-9a-f]{40}", known.file.read_text())


def test_the_suite_of_the_demo_fixes_what_the_stored_results_were_measured_on() -> None:
    """But for the name of the suite they are what a run of it gives today: figures stay."""
    known, specs = find("demo-v1"), registry.tasks()
    files = list(store.find(registry.data_folder("results")))
    assert files
    for file in files:
        assert claims.differences(known, store.read(file).provenance.protocol, specs) == []


def test_every_field_of_a_protocol_is_fixed_by_a_suite_or_free(small: Known) -> None:
    """A new field of the protocol is one of the two, before anybody can choose it."""
    fixed = set(expected(small, registry.tasks()["sparsity"]))
    assert fixed.isdisjoint(FREE)
    assert fixed | FREE == set(Protocol.model_fields)


def test_every_setting_is_fixed_by_a_suite_or_moves_no_figure() -> None:
    about_sae = {"format", "hook_in", "hook_out", "layer", "threshold", "norm_factor", "k", "name"}
    digests = {"model", "data", "tokenizer"}  # which are held against the seal
    how = {
        "suite",
        "select_in",
        "device",
        "batch_tokens",
        "out",
        "overwrite",
        "checkpoint_seconds",
        "calibration_cache",
    }
    judge = {name for name in keep.defaults() if name.startswith(("judge_", "max_", "price_"))} | {
        "reply_tokens",
        "null",
    }
    fixed = set(keep.values(find("demo-v1").suite)) | {"tasks"}
    assert set(keep.defaults()) == fixed | about_sae | digests | how | judge


# ---------------------------------------------------------------- what a file may say


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seeds": 1}, "'seeds': there is no such field; did you mean 'seed'?"),
        ({"text": {"contexts": 3}}, "'text.contexts': there is no such field; did you mean 'context'?"),
        ({"seed": "0"}, "'seed': Input should be a valid integer"),
        ({"seed": -1}, "'seed': Input should be greater than or equal to 0"),
        ({"resamples": 10**9}, "'resamples': Input should be less than or equal to"),
        ({"mask": "some"}, "'mask': Input should be 'special', 'first' or 'none'"),
        ({"text": {"bos": "auto"}}, "'text.bos': Input should be 'yes' or 'no'"),
        ({"text": {"limit": 0}}, "'text.limit': Input should be greater than or equal to 1"),
        ({"text": {"context": None}}, "'text.context': Field required"),
        ({"tasks": ("sparsty",)}, "'tasks': no task is named 'sparsty'; did you mean 'sparsity'?"),
        ({"tasks": ()}, "'tasks': Tuple should have at least 1 item"),
        ({"tasks": ("autointerp",)}, "autointerp needs a judge: add [judge] with model"),
        ({"rest": "[parameters]\n'sparsity.x' = 1"}, "'parameters': there is no 'sparsity.x'"),
        ({"rest": "[seal]\nweights_sha256 = '12'"}, "'seal.weights_sha256': String should match pattern"),
        ({"rest": "[model]\nid = 'twice'"}, "is not valid TOML"),
        ({"title": "x", "rest": "= 1"}, "is not valid TOML"),
    ],
)
def test_a_wrong_suite_is_one_sentence(cli: Run, tmp_path: Path, change: dict[str, Any], says: str) -> None:
    file = written(tmp_path, "wrong-v1", **change)
    code, out, error = cli("suite", "show", file)
    assert (code, out) == (2, "")
    assert len(error.splitlines()) == 1
    assert str(file) in error
    assert says in error


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("demo-v2", "no suite is named 'demo-v2'; did you mean 'demo-v1'?"),
        ("zzz", "no suite is named 'zzz'; there are: demo-v1, gemma-2-2b, "),
        ("../demo-v1", "is missing"),
        ("nothing/here.toml", "nothing/here.toml is missing"),
        (".", "no suite is named '.'"),
    ],
)
def test_an_unknown_suite_is_one_sentence(cli: Run, name: str, says: str) -> None:
    for verb in (("suite", "show", name), ("suite", "build", name), ("run", "--sae", SAE, "--suite", name)):
        code, _, error = cli(*verb)
        assert code == 2
        assert says in error.splitlines()[-1]
        assert "Traceback" not in error


def test_a_suite_is_called_as_its_file(tmp_path: Path) -> None:
    moved = written(tmp_path, "one-v1").rename(tmp_path / "other-v1.toml")
    with pytest.raises(UsageError, match="the name is 'one-v1', and must be that of the file"):
        read(moved)


def test_line_ends_of_another_system_are_the_same_suite(small: Known, tmp_path: Path) -> None:
    other = tmp_path / small.file.name
    other.write_bytes(small.file.read_bytes().replace(b"\n", b"\r\n"))
    assert read(other).claim == small.claim


# ---------------------------------------------------------------- sealing


def test_a_suite_is_sealed_by_a_command_and_the_same_twice(cli: Run, small: Known, tmp_path: Path) -> None:
    code, out, _ = cli("suite", "build", small.file, "--out", tmp_path / "small-v1.toml")
    assert code == 0
    assert "is sealed" in out
    assert (tmp_path / "small-v1.toml").read_bytes() == small.file.read_bytes()


@pytest.mark.slow
def test_the_suite_of_the_demo_is_what_the_command_makes(cli: Run, tmp_path: Path) -> None:
    assert cli("suite", "build", "demo-v1", "--out", tmp_path / "demo-v1.toml")[0] == 0
    assert (tmp_path / "demo-v1.toml").read_bytes() == find("demo-v1").file.read_bytes()
    assert len(record.reference_rows(read(tmp_path / "demo-v1.toml"))) == len(record.reference_rows(find("demo-v1")))


def test_reference_rows_say_what_the_model_does_without_an_sae() -> None:
    rows = {(row.reference, row.metric): row for row in record.reference_rows(find("demo-v1"))}
    clean, ablated = rows["model", "ce_clean"], rows["model", "ce_mean"]
    assert clean.value is not None
    assert ablated.value is not None
    assert clean.value < ablated.value
    assert rows["mean", "ce_spliced"].value == pytest.approx(ablated.value)


@pytest.mark.parametrize(
    ("out", "says"),
    [(None, "the suite small-v1 is sealed, and a sealed suite never changes"), ("x.toml", "must end in small-v1.toml")],
)
def test_what_is_sealed_is_not_sealed_again(cli: Run, small: Known, out: str | None, says: str) -> None:
    before = small.file.read_bytes()
    code, _, error = cli("suite", "build", small.file, *([] if out is None else ["--out", out]))
    assert code == 2
    assert says in error
    assert small.file.read_bytes() == before


# ---------------------------------------------------------------- a run that keeps to one


def test_a_run_needs_nothing_but_suite_and_sae(made: list[Result], small: Known) -> None:
    assert [result.task for result in made] == list(small.suite.tasks)
    assert {result.suite for result in made} == {small.claim}
    assert {result.provenance.protocol.n_documents for result in made} == {12}


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--limit", 13], "--limit 13 contradicts the suite small-v1, which fixes 12"),
        (["--seed", 1], "--seed 1 contradicts"),
        (["--tokens", 100], "--tokens 100 contradicts the suite small-v1, which fixes none"),
        (["--context", 32], "--context 32 contradicts"),
        (["--mask", "none"], "--mask none contradicts"),
        (["--bos", "no"], "--bos no contradicts"),
        (["--packed"], "--packed"),
        (["--tier", "standard"], "--tier standard contradicts"),  # a flag counts that says what is the default
        (["--controls", "default"], "--controls default contradicts"),
        (["--resamples", 2000], "--resamples 2000 contradicts"),
        (["--dtype", "float64"], "--dtype float64 contradicts"),
        (["--sae-dtype", "bfloat16"], "--sae-dtype bfloat16 contradicts"),
        (["--backend", "tl"], "--backend tl contradicts"),
        (["--mean-from", "evaluation"], "--mean-from evaluation contradicts"),
        (["--split", "train"], "--split train contradicts"),
        (["--probe-data", "x"], "--probe-data x contradicts"),
        (["--probe-sets", "base64"], "--probe-sets base64 contradicts"),
        (["--task-dir", "x"], "--task-dir x contradicts"),
        (["--judge-model", "m"], "--judge-model m contradicts"),
        (["--param", "sparsity.x=1"], "--param sparsity.x=1 contradicts"),
        (["--tasks", "all"], "--tasks all: loss_recovered is no task of the suite small-v1"),
        (["--tasks", "sparsty"], "no task is named 'sparsty'; did you mean 'sparsity'?"),
    ],
)
def test_a_flag_that_contradicts_the_suite_is_named(cli: Run, small: Known, flags: list[Any], says: str) -> None:
    code, _, error = cli("run", "--sae", SAE, "--suite", small.file, *flags)
    assert code == 2
    assert len(error.splitlines()) == 1
    assert says in error


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"packed": True}, "packed contradicts the suite small-v1, which fixes none"),
        ({"groups": ["a", "b"]}, "groups ['a', 'b'] contradicts"),
        ({"groups": np.arange(3)}, "groups [0 1 2] contradicts"),
        ({"seed": np.int64(1)}, "seed 1 contradicts the suite small-v1, which fixes 0"),
    ],
    ids=str,
)
def test_a_setting_that_contradicts_the_suite_is_named(small: Known, given: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=re.escape(says)):
        evaluate(SAE, suite=small.file, **given)


def test_none_says_nothing(small: Known) -> None:
    """A program hands on what it was not given, and the suite fixes it all the same."""
    unsaid = {name: None for name in ("data", "model", "tokens", "limit", "context", "groups", "split", "judge_model")}
    assert (
        keep.refuse({"suite": small.file, "seed": np.int64(0), "parameters": {}, "tasks": None, **unsaid}) is not None
    )
    assert keep.said(unsaid | {"parameters": {}}) == []
    assert keep.said(unsaid | {"limit": 3}) == ["limit"]


def test_what_a_suite_refuses_is_said_before_what_lacks(cli: Run) -> None:
    for flag, what in (("--model", "model"), ("--data", "text")):
        code, _, error = cli("run", SAE, "--suite", "gpt2-small", flag, "demo")
        assert code == 2
        assert f"{flag} demo: the suite gpt2-small is not sealed, so nothing says whether that is its {what}" in error


def test_what_is_no_part_of_the_protocol_may_be_said(small: Known, tmp_path: Path) -> None:
    free = {"device": "cpu", "batch_tokens": 64, "overwrite": "always", "name": "mine", "bos": "auto", "dtype": "auto"}
    session = Session(SAE, Settings(suite=small.file, out=tmp_path, tasks="sparsity", seed=0, **free))
    assert list(session.specs) == ["sparsity"]
    assert session.suite is not None


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"data": [f"Another text, number {n}, of some words." for n in range(40)]}, "its data_sha256 is"),
        ({"model": "other"}, "the model is not that of the suite small-v1: the digest of its weights is"),
    ],
)
def test_another_text_or_model_is_refused_before_anything_is_measured(
    small: Known, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], says: str
) -> None:
    from transformers import AutoModelForCausalLM

    from sae_bench import demo

    if "model" in given:
        model = AutoModelForCausalLM.from_pretrained(demo.MODEL_PATH, dtype="float32")
        model.lm_head.weight.data[0, 0] += 1
        given = {"model": model, "tokenizer": str(demo.MODEL_PATH)}
    with pytest.raises(UsageError, match=re.escape(says)):
        evaluate(SAE, suite=small.file, out=tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


def test_a_copy_of_the_suites_text_is_its_text(small: Known, tmp_path: Path) -> None:
    from sae_bench.demo import document

    texts = [document(n, split="eval").text for n in range(200)]
    session = Session(SAE, Settings(suite=small.file, data=texts))
    assert session.inputs.corpus.evaluation.sha256 == small.suite.seal.evaluation_sha256  # type: ignore[union-attr]


def test_of_a_suite_that_is_not_sealed_nothing_else_may_be_given(tmp_path: Path) -> None:
    file = written(tmp_path)
    with pytest.raises(UsageError, match="is not sealed, so nothing says whether that is its text"):
        Session(SAE, Settings(suite=file, data=["a text"]))
    with pytest.raises(UsageError, match="is not sealed, so nothing says whether that is its model"):
        Session(SAE, Settings(suite=file, model="org/other"))


def test_a_run_of_nothing_but_an_sae_keeps_to_the_suite_of_its_model() -> None:
    with pytest.warns(UserWarning, match="keeps to the suite demo-v1"):
        session = Session(SAE, Settings())
    assert session.suite is not None
    assert list(session.specs) == [*find("demo-v1").suite.tasks]
    for said in ({"tier": "smoke"}, {"tasks": "sparsity"}, {"suite": "none"}):
        assert Session(SAE, Settings(**said)).suite is None  # type: ignore[arg-type]


def test_without_a_word_about_tasks_the_core_is_measured() -> None:
    assert list(Session(SAE, Settings(tier="smoke")).specs) == [
        "reconstruction",
        "sparsity",
        "loss_recovered",
        "token_rules",
    ]
    assert list(Session(SAE, Settings(tasks="core,downstream_sparsity", tier="smoke")).specs) == [
        *("reconstruction", "sparsity", "loss_recovered", "downstream_sparsity", "token_rules")
    ]


def test_results_that_are_there_take_the_name_of_the_suite(small: Known, tmp_path: Path) -> None:
    """A run with settings of its own that are the suite's measured what the suite measures."""
    same = {**keep.values(small.suite), "tasks": "sparsity", "suite": "none"}
    first = evaluate(SAE, out=tmp_path, **same)
    assert first[0].suite is None
    again = evaluate(SAE, out=tmp_path, suite=small.file, tasks="sparsity")
    assert again[0].suite == small.claim
    assert store.read(next(store.find(tmp_path))).suite == small.claim
    assert again[0].metrics == first[0].metrics


# ---------------------------------------------------------------- claims


def at(result: Result, **fields: Any) -> Result:
    """The result with another protocol, and the hash of that."""
    protocol = result.provenance.protocol.model_copy(update=fields)
    made = result.model_copy(update={"provenance": result.provenance.model_copy(update={"protocol": protocol})})
    return made.model_copy(update={"protocol": store.protocol_hash(protocol)})


OTHER = {
    "parameters": {"x": 1},
    "special_ids": (1, 2),
    "bos": 3,
    "backend": "tl",
    "dtype": "float64",
    "mask": "none",
    "mean_from": "evaluation",
}


@pytest.mark.parametrize("field", sorted(set(Protocol.model_fields) - FREE))
def test_a_claim_holds_only_if_every_field_is_the_suites(folder: Path, made: list[Result], field: str) -> None:
    """A forger writes the name of a suite over a result of something else."""
    checked = Claims(folder)
    assert checked.problem(made[0]) is None
    value = getattr(made[0].provenance.protocol, field)
    other = OTHER[field] if field in OTHER else value + 1 if isinstance(value, int) else "0" * 64
    why = checked.problem(at(made[0], **{field: other}))
    assert why is not None
    assert f"its {field} is" in why


@pytest.mark.parametrize(
    ("claim", "says"),
    [
        (None, "of no suite (run --suite NAME)"),
        ("small-v2@" + "0" * 64, "the suite 'small-v2', which is not known here; did you mean 'small-v1'?"),
        ("small-v1@" + "0" * 64, "with the digest 000000000000, and the one here has"),
        ("small-v1", "with the digest none"),
        ("small-v1@{sha256}0", "with the digest {sha256}0, and the one here has"),
        ("open-v1", "the suite open-v1 is not sealed"),
    ],
)
def test_a_claim_of_another_suite_does_not_hold(
    small: Known, folder: Path, made: list[Result], claim: str | None, says: str
) -> None:
    claim, says = claim and claim.replace("{sha256}", small.sha256), says.replace("{sha256}", small.sha256)
    if claim == "open-v1":
        claim = read(written(folder, "open-v1")).claim
    why = Claims(folder).problem(made[0].model_copy(update={"suite": claim}))
    assert why is not None
    assert says in why


def test_the_board_has_a_table_a_suite(
    cli: Run, folder: Path, made: list[Result], small: Known, tmp_path: Path
) -> None:
    """Two files of one name are two suites, and a claim that does not hold is unofficial."""
    out = tmp_path / "out"
    claimed = (small.claim, "small-v1@" + "0" * 64, None)
    for i, claim in enumerate(claimed):
        sae = made[0].sae.model_copy(update={"name": f"sae{i}", "weights_sha256": f"{i}" * 64})
        store.write(out, made[0].model_copy(update={"suite": claim, "sae": sae, "units_sha256": None}), {})
    code, shown, error = cli("board", out, "--suites", folder, "--metrics", "fvu")
    assert code == 0
    titles = [line for line in shown.splitlines() if "blocks.2" in line]
    assert (
        [re.search(r"; ((suite|unofficial)[^;]*);", title)[1] for title in titles]
        == [  # type: ignore[index]
            f"suite small-v1 ({small.sha256[:8]})",
            "unofficial (no suite)",
            "unofficial, named small-v1 (00000000)",
        ]
    )
    assert "it is shown as unofficial: it names the suite small-v1 with the digest" in error
    entries = collect(out, registry.tasks(), folder).entries
    assert [entry.official for entry in entries] == [True, False, False]


def test_ls_shows_suites_and_what_tasks_cost(cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = cli("ls", "suites")
    assert code == 0
    assert re.search(r"^demo-v1 +sealed +demo +demo +128", out, re.MULTILINE)
    assert re.search(r"^gpt2-small +unsealed +openai-community/gpt2", out, re.MULTILINE)
    monkeypatch.setenv("COLUMNS", "100")
    for what in ("tasks", "suites", "formats", "controls", "units", "streams", "backends", "models"):
        code, out, _ = cli("ls", what)
        assert max(map(len, out.splitlines())) <= 100, what
        assert code == 0
    assert "downstream_sparsity" in cli("ls", "suites")[1], "no word is broken"
    monkeypatch.delenv("COLUMNS")
    code, out, _ = cli("ls", "tasks")
    assert "cost (reconstruction = 1)" in out
    assert re.search(r"^reconstruction +1 +yes +1 ", out, re.MULTILINE)


def test_a_dry_run_says_the_cost_of_each_task(cli: Run) -> None:
    code, out, _ = cli("run", "--sae", SAE, "--tier", "smoke", "--tasks", "core,downstream_sparsity", "--dry-run")
    assert code == 0
    assert re.search(r"^cost of loss_recovered: .*1 clean", out, re.MULTILINE)
    assert re.search(r"^cost of downstream_sparsity: .*ablations, at most: \d+", out, re.MULTILINE)
    assert re.search(r"^cost of token_rules: +no run of the model", out, re.MULTILINE)
