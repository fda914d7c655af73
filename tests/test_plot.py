"""Figures for print: what stands in them, that nothing is mixed, and that their files are what they claim."""

import json
import struct
import sys
import xml.etree.ElementTree as ET

import pytest

from sae_bench import registry
from sae_bench.board import collect
from sae_bench.cli import main
from sae_bench.cli import plot as verb
from sae_bench.errors import UsageError
from sae_bench.plot import controls, density, depth, draw, kinds, labels, select, xy
from sae_bench.plot.scales import Scale
from sae_bench.plot.style import COLOURS, SHAPES, Paper, fitted, length, text_width, wrapped
from tests.builders import plots
from tests.builders.boards import HOSTILE
from tests.builders.results import changed

pytest.importorskip("vl_convert")
FVU, L0, KL = "reconstruction.fvu", "sparsity.l0", "loss_recovered.kl"


@pytest.fixture(scope="module")
def thirty(tmp_path_factory):
    return plots.thirty(tmp_path_factory.mktemp("thirty"))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two SAEs, with what each kind of figure needs."""
    folder = tmp_path_factory.mktemp("two")
    for i, name in enumerate(("lab/a", "lab/b"), 1):
        plots.put(folder, name, "sparsity", {"l0": 10.0 * i}, details=plots.histogram(-3))
        plots.put(folder, name, "reconstruction", {"fvu": 0.4 / i}, controls={"mean": {"fvu": 1.0}})
        plots.put(folder, name, "loss_recovered", {"kl": 0.2 / i})
    return folder


@pytest.fixture(scope="module")
def layers(tmp_path_factory):
    return plots.layers(tmp_path_factory.mktemp("layers"))


def read(folder, **only):
    collection = collect.collect(folder, registry.tasks())
    return collection, select.wanted(collection, select.Only(**only))


def against(folder, x=L0, y=FVU, *, curves=True, protocol=None, **look):
    collection, entries = read(folder)
    axes = tuple(select.metric(name, collection, entries) for name in (x, y))
    return kinds.against(entries, axes, select.Only(protocol=protocol), kinds.Look(**look), curves=curves)


def over_layers(folder, **look):
    collection, entries = read(folder)
    return depth.depth(entries, select.metric(FVU, collection, entries), select.Only(), kinds.Look(**look))


def plot(*arguments):
    return main.main(["plot", *map(str, arguments)])


def texts(spec):
    """All texts that the layers of a specification write."""
    views = spec.get("concat", [spec])
    return [row["t"] for view in views for layer in view["layer"] for row in layer["data"]["values"] if "t" in row]


# --- points and curves -----------------------------------------------------------------------------------------------


def test_every_sae_is_a_point_with_its_name_and_intervals(thirty):
    made = against(thirty)
    (panel,) = made.figure.panels
    assert len(panel.points) == 30
    point = next(p for p in panel.points if p.name == "topk_k33")
    assert point.x.value == 33.0
    assert (point.y.low, point.y.high) == pytest.approx((0.96 * point.y.value, 1.04 * point.y.value))
    assert {p.series for p in panel.points} == set(plots.ARCHITECTURES)
    assert panel.header == ""


def test_the_curve_of_an_architecture_is_what_no_other_of_it_beats(tmp_path):
    for name, l0, fvu in (("a", 10, 0.5), ("worse", 12, 0.6), ("b", 20, 0.3), ("c", 40, 0.2)):
        plots.put(tmp_path, name, "sparsity", {"l0": l0})
        plots.put(tmp_path, name, "reconstruction", {"fvu": fvu})
    (panel,) = against(tmp_path).figure.panels
    assert {p.name for p in panel.points if p.joined} == {"a", "b", "c"}
    assert not any(p.joined for p in against(tmp_path, curves=False).figure.points)


def test_of_a_metric_that_is_better_higher_the_curve_is_the_upper_one(tmp_path):
    for name, l0, r in (("a", 10, 0.5), ("worse", 12, 0.4), ("b", 20, 0.7)):
        plots.put(tmp_path, name, "sparsity", {"l0": l0})
        plots.put(tmp_path, name, "probe_recovery", {"probe_r": r})
    assert [p.name for p in against(tmp_path, y="probe_r").figure.points if p.joined] == ["a", "b"]


def test_of_a_metric_that_ranks_nobody_the_curve_goes_through_all(tmp_path):
    for name, l0, dead in (("a", 10, 0.1), ("b", 12, 0.4), ("c", 20, 0.3)):
        plots.put(tmp_path, name, "sparsity", {"l0": l0, "dead_fraction": dead})
    assert all(p.joined for p in against(tmp_path, y="dead_fraction").figure.points)


def test_widths_are_told_apart_and_share_the_colour_of_their_architecture(tmp_path):
    for width in (1024, 4096):
        for kind in ("topk", "relu"):
            plots.put(tmp_path, f"{kind}{width}", "sparsity", {"l0": 10}, width=width, architecture=kind)
            plots.put(tmp_path, f"{kind}{width}", "reconstruction", {"fvu": 0.1}, width=width, architecture=kind)
    series = against(tmp_path).figure.series
    assert [one.name for one in series] == [f"{k}, {w} latents" for k in ("relu", "topk") for w in (1024, 4096)]
    assert len({one.shape for one in series}) == 4
    assert len({one.colour for one in series}) == 2


def test_names_are_short_and_never_two_alike(tmp_path):
    for sha in ("a" * 64, "b" * 64):
        for task, values in (("sparsity", {"l0": 10}), ("reconstruction", {"fvu": 0.1})):
            from tests.builders import boards

            boards.put(tmp_path, "lab/one", task, values, sha=sha)
            boards.put(tmp_path, "lab/two", task, values, sha=sha)
    assert sorted(p.name for p in against(tmp_path).figure.points) == [
        *("one (aaaaaa)", "one (bbbbbb)"), *("two (aaaaaa)", "two (bbbbbb)")
    ]  # fmt: skip


def test_figures_without_intervals_are_open_and_narrow_ones_dashed(tmp_path):
    for name, value in (
        ("open", plots.bare("reconstruction", "fvu", 0.2)),
        ("narrow", plots.narrow("reconstruction", "fvu", 0.3)),
    ):
        plots.put(tmp_path, name, "sparsity", {"l0": 10})
        plots.put(tmp_path, name, "reconstruction", {"fvu": value})
    figure = against(tmp_path).figure
    spec = xy.draw(figure, Paper(), (170.0, 120.0)).spec
    hollow = [layer for layer in spec["layer"] if layer["mark"].get("fill") == "white"]
    assert [row["sae"] for layer in hollow for row in layer["data"]["values"]] == ["open"]
    dashed = [layer for layer in spec["layer"] if layer["mark"]["type"] == "rule" and "strokeDash" in layer["mark"]]
    assert sum(len(layer["data"]["values"]) for layer in dashed) == 1
    assert "dashed" in " ".join(spec["title"]["text"])
    assert "open" in " ".join(spec["title"]["text"])
    plain = xy.draw(against(tmp_path, intervals="none").figure, Paper(), (170.0, 120.0)).spec
    assert not [layer for layer in plain["layer"] if layer["mark"]["type"] == "rule" and "l" in str(layer["data"])]


def test_bands_are_drawn_along_curves(thirty):
    spec = xy.draw(against(thirty, intervals="bands").figure, Paper(), (170.0, 120.0)).spec
    assert sum(layer["mark"]["type"] == "area" for layer in spec["layer"]) == len(plots.ARCHITECTURES)


def test_a_narrow_interval_is_dashed_in_a_band_too(tmp_path):
    for i in (1, 2):
        plots.put(tmp_path, f"s{i}", "sparsity", {"l0": 10 * i})
        plots.put(tmp_path, f"s{i}", "reconstruction", {"fvu": plots.narrow("reconstruction", "fvu", 0.3 / i)})
    spec = xy.draw(against(tmp_path, intervals="bands").figure, Paper(), (170.0, 120.0)).spec
    dashed = [layer for layer in spec["layer"] if layer["mark"].get("strokeDash") == [1.5, 1.2]]
    assert sum(len(layer["data"]["values"]) for layer in dashed) == 2


def test_a_metric_of_one_letter_says_of_which_task_it_is(tmp_path):
    plots.put(tmp_path, "a", "sparsity", {"l0": 10})
    plots.put(tmp_path, "a", "probe_recovery", {"probe_r": 0.5})
    assert against(tmp_path, y="probe_r").figure.y == "R (probe recovery) ↑"


# --- controls --------------------------------------------------------------------------------------------------------


def test_the_best_control_is_the_strongest_that_an_sae_has_to_beat(thirty):
    (panel,) = against(thirty).figure.panels
    assert [c.name for c in panel.controls] == ["random_fit"]
    assert panel.controls[0].level is None
    (panel,) = against(thirty, controls="mean").figure.panels
    assert panel.controls[0].level == 1.0
    assert [c.name for c in against(thirty, controls="all").figure.panels[0].controls] == [
        "identity",
        "mean",
        "random_fit",
    ]
    assert against(thirty, controls="none").figure.panels[0].controls == ()
    with pytest.raises(UsageError, match="did you mean 'mean'"):
        against(thirty, controls="maen")


def test_a_control_that_is_0_is_not_on_a_logarithmic_axis(thirty):
    made = against(thirty, controls="all", log="x,y")
    assert "identity" not in [c.name for c in made.figure.panels[0].controls]
    assert any("identity" in note for note in made.notes)


def test_against_another_metric_a_control_stands_at_its_own_figures(tmp_path):
    for name, fvu in (("a", 0.2), ("b", 0.3)):
        plots.put(tmp_path, name, "reconstruction", {"fvu": fvu}, controls={"pca": {"fvu": 2 * fvu}, "x": {"fvu": fvu}})
        plots.put(tmp_path, name, "loss_recovered", {"kl": fvu / 2}, controls={"pca": {"kl": fvu}})
    made = against(tmp_path, KL, FVU, curves=False, controls="all")
    (control,) = made.figure.panels[0].controls
    assert sorted(control.places) == [(0.2, 0.4), (0.3, 0.6)]
    assert not control.joined
    assert any("x" in note and "left out" in note for note in made.notes)


def test_a_control_of_one_level_stands_at_its_own_figures_too(tmp_path):
    for name in "ab":
        plots.put(tmp_path, name, "reconstruction", {"fvu": 0.2}, controls={"mean": {"fvu": 1.0}})
        plots.put(tmp_path, name, "loss_recovered", {"kl": 0.1}, controls={"mean": {"kl": 8.0}})
    (control,) = against(tmp_path, KL, FVU, curves=False, controls="mean").figure.panels[0].controls
    assert control.places[0] == (8.0, 1.0)
    assert control.level is None, "a line across the panel would say so of every KL"


# --- what may stand in one panel -------------------------------------------------------------------------------------

OTHER = {
    "protocol": {"mask": "none"},
    "text": {"data_sha256": "9" * 64, "data": "pile"},
    "hook": {"hooks_in": ("blocks.1.hook_resid_post",), "hooks_out": ("blocks.1.hook_resid_post",)},
    "model": {"model": "pythia", "model_sha256": "8" * 64},
    "same name of a model": {"model_sha256": "8" * 64},
    "suite": {"suite": "gpt2-small@" + "a" * 64},
    "parameters": {"parameters": {"judge": "x"}},
}


@pytest.mark.parametrize("what", OTHER)
@pytest.mark.parametrize("kind", ["pareto", "density"])
def test_what_was_measured_otherwise_has_a_panel_of_its_own(tmp_path, what, kind):
    for changes, names in (({}, "ab"), (OTHER[what], "cd")):
        for name in names:
            plots.put(tmp_path, name, "sparsity", {"l0": 10}, details=plots.histogram(-3), **changes)
            plots.put(tmp_path, name, "reconstruction", {"fvu": 0.2}, **changes)
    if kind == "pareto":
        headers = [panel.header for panel in against(tmp_path).figure.panels]
    else:
        collection, entries = read(tmp_path)
        made, _, _ = density.densities(select.metric(L0, collection, entries), entries, select.Only())
        headers = [header for header, _ in made.panels]
    assert len(set(headers)) == 2
    assert all(headers)


def test_a_figure_is_paired_with_the_l0_of_its_own_text(tmp_path):
    for n, l0 in ((2, 10.0), (500, 11.0)):
        plots.put(tmp_path, "a", "sparsity", {"l0": l0}, n_documents=n)
        plots.put(tmp_path, "a", "reconstruction", {"fvu": 0.2}, n_documents=n)
    found = {panel.header: panel.points[0].x.value for panel in against(tmp_path).figure.panels}
    assert found == {"2 documents": 10.0, "500 documents": 11.0}


def test_an_l0_of_another_suite_or_model_is_none(tmp_path):
    plots.put(tmp_path, "a", "sparsity", {"l0": 10.0})
    plots.put(tmp_path, "a", "reconstruction", {"fvu": 0.2}, suite="s@" + "1" * 64)
    with pytest.raises(UsageError, match="no SAE has both"):
        against(tmp_path)


def test_a_claim_of_a_suite_that_does_not_hold_is_unofficial(tmp_path):
    for name, suite in (("a", None), ("b", "demo-v1@" + "a" * 64)):
        plots.put(tmp_path, name, "sparsity", {"l0": 10.0}, suite=suite)
        plots.put(tmp_path, name, "reconstruction", {"fvu": 0.2}, suite=suite)
    headers = sorted(panel.header for panel in against(tmp_path).figure.panels)
    assert headers == ["unofficial (no suite)", "unofficial, named demo-v1 (aaaaaaaa)"]
    with pytest.raises(UsageError, match="there are: unofficial"):
        read(tmp_path, suite="demo-v1")


def test_too_many_panels_are_refused_with_what_to_do(tmp_path):
    for n in range(select.MOST_PANELS + 1):
        plots.put(tmp_path, "a", "sparsity", {"l0": 10.0}, n_documents=n + 1)
        plots.put(tmp_path, "a", "reconstruction", {"fvu": 0.2}, n_documents=n + 1)
    with pytest.raises(UsageError, match=r"13 ways, .* choose by --model"):
        against(tmp_path)
    digest = next(e.result.protocol for e in read(tmp_path)[1] if e.result.task == "reconstruction")
    assert len(against(tmp_path, protocol=digest[:8]).figure.panels) == 1


def test_unranked_results_are_not_drawn(tmp_path):
    for name in ("a", "b"):
        plots.put(tmp_path, name, "sparsity", {"l0": 10})
        file = plots.put(tmp_path, name, "reconstruction", {"fvu": 0.2})
    changed(file, "details", value={"degraded": "most is missing"})
    assert [p.name for p in against(tmp_path).figure.points] == ["a"]


# --- depth -----------------------------------------------------------------------------------------------------------


def test_depth_has_a_line_for_each_architecture_over_layers(layers):
    made = over_layers(layers)
    (panel,) = made.figure.panels
    assert {p.series for p in panel.points} == {"topk", "jumprelu"}
    assert sorted(p.x.value for p in panel.points if p.series == "topk") == list(range(12))
    assert all(p.joined for p in panel.points)
    assert panel.controls[0].places[0][1] in {0.3 + 0.01 * i for i in range(12)}
    assert made.figure.log == (False, False)


def test_one_layer_has_its_number_and_no_line_straight_up(thirty, tmp_path):
    panel = over_layers(thirty).figure.panels[0]
    assert len({value for _, value in panel.controls[0].places}) > 1
    assert not panel.controls[0].joined
    for layer in (0.0, 5.0, 31.0):
        assert Scale.around([layer], log=False, whole=True).ticks(9) == [layer]
    assert over_layers(thirty, controls="mean").figure.panels[0].controls[0].level == 1.0, "a level is one in any case"


def test_the_caption_of_depth_has_the_protocols_of_its_hook_points(thirty, layers, tmp_path, capsys):
    for folder, said in ((thirty, "protocols: reconstruction v1 "), (layers, "protocols: 12, one a hook point")):
        assert plot(folder, "--kind", "depth", "--metric", "fvu", "--out", tmp_path / "x.json") == 0
        assert said in capsys.readouterr().out


def test_of_several_saes_in_a_layer_those_with_one_name_but_the_layer_are_a_line(tmp_path):
    for k in (16, 32):
        for layer in (0, 10):
            at = (f"blocks.{layer}.hook_mlp_out",)
            plots.put(tmp_path, f"l{layer}/k{k}", "reconstruction", {"fvu": 0.1}, hooks_in=at, hooks_out=at)
    at = ("blocks.0.hook_mlp_out",)
    plots.put(tmp_path, "alone", "reconstruction", {"fvu": 0.3}, hooks_in=at, hooks_out=at)
    made = over_layers(tmp_path)
    lines = {}
    for p in made.figure.points:
        lines.setdefault(p.series, []).append((p.sae.name, p.joined))
    assert sorted(lines["topk: l*/k16"]) == [("l0/k16", True), ("l10/k16", True)]
    assert lines["topk"] == [("alone", False)]
    assert any("alone" in note for note in made.notes)


def test_sites_are_lines_of_their_own_and_hooks_without_a_layer_are_left_out(tmp_path):
    for site in ("hook_mlp_out", "hook_resid_post"):
        plots.layers(tmp_path, 2, ("topk",)) if site == "hook_resid_post" else None
        for layer in (0, 1):
            at = (f"blocks.{layer}.hook_mlp_out",)
            plots.put(tmp_path, f"m{layer}", "reconstruction", {"fvu": 0.1}, hooks_in=at, hooks_out=at)
    plots.put(tmp_path, "e", "reconstruction", {"fvu": 0.1}, hooks_in=("hook_embed",), hooks_out=("hook_embed",))
    made = over_layers(tmp_path)
    assert {p.series for p in made.figure.points} == {"topk, blocks.*.hook_mlp_out", "topk, blocks.*.hook_resid_post"}
    assert any("in no layer" in note for note in made.notes)


@pytest.mark.parametrize(
    ("hook", "layer"),
    [
        ("blocks.11.hook_resid_post", 11), ("model.layers.3.mlp:out", 3), ("transformer.h.0:out", 0),
        ("gpt_neox.layers.5", 5), ("encoder.block.2.layer.1:in", 2), ("hook_embed", None), ("ln_final", None),
        ("model.language_model.layers.10.self_attn:out", 10), ("blocks.1.hook_resid_pre -> blocks.1.hook_mlp_out", 1),
    ],
)  # fmt: skip
def test_the_layer_is_read_from_the_name_of_a_hook_point(hook, layer):
    assert depth.layer_of(hook) == layer


# --- density ---------------------------------------------------------------------------------------------------------


def curves(folder):
    collection, entries = read(folder)
    return density.densities(select.metric(L0, collection, entries), entries, select.Only())


def test_densities_are_those_of_the_results(tmp_path):
    plots.put(tmp_path, "a", "sparsity", {"l0": 10}, details=plots.histogram(-3, n=1000, dead=250))
    made, _, notes = curves(tmp_path)
    ((_, (curve,)),) = made.panels
    assert notes == ()
    assert curve.dead == pytest.approx(0.25, abs=0.01)
    total = sum(s * (b - a) for s, a, b in zip(curve.shares, curve.edges[:-1], curve.edges[1:], strict=True))
    assert total == pytest.approx(0.75, abs=0.01)
    assert density.legend_text(curve) == "a (25 % dead)"
    assert curve.edges[curve.shares.index(max(curve.shares))] in (-3.25, -3.0)


def test_few_saes_are_told_apart_by_name_and_many_by_l0(tmp_path, thirty):
    for name in "ab":
        plots.put(tmp_path, name, "sparsity", {"l0": 10}, details=plots.histogram(-3))
    assert not curves(tmp_path)[0].graded
    made = curves(thirty)[0]
    assert made.graded
    assert [header for header, _ in made.panels] == sorted(plots.ARCHITECTURES)
    spec = density.draw(made, (density.X, density.Y), Paper(), (100.0, 70.0)).spec
    assert len(spec["concat"]) == len(plots.ARCHITECTURES)


@pytest.mark.parametrize(
    "bad",
    [
        {}, {"density_histogram": 3}, {"density_histogram": {"log10_edges": [0, 1], "latents": ["x"]}},
        {"density_histogram": {"log10_edges": [1, 0], "latents": [1]}},
        {"density_histogram": {"log10_edges": [0, 1], "latents": [-1]}},
        {"density_histogram": {"log10_edges": [0], "latents": []}},
        {"density_histogram": {"log10_edges": [0, 1], "latents": [0]}},
    ],
)  # fmt: skip
def test_a_histogram_that_is_none_is_told_and_left_out(tmp_path, bad):
    plots.put(tmp_path, "good", "sparsity", {"l0": 10}, details=plots.histogram(-3))
    plots.put(tmp_path, "bad", "sparsity", {"l0": 10}, details={"tokens": 9, "never_active": 0, **bad})
    made, _, notes = curves(tmp_path)
    assert [c.name for _, own in made.panels for c in own] == ["good"]
    assert any("density_histogram" in note for note in notes)


# --- names -----------------------------------------------------------------------------------------------------------


def boxes(figure, size, numbered=False):
    """The boxes of all names of a figure of one panel, and of its marks."""
    frame = xy.Frame(*xy.axes(figure, figure.panels[0]), ("", ""), size)
    named, left = xy._names(figure, figure.panels[0], frame, Paper(), numbered)
    made = []
    for one in named:
        wide = text_width(one.text, Paper().small)
        x = one.x - {"left": 0, "right": wide, "center": wide / 2}[one.align]
        made.append((x, one.y - 3.6, x + wide, one.y + 3.6))
    points = [frame.at(p.x.value, p.y.value) for p in figure.points]
    return made, [(x - 2, y - 2, x + 2, y + 2) for x, y in points], left


@pytest.mark.parametrize("size", [(180.0, 130.0), (430.0, 310.0)])
@pytest.mark.parametrize("numbered", [True, False])
def test_no_name_is_over_another_over_a_mark_or_cut(thirty, size, numbered):
    made, marks, _ = boxes(against(thirty).figure, size, numbered)
    assert len(made) > 10
    for i, box in enumerate(made):
        assert not any(xy.layers.overlap(box, other) for other in (*made[:i], *marks))
        assert box[0] >= -0.1
        assert box[1] >= -0.1
        assert box[2] <= size[0] + 0.1
        assert box[3] <= size[1] + 0.1


def test_where_names_have_no_room_numbers_stand_and_the_caption_resolves_them(thirty, tmp_path, capsys):
    assert plot(thirty, "--out", tmp_path / "a.json") == 0
    out = capsys.readouterr().out
    spec = json.loads((tmp_path / "a.json").read_text())
    written = set(texts(spec))
    assert {"1", "30"} <= written
    assert "1: batchtopk_k12" in out
    assert "control: random_fit" in written
    assert plot(thirty, "--sae", "*topk_k12,*relu_k140", "--out", tmp_path / "b.json") == 0
    assert {"topk_k12", "batchtopk_k12", "relu_k140"} <= set(texts(json.loads((tmp_path / "b.json").read_text())))
    assert plot(thirty, "--names", "no", "--out", tmp_path / "c.json") == 0
    assert texts(json.loads((tmp_path / "c.json").read_text())) == ["control: random_fit"]


def test_a_number_that_another_point_is_as_near_to_has_a_line():
    """Along a diagonal the number below a point is beside the one before it."""
    places = [(20.0 + 9 * i, 150.0 - 6 * i) for i in range(20)]
    made = labels.place(places, [str(i) for i in range(20)], (230.0, 170.0), 7.0)
    assert made
    for one in made:
        gaps = [abs(one.x - x) + abs(one.y - y) for x, y in places]
        assert one.leads or min(gaps) == gaps[one.place], one
    assert any(one.leads for one in made)


def test_points_at_one_place_do_not_stop_it():
    made = labels.place([(50.0, 50.0)] * 12, [f"name {i}" for i in range(12)], (200.0, 150.0), 7.0)
    assert 1 < len(made) <= 12
    assert labels.place([(1.0, 1.0)] * 99, ["x"] * 99, (99.0, 99.0), 7.0) == []


# --- scales and lengths ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ends", [(0.031, 0.29), (1, 9000), (1e-7, 1e-6), (20, 21), (-3, 4), (5, 5), (0, 0), (1e-9, 1e9)]
)
@pytest.mark.parametrize("log", [True, False])
def test_ticks_are_round_inside_and_not_too_many(ends, log):
    if log and ends[0] <= 0:
        pytest.skip("no logarithm")
    scale = Scale.around(ends, log=log)
    ticks = scale.ticks(6)
    assert 1 <= len(ticks) <= 6
    assert all(scale.low <= tick <= scale.high for tick in ticks)
    for end in ends:
        assert 0 < scale.share(end) < 1
        assert scale.value(scale.share(end)) == pytest.approx(end, rel=1e-9, abs=1e-9 * (scale.high - scale.low))


def test_axes_are_logarithmic_where_figures_ask_or_the_user_does(thirty):
    assert against(thirty).figure.log == (True, False)
    assert against(thirty, log="y").figure.log == (False, True)
    assert against(thirty, log="none").figure.log == (False, False)
    with pytest.raises(UsageError, match="--log must be"):
        against(thirty, log="z")


def test_a_logarithmic_axis_of_0_is_refused(tmp_path):
    plots.put(tmp_path, "a", "sparsity", {"l0": 10, "dead_fraction": 0.0})
    with pytest.raises(UsageError, match=r"1 of 1 figures of sparsity\.dead_fraction are 0 or less"):
        against(tmp_path, y="dead_fraction", log="y")
    assert against(tmp_path, y="dead_fraction").figure.log == (False, False)


WIDTHS = {"3.25in": 234, "column": 234, "page": 486, "8.4cm": 238.11, "84 mm": 238.11, "240pt": 239.1}


@pytest.mark.parametrize(("text", "points"), WIDTHS.items())
def test_a_width_has_its_unit(text, points):
    assert length(text) == pytest.approx(points, abs=0.01)


@pytest.mark.parametrize("text", ["3.25", "3in wide", "-3in", "0.1in", "99in", "", "1e3pt", "nanin", "wide"])
def test_a_width_that_is_none_is_refused(text):
    with pytest.raises(UsageError):
        length(text)


def test_texts_are_shortened_in_the_middle_and_wrapped():
    assert fitted("x" * 50, 60, 7).count("…") == 1
    assert text_width(fitted("x" * 50, 60, 7), 7) <= 60
    assert all(text_width(one, 7) <= 60 for one in wrapped("some words and " + "y" * 40, 60, 7))


def test_colours_and_marks_are_all_different():
    assert len(set(COLOURS)) == len(COLOURS)
    assert len(set(SHAPES)) == len(SHAPES)


# --- files -----------------------------------------------------------------------------------------------------------

KINDS = {
    "pareto": [],
    "scatter": ["--x", "kl", "--y", "fvu"],
    "density": [],
}


@pytest.mark.parametrize("kind", KINDS)
def test_svg_is_valid_as_wide_as_asked_and_the_same_every_time(two, tmp_path, kind):
    files = [tmp_path / name for name in ("a.svg", "b.svg")]
    for file in files:
        assert plot(two, "--kind", kind, *KINDS[kind], "--width", "9cm", "--out", file) == 0
    assert files[0].read_bytes() == files[1].read_bytes()
    root = ET.parse(files[0]).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.get("width") == f"{9 / 2.54:.5g}in"
    wide = float(root.get("viewBox").split()[2])
    assert wide == pytest.approx(9 / 2.54 * 72, abs=3)
    sizes = {float(e.get("font-size").removesuffix("px")) for e in root.iter() if e.get("font-size")}
    assert min(sizes) >= 6


def test_a_size_at_which_a_tick_comes_and_goes_is_drawn_all_the_same():
    """The width of such a figure jumps from below its paper to above it, however often it is tried."""

    def make(size):
        wide = size[0] + (44 if size[0] < 192 else 52)
        return xy.Drawn(
            {"width": wide, "height": 50, "mark": "point", "autosize": {"type": "none"}, "data": {}}, {}, ()
        )

    class Library:
        def vegalite_to_svg(self, spec, vl_version):
            return f'<svg width="{json.loads(spec)["width"]}" height="50">'

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(draw, "drawer", Library)
        made = draw.fitted(make, Paper(240.0, None, 8.0), (1, 1))
    assert abs(made.spec["width"] - 240) < 0.02 * 240


def test_pdf_and_png_have_the_size_on_paper(layers, tmp_path):
    import re

    assert plot(layers, "--kind", "depth", "--out", tmp_path / "a.PDF") == 0
    pdf = (tmp_path / "a.PDF").read_bytes()
    assert pdf.startswith(b"%PDF-")
    assert re.search(rb"/MediaBox ?\[0 0 234(\.\d+)? ", pdf)
    assert plot(layers, "--kind", "depth", "--intervals", "bands", "--height", "2in", "--out", tmp_path / "a.png") == 0
    png = (tmp_path / "a.png").read_bytes()
    assert png.startswith(b"\x89PNG\r\n")
    wide, tall = struct.unpack(">II", png[16:24])
    assert (wide, tall) == (pytest.approx(975, abs=3), pytest.approx(600, abs=8))


def test_hostile_names_are_text_in_a_figure(tmp_path, capsys):
    for i, name in enumerate(HOSTILE):
        details = plots.histogram(-3, dead=i)
        plots.put(tmp_path, name, "sparsity", {"l0": 10 + i}, details=details, architecture=name)
        plots.put(tmp_path, name, "reconstruction", {"fvu": 0.1 + i}, architecture=name)
    changed(next(tmp_path.rglob("reconstruction*.json")), "controls", "\x1b[31m<b>", value={
        "fvu": plots.exact("reconstruction", "fvu", 1.0).model_dump()})  # fmt: skip
    for kind in ("pareto", "density"):
        file = tmp_path / f"{kind}.svg"
        flags = ("--controls", "all") if kind == "pareto" else ()
        assert plot(tmp_path, "--kind", kind, *flags, "--width", "page", "--out", file) == 0
        out = capsys.readouterr().out
        assert all(c.isprintable() or c == "\n" for c in out)
        root = ET.parse(file).getroot()
        assert not [e for e in root.iter() if e.tag.rpartition("}")[2] in ("script", "img", "image", "a")]
        assert all(c.isprintable() or c == "\n" for c in file.read_text())


def test_the_caption_says_what_must_be_known(two, tmp_path, capsys):
    assert plot(two, "--out", tmp_path / "a.json", "--y", "kl") == 0
    out = capsys.readouterr().out
    for said in (
        "loss_recovered.kl",
        "2 SAEs",
        "gpt2",
        "2 documents",
        "unofficial (no suite)",
        "95 % intervals",
        "Lines join",
    ):
        assert said in out
    assert json.loads((tmp_path / "a.json").read_text())["description"] in out
    assert "title" not in json.loads((tmp_path / "a.json").read_text())


def test_titles_of_axes_are_given(two, tmp_path):
    assert plot(two, "--out", tmp_path / "a.json", "--x-title", "active", "--y-title", "lost") == 0
    encoding = json.loads((tmp_path / "a.json").read_text())["layer"][0]["encoding"]
    assert (encoding["x"]["title"], encoding["y"]["title"]) == ("active", "lost")


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--out", "a.gif"], "--out must end in .svg, .pdf, .png"),
        (["--out", "a"], "--out must end in"),
        (["--y", "fvuu"], "did you mean 'fvu'"),
        (["--y", "reconstruction.fvuu"], "did you mean 'reconstruction.fvu'"),
        (["--y", "probe_r"], "no result here has a value of probe_r"),
        (["--kind", "scatter", "--x", "kl"], "needs both metrics"),
        (["--kind", "density", "--y", "kl"], "takes no --y"),
        (["--kind", "depth", "--x", "kl"], "takes no --x"),
        (["--kind", "depth", "--log", "x"], "layers are counted"),
        (["--kind", "pie"], "invalid choice"),
        (["--width", "3"], "a number with its unit"),
        (["--width", "1.5in", "--height", "1.5in", "--font-size", "24"], "larger --width or --height"),
        (["--font-size", "3"], "--font-size must be from 6 to 24"),
        (["--font-size", "nan"], "--font-size must be from 6 to 24"),
        (["--sae", "nobody"], "--sae: no result has 'nobody'"),
        (["--model", "llama"], "there are: gpt2"),
        (["--hook", "blocks.9*"], "--hook: no result has"),
        (["--suite", "core"], "there are: unofficial"),
        (["--protocol", "zz"], "--protocol: none of these figures has"),
        (["--controls", "maen"], "did you mean 'mean'"),
        (["--log", "q"], "--log must be"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(two, tmp_path, capsys, monkeypatch, flags, said):
    monkeypatch.chdir(tmp_path)
    assert plot(two, *flags) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_where_nothing_is_named_it_reads_where_run_wrote(two, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert plot("--out", "a.json") == 2
    assert "runs is not here" in capsys.readouterr().err
    (tmp_path / "runs").symlink_to(two)
    assert plot("--out", "a.json") == 0


def test_a_folder_without_results_is_refused(tmp_path, capsys):
    assert plot(tmp_path, "--out", tmp_path / "a.svg") == 2
    assert capsys.readouterr().err.startswith("sae-bench: ")
    assert plot(tmp_path / "none", "--out", tmp_path / "a.svg") == 2


def test_without_the_extra_it_says_how_to_get_it(two, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    assert plot(two, "--out", tmp_path / "a.svg") == 2
    assert "pip install 'sae-bench-suite[board]'" in capsys.readouterr().err


def test_help_lists_the_kinds(capsys):
    with pytest.raises(SystemExit):
        plot("--help")
    out = " ".join(capsys.readouterr().out.split())
    assert all(f"{kind}: " in out for kind in verb.KINDS)


def test_a_metric_that_two_tasks_have_needs_its_task(tmp_path):
    collection, entries = read(plots.thirty(tmp_path / "r"))
    twice = {f"{t}.{m}" for t, spec in collection.specs.items() for m in spec.metrics}
    names = [one.partition(".")[2] for one in twice]
    assert select.metric("fvu", collection, entries).id == FVU
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        for one in sorted(t for t in twice if t.endswith(f".{double}")):
            plots.put(tmp_path / "d", "a", one.partition(".")[0], {double: 0.5})
        collection, entries = read(tmp_path / "d")
        with pytest.raises(UsageError, match="several tasks have"):
            select.metric(double, collection, entries)


def test_costs_are_small_where_figures_are_good(thirty):
    collection, entries = read(thirty)
    fvu = select.metric("fvu", collection, entries)
    assert controls.cost(0.2, fvu) == 0.2
    assert controls.cost(0.2, select.metric("l0", collection, entries)) is None
