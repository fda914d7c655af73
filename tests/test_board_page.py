"""The page in a real browser: it renders, sorts, filters, and no text of a result becomes script."""

import json
import re
from xml.etree import ElementTree

import pytest

from sae_bench.board import columns, figures, page
from sae_bench.board.collect import collect
from sae_bench.board.details import blocks
from sae_bench.registry import tasks
from sae_bench.results.heads import whole
from tests.builders.boards import COLUMNS, HOSTILE, SNAPSHOTS, main_board, make, put, small
from tests.builders.browser import html

pytest.importorskip("vl_convert", reason="the extra 'board' is not installed")


DETAILS = {
    "tokens": 999,
    "density_histogram": {"log10_edges": [-3.0, -2.0, -1.0, 0.0], "latents": [0, 7, 3]},
}
FIGURES = {"density": 0.1, "f1": 0.5, "precision": 0.25, "recall": 0.75, "auprc": 0.5, "size": 2.0, "entropy": 1.0}
RULES = {"rules": [{"latent": 3, **FIGURES, "tokens": [" the", "a"], "added_pairs": [["x", "y"]], "removed_pairs": []}]}
SETS = {"sets": {"is_code": {"latent": 9, "metrics": {"probe_r": {"value": 0.5, "low": 0.4, "high": 0.6}}}}}
TOKEN = {"id": 1, "token": "Zürich", "logit": 1.5}
OUTPUTS = {"outputs": [{"latent": 5, "positions": 3, "density": 0.1, "effect_sparsity": None, "kl": 0.25,
                        "promoted": [TOKEN], "suppressed": [TOKEN], "direct_promoted": [TOKEN],
                        "direct_suppressed": []}],
           "by_density": [{"from": 0.1, "to": 0.2, "ablations": 9, "value": 0.5, "low": 0.4, "high": 0.6}]}  # fmt: skip
EXPLAINED = {"explanations": [{"latent": 7, "status": "ok", "explanation": "fires on cities", "detection": 0.5,
                               "auroc": 0.75, "rule_lift": None,
                               "windows": [{"stratum": 0, "text": "in <<Zürich>>", "p": 0.9}]}]}  # fmt: skip


def full(folder):
    """The small board with details of every kind."""
    small(folder)
    hashes = {"task_sha256": "2" * 64}
    put(folder, "lab/a_1", "sparsity", {"l0": 32.0}, details=DETAILS, **hashes)
    put(folder, "lab/a_1", "token_rules", {"rule_f1": 0.5}, details=RULES)
    put(folder, "lab/a_1", "probe_recovery", {"probe_r": 0.5}, details=SETS)
    put(folder, "lab/a_1", "downstream_sparsity", {"effect_sparsity": 0.5}, details=OUTPUTS)
    put(folder, "lab/a_1", "autointerp", {"detection": 0.5}, details=EXPLAINED)
    return folder


# --- without a browser -----------------------------------------------------------------------------------------------


def test_the_same_results_are_the_same_page(tmp_path):
    assert html(full(tmp_path)) == html(tmp_path)


def test_the_page_around_its_scripts_looks_as_it_did(tmp_path):
    """To accept a change: delete the file, run this test, read what it wrote."""
    made = html(small(tmp_path))
    start = made.index("<header")
    shown = made[start : made.index("</script>", start)]
    kept = SNAPSHOTS / "board.html"
    if not kept.exists():
        kept.write_text(shown, encoding="utf-8")
        pytest.fail(f"{kept} was missing and is written anew: read it, then run again")
    assert shown == kept.read_text(encoding="utf-8")


def test_a_page_asks_for_nothing_from_elsewhere(tmp_path):
    made = html(full(tmp_path))
    assert "default-src &#39;none&#39;; script-src &#39;sha256-" in made
    assert "unsafe-eval" not in made
    body = made[made.index("<body") : made.index("<script>", made.index("<body"))]
    assert not [name for name in ("src=", 'href="http', "url(", "@import") if name in body]


@pytest.mark.parametrize("text", [*HOSTILE, "&lt;", "\u2029", "<!--", "]]>"])
def test_nothing_ends_the_island(text):
    made = page.island({"name": [text]})
    assert json.loads(made) == {"name": [text]}
    assert not set(made) & set("<>&\u2028\u2029")


@pytest.mark.parametrize(
    ("task", "details", "field"),
    [
        ("probe_recovery", {"sets": [1, 2]}, "details.sets"),
        ("sparse_probing", {"sets": {"a": None}}, "details.sets"),
        ("sparsity", {"density_histogram": {"latents": [1]}}, "details.density_histogram"),
        ("sparsity", {"density_histogram": {"log10_edges": [0, "x"], "latents": [1]}}, "details.density_histogram"),
        ("sparsity", {"density_histogram": {"log10_edges": [0], "latents": [1]}}, "details.density_histogram"),
        ("token_rules", {"rules": [{"latent": 1}]}, "details.rules"),
        ("downstream_sparsity", {"outputs": "much"}, "details.outputs"),
        ("autointerp", {"explanations": [3]}, "details.explanations"),
        ("autointerp", {"judge": 3}, "details.judge"),
    ],
)
def test_details_that_cannot_be_read_are_told_and_drawn_as_they_stand(tmp_path, task, details, field):
    headline = next(name for name, metric in tasks()[task].metrics.items() if metric.headline)
    file = put(tmp_path, "a", task, {headline: 3.0}, details={"tokens": 5, **details})
    (entry,) = collect(tmp_path, tasks()).entries
    problems = []
    counts, *others = blocks(file, whole(file, entry.result), 5, problems)
    assert counts["rows"][0] == ["tokens", "5"]
    name = field.removeprefix("details.").replace("_", " ")
    assert name in [one["title"] for one in others] + [row[0] for row in counts["rows"]]
    (problem,) = problems
    assert f"{file}: '{field}'" in problem


def test_the_command_writes_the_page_and_tells_of_what_it_left_out(tmp_path, capsys):
    file = put(tmp_path / "r", "a", "token_rules", {"rule_f1": 0.5}, details={"rules": 3})
    assert main_board(tmp_path / "r", "--format", "html", "--out", str(tmp_path / "b.html")) == 0
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith(f"sae-bench: {file}: 'details.rules' is not what this sae-bench writes")
    assert "What is not shown" in (tmp_path / "b.html").read_text()


def test_details_are_bounded(tmp_path):
    many = {"rules": [{**RULES["rules"][0], "latent": i, "tokens": ["x" * 999] * 20} for i in range(200)]}
    put(tmp_path, "a", "token_rules", {"rule_f1": 0.5}, details=many)
    (entry,) = collect(tmp_path, tasks()).entries
    (block,) = blocks(entry.file, whole(entry.file, entry.result), 5, [])
    assert (len(block["rows"]), block["more"]) == (5, 195)
    assert max(len(cell) for row in block["rows"] for cell in row) <= 240


@pytest.mark.slow
def test_500_results_of_20_metrics_fit_in_5_mb(tmp_path):
    values = {
        "reconstruction": ("fvu", "nmse", "mse", "cosine", "norm_ratio", "relative_reconstruction_bias"),
        "loss_recovered": ("ce_clean", "ce_spliced", "ce_zero", "ce_mean", "delta_ce", "loss_recovered_zero", "kl"),
        "sparsity": ("l0", "l1", "dead_fraction", "dense_fraction_1pct", "dense_fraction_10pct"),
        "token_rules": ("rule_f1", "rule_entropy"),
    }
    rules = {"rules": RULES["rules"] * 40}
    details = {"sparsity": DETAILS, "token_rules": rules}
    for task, metrics in values.items():
        file = put(tmp_path, "org/sae", task, {name: 1 / 7 for name in metrics}, details=details.get(task))
        written = file.read_text()
        for i in range(1, 500):
            twin = tmp_path / f"org__sae_{i}" / "0" / file.name
            twin.parent.mkdir(parents=True, exist_ok=True)
            twin.write_text(written.replace('"org/sae"', f'"org/sae_{i}"'))
    made = html(tmp_path)
    assert 2_000_000 < len(made.encode()) < 5_000_000
    assert made.count('<tr data-sae="499">') == 4
    data = made.split('id="data">', 1)[1].split("</script>", 1)[0]
    assert {len(one) for one in json.loads(data)["details"]} == {4}


def test_the_frontier_counts_down_where_more_is_better(tmp_path):
    put(tmp_path, "a", "reconstruction", {"fvu": 0.1, "cosine": 0.9, "norm_ratio": 0.8, "mse": 2.0})
    put(tmp_path, "a", "loss_recovered", {"ce_clean": 3.0})
    put(tmp_path, "a", "sparsity", {"l0": 32.0, "dead_fraction": 0.1})
    put(tmp_path, "a", "autointerp", {"detection": 0.5, "null_empty": 0.1})
    wanted = columns.read_columns(COLUMNS, tasks(), everything=True)
    (place,) = figures.places(make(tmp_path, everything=True), collect(tmp_path, tasks()), wanted)
    axes = {axis.id: axis for axis in place.axes}

    def point(x, y):
        (found,) = figures.points(place, axes[x], axes[y])
        return found["x"], found["cx"], found["y"], found["cy"]

    assert point("reconstruction.cosine", "sparsity.l0") == (0.9, -0.9, 32.0, 32.0)
    assert point("autointerp.detection", "autointerp.null_empty") == (0.5, -0.5, 0.1, None)  # without a direction
    assert point("reconstruction.fvu", "sparsity.l0")[1] == 0.1
    assert point("sparsity.l0", "loss_recovered.ce_clean")[3] is None  # no direction
    assert point("sparsity.l0", "sparsity.dead_fraction")[3] is None  # not ranked
    assert point("sparsity.l0", "reconstruction.norm_ratio")[3] is None  # nor by its distance from a target
    assert point("reconstruction.cosine", "reconstruction.fvu")[1::2] == (None, None)  # of SAEs of any L0
    assert point("reconstruction.fvu", "autointerp.detection")[1::2] == (None, None)


def test_plots_are_written_as_svg_and_png_with_a_frontier(tmp_path, capsys):
    small(tmp_path / "r")
    put(tmp_path / "r", HOSTILE[0], "reconstruction", {"fvu": 0.05})
    put(tmp_path / "r", HOSTILE[0], "sparsity", {"l0": 99.0})
    assert main_board(tmp_path / "r", "--plots", str(tmp_path / "p")) == 0
    files = sorted(tmp_path.glob("p/*"))
    assert [file.suffix for file in files] == [".png", ".svg"] * 2
    svg = next(file for file in files if "fvu" in file.name and file.suffix == ".svg")
    root = ElementTree.fromstring(svg.read_bytes())
    (frontier,) = [e for e in root.iter() if e.get("stroke-dasharray") and e.get("aria-roledescription") == "line mark"]
    assert len(re.findall("[ML]", frontier.get("d"))) == 2  # a_1 and the hostile one; b_2 and c_3 are beaten
    assert b"<script" not in svg.read_bytes()
    assert files[0].read_bytes().startswith(b"\x89PNG")
    before = [file.read_bytes() for file in files]
    assert main_board(tmp_path / "r", "--plots", str(tmp_path / "p")) == 0
    assert [file.read_bytes() for file in files] == before


def test_nothing_to_plot_is_a_sentence(tmp_path, capsys):
    put(tmp_path, "a", "reconstruction", {"fvu": 0.1})
    assert main_board(tmp_path, "--plots", str(tmp_path / "p")) == 2
    assert "there is nothing to plot" in capsys.readouterr().err


# --- in a browser ----------------------------------------------------------------------------------------------------

ROWS = "Array.from(document.querySelectorAll('.scores')[0].querySelectorAll('tbody:not(.controls) tr'))"
NAMES = f"{ROWS}.filter((r) => !r.hidden).map((r) => r.cells[0].textContent)"


def test_the_page_renders(opened, tmp_path):
    b = opened(small(tmp_path / "r"))
    b.until("document.querySelectorAll('.chart svg.marks').length === 2")
    assert b.js("document.querySelectorAll('.scores').length") == 4
    assert b.js(NAMES) == ["lab/a_1", "lab/b_2", "lab/c_3"]
    assert b.js("document.querySelector('#count').textContent") == "4 of 4 SAEs"
    marks = "document.querySelectorAll('#chart0 .mark-symbol.role-mark path').length"
    assert b.js(marks) == 3
    assert b.faults() == []


def test_a_click_on_a_heading_sorts_and_a_second_turns_round(opened, tmp_path):
    b = opened(small(tmp_path / "r"))
    click = "document.querySelectorAll('.scores')[0].querySelectorAll('th button')[{}].click()"
    for column, first in ((5, ["lab/b_2", "lab/a_1", "lab/c_3"]), (3, ["lab/a_1", "lab/b_2", "lab/c_3"])):
        b.js(click.format(column))
        assert b.js(NAMES) == first
        b.js(click.format(column))
        assert b.js(NAMES) == first[::-1]
    assert b.js("document.querySelectorAll('.scores')[0].querySelectorAll('th[aria-sort]').length") == 1
    assert b.js("document.querySelector('.scores tbody.controls').rows.length") == 1


def test_a_long_table_begins_with_its_best_rows(opened, tmp_path):
    for i in range(120):
        put(tmp_path / "r", f"s{i:03d}", "reconstruction", {"fvu": 1 + i / 7})
    b = opened(tmp_path / "r")
    assert b.js(NAMES) == [f"s{i:03d}" for i in range(100)]
    b.js("document.querySelectorAll('.scores')[0].querySelectorAll('th button')[4].click()")
    b.js("document.querySelectorAll('.scores')[0].querySelectorAll('th button')[4].click()")
    assert b.js(NAMES) == [f"s{i:03d}" for i in range(119, 19, -1)]
    assert b.js("document.querySelector('.scores .all').textContent") == "show all 120"
    b.js("document.querySelector('.scores .all').click()")
    assert b.js(f"{NAMES}.length") == 120


@pytest.mark.slow
def test_a_table_of_thousands_grows_by_a_thousand_rows(opened, tmp_path):
    written = put(tmp_path / "r", "one", "reconstruction", {"fvu": 7.0}).read_text()
    for i in range(1250):
        twin = tmp_path / "r" / f"s{i}" / "0" / "reconstruction@v1-0.json"
        twin.parent.mkdir(parents=True)
        twin.write_text(written.replace('"one"', f'"s{i:04d}"').replace('"value": 7.0', f'"value": {6.5 + i / 1250}'))
    b = opened(tmp_path / "r")
    b.until("document.querySelectorAll('#chart0 canvas').length === 1")  # an image: a mark each would be slow
    click = "document.querySelector('.scores .all').click()"
    for shown, button in ((100, "show 1000 more of 1251"), (1100, "show all 1251")):
        assert b.js(f"{NAMES}.length") == shown
        assert b.js("document.querySelector('.scores .all').textContent") == button
        b.js(click)
    assert b.js(f"{NAMES}.length") == 1251
    assert b.js("document.querySelector('.scores .all').hidden")
    b.js("document.querySelectorAll('.scores')[0].querySelectorAll('th button')[0].click()")
    assert b.js(NAMES)[:2] == ["one", "s0000"]
    assert b.faults() == []


def test_filters_hide_rows_tables_and_marks(opened, tmp_path):
    b = opened(small(tmp_path / "r"))
    b.until("document.querySelectorAll('.chart svg.marks').length === 2")

    def choose(name, value):
        b.js(f"document.getElementById('filter-{name}').value = {json.dumps(value)};"
             "document.getElementById('filters').dispatchEvent(new Event('input'))")  # fmt: skip

    choose("architecture", "topk")
    assert b.js(NAMES) == ["lab/a_1"]
    b.until("document.querySelectorAll('#chart0 .mark-symbol.role-mark path').length === 1")
    choose("architecture", "")
    choose("width", "4096")
    assert b.js("Array.from(document.querySelectorAll('.scores')).filter((s) => !s.hidden).length") == 1
    assert b.js("document.querySelector('#count').textContent") == "1 of 4 SAEs"
    choose("width", "")
    choose("hook", "blocks.0.hook_resid_post")
    assert b.js("document.querySelector('#count').textContent") == "3 of 4 SAEs"
    choose("name", "C_3")
    assert b.js(NAMES) == ["lab/c_3"]
    choose("name", "nobody")
    assert b.js("Array.from(document.querySelectorAll('.scores')).every((s) => s.hidden)")
    assert b.faults() == []


def test_any_metric_against_any(opened, tmp_path):
    b = opened(small(tmp_path / "r"))
    menu = "document.getElementById('y0')"
    b.js(f"{menu}.value = Array.from({menu}.options).find((o) => o.textContent.startsWith('norm ratio')).value")
    b.js(f"{menu}.dispatchEvent(new Event('change'))")
    b.until("document.querySelector('#chart0').textContent.includes('norm ratio (target 1)')")
    assert b.faults() == []


def test_pointing_at_a_mark_names_its_sae(opened, tmp_path):
    b = opened(small(tmp_path / "r"))
    b.until("document.querySelectorAll('#chart0 .mark-symbol.role-mark path').length === 3")
    b.js("document.getElementById('chart0').scrollIntoView()")
    box = "document.querySelector('#chart0 .mark-symbol.role-mark path').getBoundingClientRect()"
    x, y = b.js(f"[{box}.x + {box}.width / 2, {box}.y + {box}.height / 2]")
    b.send("Input.dispatchMouseEvent", type="mouseMoved", x=x - 3, y=y - 3)
    b.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    b.until("document.querySelector('#vg-tooltip-element.visible')?.textContent.includes('lab/')")


def test_a_page_of_one_sae_has_its_details(opened, tmp_path):
    b = opened(full(tmp_path / "r"), f"#sae-{b'lab/a_1'.hex().ljust(12, '0')[:12]}")
    b.until("document.querySelectorAll('#detail .chart svg.marks').length === 1")
    shown = b.js("document.getElementById('detail').innerText")
    for part in ("lab/a_1", "topk, 1024 latents", "fvu", "0.100 [0.090, 0.110]", "mean", "is_code", "0.50 [0.40, 0.60]",
                 "fires on cities", "in Zürich", '" the" "a"', '"x" "y"', '"Zürich" +1.5'):  # fmt: skip
        assert part in shown
    assert b.js("document.getElementById('main').hidden")
    b.js("location.hash = ''")
    b.until("document.getElementById('detail').hidden && !document.getElementById('main').hidden")
    assert b.faults() == []


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_text_runs_no_script(opened, tmp_path, name):
    details = json.loads(json.dumps({**DETAILS, **RULES, **SETS, **OUTPUTS, **EXPLAINED}).replace("Zürich", "TEXT"))
    details["rules"][0]["tokens"] = [name]
    details["explanations"][0]["explanation"] = name
    details["outputs"][0]["promoted"][0]["token"] = name
    details["sets"] = {name: details["sets"]["is_code"]}
    details[name] = name
    changes = {"architecture": name, "model": name, "hooks_in": (name,), "hooks_out": (name,)}
    for sae, fvu in ((name, 0.1), ("plain", 0.2)):
        put(tmp_path / "r", sae, "sparsity", {"l0": 3.0 + fvu}, details=details, **changes)
        file = put(tmp_path / "r", sae, "reconstruction", {"fvu": fvu}, **changes)
    content = json.loads(file.read_text())
    content["metrics"][name] = content["metrics"]["fvu"]
    content["controls"][name] = content["controls"]["mean"]
    file.write_text(json.dumps(content))
    b = opened(tmp_path / "r")
    b.until("document.querySelectorAll('.chart svg.marks').length === 2")
    shown = b.js("JSON.stringify(Array.from(document.querySelectorAll('tbody a'), (a) => a.textContent))")
    assert page.line(name) in json.loads(shown)
    b.js("document.querySelector('tbody a').click()")
    b.until("document.querySelectorAll('#detail .chart svg.marks').length === 1")
    assert b.js("document.querySelectorAll('body script').length") == 3
    assert b.js("document.querySelectorAll('img, iframe, object, embed, [onerror], [onload]').length") == 0
    assert b.faults() == []


def test_a_script_that_got_in_all_the_same_would_not_run(browser, tmp_path):
    """The page's policy is a second wall: only its own scripts run, by their hashes."""
    made = html(small(tmp_path / "r"))
    file = tmp_path / "board.html"
    hole = '<main id="main">'
    assert hole in made
    injected = "<script>window.broken = 1</script><img src=x onerror='window.broken = 2'>"
    file.write_text(made.replace(hole, hole + injected), encoding="utf-8")
    browser.open(file)
    browser.until("document.querySelectorAll('.chart svg.marks').length === 2")
    assert browser.js("window.broken === undefined")
