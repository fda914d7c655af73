"""The regression gate: fails on what got worse, not on noise, and never because nothing was looked at."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import numpy as np
import pytest

from sae_bench import registry
from sae_bench.cli import check as verb
from sae_bench.errors import ResultError, UsageError
from sae_bench.results import compare, gate, store
from sae_bench.schema import MetricValue
from sae_bench.units import folds
from tests.builders.comparisons import HOSTILE, documents, examples, frame, save
from tests.builders.results import changed
from tests.builders.results import result as bare
from tests.builders.verbs import runner

TRIALS = 200


@pytest.fixture
def cli(capsys):
    return runner(verb, "check", capsys)


def gates(folder, text):
    file = folder / "gates.toml"
    file.write_text(text)
    return file


def table(errors, tag="d", n=40, seed=0, spread=0.05):
    """Documents of one length, so that the figure is the mean error but for ``spread``."""
    noise = np.random.default_rng(seed).normal(0, spread, n)
    energy = np.full(n, 50.0)
    return frame([f"{tag}{i}" for i in range(n)], error=energy * (errors + noise - noise.mean()), energy=energy)


def one(folder, error, name="sae", **changes):
    """A result with nMSE ``error``."""
    return save(folder, "reconstruction", {"document": table(error)}, ["nmse"], name, **changes)


NMSE = "[reconstruction.nmse]\nallowed_loss = 0.02\n"


# --- limits ----------------------------------------------------------------------------------------------------------


def test_the_shipped_limits_are_valid_and_cover_every_task_with_a_direction():
    specs = registry.tasks()
    shipped = gate.read_gates(None, specs)
    directed = {t: [m for m, s in spec.metrics.items() if s.claims and s.better != "none"] for t, spec in specs.items()}
    ordered = {task for task, metrics in directed.items() if metrics}
    assert set(shipped) >= ordered
    for task, metrics in shipped.items():
        for metric, limits in metrics.items():
            assert specs[task].metrics[metric].headline
            assert limits.allowed_loss is None or metric in directed[task]  # else only collapse counts
    assert all(
        any(one.allowed_loss is not None for one in shipped[t].values()) for t in ordered - {"downstream_sparsity"}
    )


@pytest.mark.parametrize(("text", "match"), [
    ("[reconstruction.nmse]\nallowed_loss = nan", r"'reconstruction\.nmse\.allowed_loss': .*finite"),
    ("[reconstruction.nmse]\nallowed_loss = inf", r"'reconstruction\.nmse\.allowed_loss': .*finite"),
    ("[reconstruction.nmse]\nfloor = -inf", r"'reconstruction\.nmse\.floor': .*finite"),
    ("[reconstruction.nmse]\nallowed_loss = -0.1", r"'reconstruction\.nmse\.allowed_loss': .*greater than or equal"),
    ("[reconstruction.nmse]\nallowed_loss = '0.1'", r"'reconstruction\.nmse\.allowed_loss': .*number"),
    ("[reconstruction.nmse]\nallowed_loss = true", r"'reconstruction\.nmse\.allowed_loss': .*number"),
    ("[reconstruction.nmse]\nallowed_los = 0.1", r"'reconstruction\.nmse\.allowed_los': .*'allowed_loss'"),
    ("[reconstruction.nmse]\n", r"'reconstruction\.nmse': .*give allowed_loss, floor or ceiling"),
    ("[reconstruction.nmse]\nfloor = 2\nceiling = 1", "floor 2 must be below the ceiling 1"),
    ("[reconstruction.nmsee]\nallowed_loss = 0.1", r"'reconstruction\.nmsee' is not a metric.*'nmse'"),
    ("[reconstructoin.nmse]\nallowed_loss = 0.1", "'reconstructoin' is not a task.*'reconstruction'"),
    ("[reconstruction.norm_ratio]\nallowed_loss = 0.1", r"norm_ratio\.allowed_loss': neither more nor less is a loss"),
    ("reconstruction = 1", "must be tables"),
    ("[reconstruction]\nnmse = 1", r"'reconstruction\.nmse': "),
    ("[reconstruction.nmse", "is not valid TOML"),
])  # fmt: skip
def test_limits_that_mean_nothing_are_refused_with_file_and_field(tmp_path, cli, text, match):
    file = gates(tmp_path, text)
    with pytest.raises(UsageError, match=match) as error:
        cli(one(tmp_path, 0.1), "--gates", file)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


def test_limits_that_are_not_there_are_a_usage_error(tmp_path, cli):
    with pytest.raises(UsageError, match="cannot be read"):
        cli(one(tmp_path, 0.1), "--gates", tmp_path / "none.toml")


# --- verdicts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("new", "strict", "code", "word"), [
    (0.10, False, 0, "ok"), (0.05, True, 0, "ok"), (0.119, True, 0, "ok"), (0.121, False, 1, "FAIL"),
])  # fmt: skip
def test_a_loss_beyond_what_is_allowed_fails(tmp_path, cli, new, strict, code, word):
    """The two differ on every document by the same, so there is no noise."""
    old, file = one(tmp_path / "old", 0.1), gates(tmp_path, NMSE)
    found, out, _ = cli(one(tmp_path / "new", new), "--baseline", old, "--gates", file, *["--strict"] * strict)
    assert found == code
    assert out.splitlines()[2].split()[0] == word


def noisy(folder, rng, trial, loss, n=40):
    a, b = documents(rng, n, (0.1, 0.1), f"g{trial}d")
    b = frame(b.ids, error=b.columns["error"] + loss * b.columns["energy"], energy=b.columns["energy"])
    old, new = (
        compare.load(save(folder / side, "reconstruction", {"document": t}, ["nmse"]))
        for side, t in (("old", a), ("new", b))
    )
    return gate.judge(new, old, {"nmse": gate.Gate(allowed_loss=0.02)})[0].state


@pytest.mark.slow
def test_noise_does_not_fail_a_build_and_is_told(tmp_path):
    rng = np.random.default_rng(0)
    states = [noisy(tmp_path, rng, trial, 0.02) for trial in range(TRIALS)]  # just what is allowed
    assert states.count("regression") / TRIALS <= 0.025 + 2.5 * (0.025 * 0.975 / TRIALS) ** 0.5
    assert states.count("not shown") / TRIALS > 0.9
    none = [noisy(tmp_path, rng, f"none {trial}", 0.0) for trial in range(TRIALS // 2)]
    assert "regression" not in none
    large = [noisy(tmp_path, rng, f"large {trial}", 0.06) for trial in range(TRIALS // 2)]
    assert large.count("regression") > 0.9 * len(large)


def test_what_is_not_shown_fails_only_when_strict(tmp_path, cli):
    a, b = documents(np.random.default_rng(1), 40, (0.1, 0.12), "d")
    old = save(tmp_path / "old", "reconstruction", {"document": a}, ["nmse"])
    new = save(tmp_path / "new", "reconstruction", {"document": b}, ["nmse"])
    arguments = (new, "--baseline", old, "--gates", gates(tmp_path, NMSE))
    code, out, _ = cli(*arguments)
    assert (code, "warning" in out, "of 1 it is not shown" in out) == (0, True, True)
    assert "it may have lost up to" in out
    code, out, _ = cli(*arguments, "--strict")
    assert (code, "FAIL" in out) == (1, True)


def test_more_is_a_loss_where_less_is_better_and_the_other_way_round(tmp_path):
    rng = np.random.default_rng(2)
    tokens = rng.uniform(50, 100, 30)
    old, new = (
        compare.load(
            save(
                tmp_path / str(c), "reconstruction",
                {"document": frame(map(str, range(30)), cosine=c * tokens, cosine_tokens=tokens)}, ["cosine"],
            )
        )
        for c in (0.9, 0.8)
    )  # fmt: skip
    limits = {"cosine": gate.Gate(allowed_loss=0.05)}
    (worse,), (better,) = gate.judge(new, old, limits), gate.judge(old, new, limits)
    assert (worse.state, worse.loss) == ("regression", pytest.approx(0.1))
    assert (better.state, better.loss) == ("ok", pytest.approx(-0.1))
    assert "gained at least 0.1" in better.why


@pytest.mark.parametrize(("limits", "word"), [
    ("floor = 0.2", "below the floor 0.2"), ("ceiling = 0.05", "above the ceiling 0.05"),
])  # fmt: skip
@pytest.mark.parametrize("baseline", [True, False])
def test_collapse_fails_whatever_the_baseline_says(tmp_path, cli, limits, word, baseline):
    file = gates(tmp_path, f"[reconstruction.nmse]\nallowed_loss = 5\n{limits}\n")
    old = ["--baseline", one(tmp_path / "old", 0.1)] if baseline else []
    code, out, _ = cli(one(tmp_path / "new", 0.1), "--gates", file, *old)
    assert code == 1
    assert word in out


def test_a_figure_that_lost_its_value_is_a_regression(tmp_path, cli):
    """An SAE that collapsed has no FVU any more; no number to compare must not pass as no loss."""
    old, file = one(tmp_path / "old", 0.1), one(tmp_path / "new", 0.1)
    changed(file, "metrics", "nmse", "value", value=None)
    changed(file, "metrics", "nmse", "reason", value="the energy of the activations is 0")
    code, out, _ = cli(file, "--baseline", old, "--gates", gates(tmp_path, NMSE))
    assert code == 1
    assert "it has no value: the energy of the activations is 0" in out


def test_few_units_are_not_compared_and_fail_when_strict(tmp_path, cli):
    files = [
        save(tmp_path / side, "reconstruction", {"document": table(0.1, n=3)}, ["nmse"]) for side in ("old", "new")
    ]
    arguments = (files[1], "--baseline", files[0], "--gates", gates(tmp_path, NMSE))
    code, out, _ = cli(*arguments)
    assert (code, "fewer than 5 tell too little" in out) == (0, True)
    assert cli(*arguments, "--strict")[0] == 1


def test_a_gate_that_tests_nothing_does_not_pass(tmp_path, cli):
    file = gates(tmp_path, "[sparsity.dead_fraction]\nallowed_loss = 0.1\n")
    old, new = one(tmp_path / "old", 0.1), one(tmp_path / "new", 0.1)
    with pytest.raises(ResultError, match="no gate applies to reconstruction"):
        cli(new, "--baseline", old, "--gates", file)
    with pytest.raises(ResultError, match="no gate applies"):
        cli(new, "--gates", gates(tmp_path, NMSE))  # a loss against nothing


# --- which results belong together -----------------------------------------------------------------------------------


def latents(n):
    """Counts of latents that are active everywhere, over the folds of 40 documents."""
    text = frame([f"d{i}" for i in range(40)], tokens=np.full(40, 8.0))
    return folds.table(text, np.ones((folds.FOLDS, n), dtype=int), np.ones(n))


def tasks(folder, *names, **changes):
    made = {
        "reconstruction": lambda: ({"document": table(0.1)}, ["nmse"]),
        "sparsity": lambda: ({"fold": latents(50)}, ["dead_fraction"]),
        "probe_recovery": lambda: (examples(np.random.default_rng(0), "x")[0], ["probe_loss"]),
    }  # fmt: skip
    for name in names:
        save(folder, name, *made[name](), "sae", **changes)
    return folder


BOTH = NMSE + "[sparsity.dead_fraction]\nallowed_loss = 0.1\n"


def test_a_task_that_is_gone_is_not_comparable(tmp_path, cli):
    old, new = tasks(tmp_path / "old", "reconstruction", "sparsity"), tasks(tmp_path / "new", "reconstruction")
    arguments = (new, "--baseline", old, "--gates", gates(tmp_path, BOTH))
    code, out, err = cli(*arguments)
    assert (code, out) == (3, "")
    assert "lacks what the baseline has: sparsity" in err
    assert cli(*arguments, "--allow-missing")[0] == 0


def test_a_task_that_failed_counts_as_gone_and_says_why(tmp_path, cli):
    old, new = tasks(tmp_path / "old", "reconstruction", "sparsity"), tasks(tmp_path / "new", "reconstruction")
    sae = store.read(next(new.rglob("*@*.json"))).sae
    store.write(new, bare("sae", sae.weights_sha256, {}, status="error", reason="encode failed", task="sparsity"), {})
    code, _, err = cli(new, "--baseline", old, "--gates", gates(tmp_path, BOTH))
    assert code == 3
    assert "encode failed" in err


def test_a_metric_that_is_gone_is_not_comparable(tmp_path, cli):
    old, new = one(tmp_path / "old", 0.1), one(tmp_path / "new", 0.1)
    content = json.loads(new.read_text())
    content["metrics"] = {}
    new.write_text(json.dumps(content))
    code, _, err = cli(new, "--baseline", old, "--gates", gates(tmp_path, NMSE))
    assert code == 3
    assert "reconstruction.nmse" in err


def test_other_conditions_are_not_comparable(tmp_path, cli):
    old, new = one(tmp_path / "old", 0.1), one(tmp_path / "new", 0.1, mask="none")
    code, out, err = cli(new, "--baseline", old, "--gates", gates(tmp_path, NMSE))
    assert (code, out) == (3, "")
    assert "differ in mask ('special' and 'none')" in err


def test_results_without_units_are_not_comparable(tmp_path, cli):
    old, new = one(tmp_path / "old", 0.1), one(tmp_path / "new", 0.1, units=False)
    code, _, err = cli(new, "--baseline", old, "--gates", gates(tmp_path, NMSE))
    assert code == 3
    assert "has no units beside it" in err


def test_in_a_folder_the_sae_of_the_same_name_is_the_baseline(tmp_path, cli):
    folder, file = tmp_path / "results", gates(tmp_path, NMSE)
    one(folder, 0.1)
    one(folder, 0.3, name="other", sha="cd" * 32)
    one(folder, 0.5, mask="none")
    new = one(tmp_path / "new", 0.25)
    assert cli(new, "--baseline", folder, "--gates", file)[0] == 1
    assert cli(new, "--baseline", folder, "--gates", file, "--sae-name", "other")[0] == 0
    code, _, err = cli(new, "--baseline", folder, "--gates", file, "--sae-name", "nobody")
    assert code == 3
    assert "no result of the SAE 'nobody', but of 'other', 'sae'; choose one with --sae-name" in err
    code, _, err = cli(one(tmp_path / "x", 0.1, name="x"), "--baseline", folder, "--gates", file)
    assert (code, "--sae-name" in err) == (3, True)


def test_several_baselines_are_refused_and_the_new_result_is_none(tmp_path, cli):
    folder, file = tmp_path / "results", gates(tmp_path, NMSE)
    one(folder, 0.1, sha="11" * 32)
    new = one(folder, 0.1, sha="33" * 32)
    assert cli(new, "--baseline", folder, "--gates", file)[0] == 0
    one(folder, 0.2, sha="22" * 32)
    with pytest.raises(UsageError, match=r"all fit as baseline of .*--baseline") as error:
        cli(new, "--baseline", folder, "--gates", file)
    assert "111111111111" in str(error.value)
    assert "222222222222" in str(error.value)
    with pytest.raises(UsageError, match="is the new result itself"):
        cli(new, "--baseline", new, "--gates", file)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no result below"):
        cli(new, "--baseline", tmp_path / "empty", "--gates", file)


def test_labelled_sets_are_held_against_the_sets_in_common(tmp_path, cli):
    tables = examples(np.random.default_rng(3), "x", shift=0.3)
    part = {"example": tables[1]["example"].select(range(120))}
    old = save(tmp_path / "old", "probe_recovery", tables[0], ["probe_loss"])
    new = save(tmp_path / "new", "probe_recovery", part, ["probe_loss"], data_sha256="7" * 64)
    file = gates(tmp_path, "[probe_recovery.probe_loss]\nallowed_loss = 0.1\n")
    code, out, _ = cli(new, "--baseline", old, "--gates", file)
    assert code == 1
    assert "0.3" in out


def test_a_tampered_baseline_is_refused(tmp_path, cli):
    """Lowering the baseline by hand would let any loss pass."""
    old, new = one(tmp_path / "old", 0.1), one(tmp_path / "new", 0.3)
    changed(old, "metrics", "nmse", "value", value=0.3)
    with pytest.raises(ResultError, match=r"'metrics\.nmse\.value' is 0\.3, but the units beside it give 0\.1"):
        cli(new, "--baseline", old, "--gates", gates(tmp_path, NMSE))


# --- reports ---------------------------------------------------------------------------------------------------------


def test_junit_has_a_case_a_metric(tmp_path, cli):
    file = gates(tmp_path, NMSE + "[reconstruction.mse]\nceiling = 1e9\n[sparsity.dead_fraction]\nceiling = 0.5\n")
    old, new = tasks(tmp_path / "old", "reconstruction", "sparsity"), tasks(tmp_path / "new", "sparsity")
    one(new, 0.3)
    report = tmp_path / "deep" / "report.xml"
    assert cli(new, "--baseline", old, "--gates", file, "--junit", report)[0] == 1
    suite = ElementTree.parse(report).getroot()
    assert suite.tag == "testsuite"
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("2", "1", "0")
    cases = {(c.get("classname"), c.get("name")): [child.tag for child in c] for c in suite}
    assert cases == {
        ("sae-bench.reconstruction", "nmse"): ["failure"],
        ("sae-bench.sparsity", "dead_fraction"): ["system-out"],
    }
    assert "allowed is 0.02" in suite.find(".//failure").get("message")
    assert [f.name for f in report.parent.iterdir()] == ["report.xml"]


def test_a_refusal_is_reported_too(tmp_path, cli):
    """Else a report of an earlier run would stay where the build looks for this one."""
    old, new = one(tmp_path / "old", 0.1), one(tmp_path / "new", 0.1, mask="none")
    report, summary = tmp_path / "report.xml", tmp_path / "summary.md"
    reports = ("--junit", report, "--markdown", summary)
    assert cli(new, "--baseline", old, "--gates", gates(tmp_path, NMSE), *reports)[0] == 3
    suite = ElementTree.parse(report).getroot()
    assert (suite.get("errors"), suite.get("tests")) == ("1", "1")
    assert "mask" in suite.find(".//error").get("message")
    assert "not comparable" in summary.read_text()


@pytest.mark.parametrize("name", [HOSTILE, "]]>&<a>\x00\ud800\ufffe", "a\nb"])
def test_hostile_names_break_no_report(tmp_path, cli, name):
    name = name.encode(errors="replace").decode()
    old, new = one(tmp_path / "old", 0.1, name=name), one(tmp_path / "new", 0.3, name=name)
    report = tmp_path / "report.xml"
    arguments = (new, "--baseline", old, "--gates", gates(tmp_path, NMSE), "--junit", report)
    code, out, _ = cli(*arguments, "--markdown", "-")
    assert code == 1
    assert ElementTree.parse(report).getroot().get("failures") == "1"
    head, rest = out.split("\n", 1)
    assert head.startswith(("**sae-bench check** of `", "**sae-bench check** of <code>"))
    assert not any(c in out for c in "\x1b\x00")
    assert not any(line.startswith("| row") for line in rest.splitlines())
    assert {line.replace("\\|", "").count("|") for line in rest.splitlines() if line.startswith("|")} == {10}
    assert "\x1b" not in cli(*arguments)[1]


def test_markdown_goes_to_a_file_or_instead_of_the_table(tmp_path, cli):
    old, new = one(tmp_path / "old", 0.1), one(tmp_path / "new", 0.3)
    arguments = (new, "--baseline", old, "--gates", gates(tmp_path, NMSE), "--markdown")
    summary = tmp_path / "summary.md"
    code, out, _ = cli(*arguments, summary)
    assert (code, "| FAIL |" in out, "| FAIL |" in summary.read_text()) == (1, False, True)
    assert cli(*arguments, "-")[1] == summary.read_text()


def test_a_metric_that_neither_has_a_value_for_is_not_compared(tmp_path):
    nothing = MetricValue(value=None, low=None, high=None, unit="1", better="lower", n_units=9, reason="no energy")
    sides = [
        compare.load(store.write(tmp_path / side, bare(side, "12" * 32, {"nmse": nothing}, task="reconstruction"),
                                 {"document": table(0.1)}))
        for side in ("old", "new")
    ]  # fmt: skip
    (outcome,) = gate.judge(sides[1], sides[0], {"nmse": gate.Gate(allowed_loss=0.1)})
    assert outcome.state == "not compared"
    assert gate.failed([outcome], strict=False) == []
    assert gate.failed([outcome], strict=True) == [outcome]
