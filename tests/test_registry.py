"""Names and definitions: what is shipped is consistent, and what is wrong is named with its file and field."""

import re
import shutil

import pytest

from sae_bench import registry
from sae_bench.errors import SaeBenchError, TaskError, UsageError
from sae_bench.registry import Entry, choose, definition_sha256, load, read_task, suggest, tasks
from sae_bench.tasks.base import Task

SHIPPED = sorted(tasks())
METRICS = [(t, m) for t in SHIPPED for m in tasks()[t].metrics]

DEFINITION = """
id = "mine"
version = 1
title = "Mine"
question = "What is mine?"
code = "sae_bench.tasks.sparsity:Sparsity"
figures = "sae_bench.units"
[parameters]
size = 3
other = [1, 2]
[metrics.l0]
name = "L0"
unit = "latents"
better = "none"
table = "document"
description = "mean number of active latents"
[metrics.l1]
name = "L1"
unit = "latents"
better = "none"
table = "document"
description = "mean size"
"""


@pytest.fixture(autouse=True)
def fresh(request):
    yield
    if "monkeypatch" in request.fixturenames:  # it may have made up entry points
        registry._tasks.cache_clear()


def write(folder, text=DEFINITION, name="mine"):
    (folder / name).mkdir(parents=True, exist_ok=True)
    file = folder / name / "task.toml"
    file.write_text(text, encoding="utf-8")
    return file


# --- what is shipped -------------------------------------------------------------------------------------------------


def test_the_tasks_are_there_in_order():
    first = ["reconstruction", "sparsity", "loss_recovered", "probe_recovery", "sparse_probing", "token_labels"]
    assert list(tasks()) == [*first, "downstream_sparsity", "token_rules", "autointerp"]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_definition_has_exactly_the_metrics_of_its_class(name):
    spec = tasks()[name]
    made = load(spec.code)(spec)
    assert isinstance(made, Task)
    assert list(sorted(made.metrics)) == sorted(spec.metrics)


@pytest.mark.parametrize(("task", "metric"), METRICS)
def test_every_metric_is_described(task, metric):
    spec = tasks()[task].metrics[metric]
    assert re.fullmatch(r"[a-z][a-z0-9_]*", metric)
    assert len(spec.description) >= 15
    assert spec.name
    assert spec.unit
    assert spec.name.isprintable()


@pytest.mark.parametrize(("task", "metric"), METRICS)
def test_direction_matches_the_nature_of_a_metric(task, metric):
    spec = tasks()[task].metrics[metric]
    name = metric.removeprefix("first_")
    lower = {
        "fvu",
        "fvu_rescaled",
        "fvu_without_top_tokens",
        "fvu_without_top_channels",
        "nmse",
        "mse",
        "kl",
        "delta_ce",
        "ce_spliced",
        "perplexity_difference",
        "dead_fraction",
    }
    lower |= {"dense_fraction_10pct", "effect_sparsity", "effect_sparsity_token", "detection_brier", "failed_fraction"}
    lower |= {"hierarchy_gap"}
    higher = {"cosine", "probe_r", "probe_auroc", "probe_f1", "probe_share", "probe_write", "probe_features"}
    higher |= {"effect_sparsity_token_gain"}
    higher |= {f"label_{kind}" for kind in ("precision", "recall", "f1", "auprc", "recall_p90")}
    higher |= {f"{kind}_k{k}" for kind in ("auroc", "accuracy", "share") for k in (1, 2, 5, 16)}
    higher |= {f"detection{of}" for of in ("", "_worst", "_auroc", "_random", "_matched")}
    higher |= {"detection_precision_natural", "detection_f1_natural", "rule_lift", "fuzz", "intruder"}
    if name in lower or name.endswith(("_loss", "_error")):
        assert spec.better == "lower"
    elif name in higher or "recovered" in name:
        assert spec.better == "higher"
    else:
        assert spec.better == "none"
    assert spec.better == "none" or spec.target is None
    assert (spec.target == 1.0) == ("ratio" in name or "bias" in name)


@pytest.mark.parametrize(("task", "metric"), METRICS)
def test_shares_of_latents_and_ablations_have_a_wilson_interval(task, metric):
    """Resampling gives the empty interval where no latent is dead, and no effect is below noise."""
    spec = tasks()[task].metrics[metric]
    assert (spec.interval == "wilson") == ("fraction" in metric and spec.table != "fold")
    assert spec.interval == "bootstrap" or spec.table in ("latent", "ablation")


def test_the_metrics_that_the_design_promises_exist(shared):
    text = (shared / "design.md").read_text()
    for name in set(SHIPPED) - {"token_labels"}:  # which came after it
        row = next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
        promised = set(re.findall(r"`(\w+)`", row))
        assert promised <= set(tasks()[name].metrics)


@pytest.mark.parametrize("known", [registry.controls(), registry.formats()], ids=["controls", "formats"])
def test_every_registered_name_can_be_loaded(known):
    for name, entry in known.items():
        assert load(entry.code) is not None
        assert entry.name == name
        assert entry.description


def test_default_controls_exist():
    assert set(registry.DEFAULT_CONTROLS) <= set(registry.controls())


# --- choosing --------------------------------------------------------------------------------------------------------

KNOWN = {"reconstruction": 1, "sparsity": 2, "loss_recovered": 3}


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        ("all", list(KNOWN)),
        ("sparsity,reconstruction", ["reconstruction", "sparsity"]),
        ("sparsity, sparsity", ["sparsity"]),
        ("*r*", ["reconstruction", "sparsity", "loss_recovered"]),
        ("*ss*,spars?ty", ["sparsity", "loss_recovered"]),
    ],
)
def test_names_lists_and_globs(names, chosen):
    assert choose(names, KNOWN, "task") == chosen


def test_a_typo_gets_a_suggestion():
    with pytest.raises(UsageError, match="no task is named 'sparsty'; did you mean 'sparsity'"):
        choose("reconstruction,sparsty", KNOWN, "task")
    with pytest.raises(UsageError, match="there are: reconstruction, sparsity, loss_recovered"):
        choose("xyz", KNOWN, "task")
    with pytest.raises(UsageError, match="no task is named ''"):
        choose("", KNOWN, "task")
    assert suggest("loss_recoverd", KNOWN) == "did you mean 'loss_recovered'?"


def test_hundreds_of_names_are_not_all_said():
    many = [f"set_{i}" for i in range(240)]
    assert suggest("xyz", many) == f"there are 240, such as {', '.join(many[:12])}"
    assert suggest("xyz", many[:60]) == f"there are: {', '.join(many[:60])}"
    assert suggest("set_24O", iter(many)).startswith("did you mean 'set_24")


def test_code_that_does_not_exist_is_one_sentence():
    for code in ("sae_bench.nothing:Task", "sae_bench.tasks.sparsity:Nothing", "nopackage"):
        with pytest.raises(SaeBenchError, match=f"{code} cannot be imported"):
            load(code)


def test_two_packages_cannot_register_one_name(monkeypatch):
    class Point:
        name, value, dist = "mean", "elsewhere:mean", None

    monkeypatch.setattr(registry, "entry_points", lambda group: [Point] if group == "sae_bench.controls" else [])
    with pytest.raises(SaeBenchError, match=r"mean is registered twice in sae_bench\.controls"):
        registry.controls()
    Point.name = "other"
    assert registry.controls()["other"] == Entry("other", "elsewhere:mean", "from the package ?")


# --- definitions from elsewhere --------------------------------------------------------------------------------------


def test_a_folder_of_tasks_is_added_after_the_shipped_ones(tmp_path):
    write(tmp_path)
    assert list(tasks(str(tmp_path))) == [*tasks(), "mine"]
    assert "mine" not in tasks()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("version = 1", "version = 0", "'version': Input should be greater than or equal to 1"),
        ('title = "Mine"', "", "'title': Field required"),
        ('better = "none"', 'better = "upper"', "'metrics.l0.better': Input should be 'higher', 'lower' or 'none'"),
        ('better = "none"', 'beter = "none"', "'metrics.l0.better': Field required"),
        ('unit = "latents"', 'unit = "latents"\nunits = 3', "'metrics.l0.units': Extra inputs are not permitted"),
        ('table = "document"', 'table = "token"', "'metrics.l0.table'"),
        (
            'table = "document"',
            'table = "document"\ntarget = nan',
            "'metrics.l0.target': Input should be a finite number",
        ),
        ('code = "sae_bench.tasks.sparsity:Sparsity"', 'code = "rm -rf"', "'code': String should match pattern"),
        ('id = "mine"', 'id = "../mine"', "'id': String should match pattern"),
        ('id = "mine"', 'id = "other"', "the id is 'other', and the folder 'mine'"),
        ("version = 1", "version = ", "is not valid TOML"),
        ("version = 1", "version = 1\nversion = 2", "is not valid TOML"),
    ],
)
def test_errors_name_file_and_field(tmp_path, old, new, message):
    file = write(tmp_path, DEFINITION.replace(old, new, 1))
    with pytest.raises(TaskError) as caught:
        read_task(file)
    assert str(caught.value).startswith(str(file))
    assert message in str(caught.value)


def test_files_that_are_no_text_are_refused(tmp_path):
    file = write(tmp_path)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TaskError, match="is not valid TOML"):
        read_task(file)
    file.unlink()
    file.mkdir()
    with pytest.raises(TaskError, match="cannot be read"):
        read_task(file)


def test_an_id_cannot_be_used_twice(tmp_path):
    text = DEFINITION.replace('id = "mine"', 'id = "sparsity"')
    file = write(tmp_path, text, "sparsity")
    with pytest.raises(TaskError, match="the task id sparsity is taken already") as caught:
        tasks(str(tmp_path))
    assert str(file) in str(caught.value)


def test_a_folder_without_tasks_is_refused(tmp_path):
    write(tmp_path)
    with pytest.raises(UsageError, match=r"with <task>/task\.toml files"):
        tasks(str(tmp_path / "mine"))  # one level too deep
    with pytest.raises(UsageError, match="is not a folder"):
        tasks(str(tmp_path / "nothing"))


# --- the digest that decides comparability ---------------------------------------------------------------------------


def digest(tmp_path, text=DEFINITION):
    found = definition_sha256(read_task(write(tmp_path, text)))
    shutil.rmtree(tmp_path / "mine")
    return found


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("version = 1", "version = 2"),
        ("size = 3", "size = 4"),
        ("other = [1, 2]", "other = [2, 1]"),
        ("sparsity:Sparsity", "sparsity:Other"),
        ('better = "none"', 'better = "lower"'),
        ('unit = "latents"', 'unit = "1"'),
        ('table = "document"', 'table = "latent"'),
        ('table = "document"', 'table = "document"\ninterval = "wilson"'),
        ("[metrics.l0]", "[metrics.l2]"),
    ],
)
def test_what_changes_a_number_changes_the_digest(tmp_path, old, new):
    assert digest(tmp_path, DEFINITION.replace(old, new, 1)) != digest(tmp_path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("What is mine?", "What else is mine?"),
        ('title = "Mine"', 'title = "My own"'),
        ("mean number of active", "how many active"),
        ('name = "L0"', 'name = "l-zero"\nheadline = false'),
        ("size = 3\nother = [1, 2]", "other = [1, 2]\nsize = 3"),
        ("version = 1", "# a comment\nversion   =   1"),
    ],
)
def test_prose_and_order_of_lines_do_not(tmp_path, old, new):
    changed = DEFINITION.replace(old, new, 1)
    assert changed != DEFINITION
    assert digest(tmp_path, changed) == digest(tmp_path)


def test_order_of_metrics_does_not_change_the_digest(tmp_path):
    head, first, second = re.split(r"(?=\[metrics)", DEFINITION)
    assert digest(tmp_path, head + second + first) == digest(tmp_path)
