"""Tables for people: intervals, dashes with reasons, and no trick of a hostile name."""

import pytest

from sae_bench.registry import tasks
from sae_bench.schema import MetricValue
from sae_bench.show.results import result_tables
from sae_bench.show.text import number, printable, with_interval
from tests.builders.results import result


def value(v, low=None, high=None, reason=None, better="lower"):
    return MetricValue(value=v, low=low, high=high, unit="1", better=better, n_units=9, reason=reason)


NOTHING = value(None, reason="the number of tokens is 0, and must be above 0 to divide by it")


def show(*results, everything=False):
    return result_tables(results, tasks(), everything=everything)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (None, "-"),
        (0.0, "0"),
        (-0.0, "0"),
        (0.0934, "0.0934"),
        (0.0934123, "0.09341"),
        (0.99937, "0.9994"),
        (63.0, "63"),
        (1234.56, "1235"),
        (9999.4, "9999"),
        (9999.7, "10000"),
        (12345.6, "12346"),
        (99999.7, "1e+05"),
        (1234567.0, "1.235e+06"),
        (-12345.6, "-12346"),
        (0.000012345, "1.234e-05"),
    ],
)
def test_numbers(given, shown):
    assert number(given) == shown


def test_intervals():
    assert with_interval(value(0.0934, 0.0921, 0.0947)) == "0.0934 [0.0921, 0.0947]"
    assert with_interval(value(0.1, 0.09, 0.12)) == "0.100 [0.090, 0.120]"
    assert with_interval(value(1234.5, 1200.0, 1300.0)) == "1234 [1200, 1300]"
    assert with_interval(value(2e-15, 1e-15, 3e-15)) == "2e-15 [1e-15, 3e-15]"
    assert with_interval(value(0.0, 0.0, 0.0)) == "0 [0, 0]"
    assert with_interval(value(0.0, 0.0, 0.0018)) == "0 [0, 0.0018]"
    assert with_interval(value(0.0001, 0.0, 0.02)) == "0.000 [0, 0.020]"
    assert with_interval(value(-0.08, -0.16, -0.001)) == "-0.08 [-0.16, 0.00]"
    assert with_interval(value(0.5)) == "0.5"
    assert with_interval(NOTHING) == "-"


def test_a_row_has_score_interval_direction_target_and_controls():
    metrics = {"fvu": value(0.1, 0.09, 0.12), "norm_ratio": value(0.97, 0.96, 0.98, better="none")}
    one = result(task="reconstruction", metrics=metrics)
    one = one.model_copy(update={"controls": {"mean": {"fvu": value(1.0)}, "pca": {}}})
    lines = show(one).splitlines()
    fvu = next(line for line in lines if " fvu " in line)
    assert fvu.split() == ["reconstruction", "fvu", "↓", "0.100", "[0.090,", "0.120]", "9", "1"]
    assert "(target 1)" in next(line for line in lines if "norm_ratio" in line)
    assert "score [95 % interval]" in show(one)
    assert "2 documents (99 tokens), 2 more to calibrate (50 tokens), mask special" in show(one)


def test_no_value_is_a_dash_with_its_reason_below():
    text = show(result(metrics={"l0": NOTHING, "dead_fraction": value(0.5, 0.4, 0.6)}))
    row = next(line for line in text.splitlines() if line.startswith("sparsity") and " l0 " in line)
    assert row.split()[3] == "-"
    assert f"l0: no value, because {NOTHING.reason}" in text.splitlines()


def test_side_figures_and_their_reasons_only_on_request():
    one = result(metrics={"l0": value(3.0), "l1_contribution": NOTHING, "dense_contribution_1pct": value(0.5)})
    assert "contribution" not in show(one)
    assert "l1_contribution: no value" in show(one, everything=True)
    assert "dense_contribution_1pct" in show(one, everything=True)


def test_an_error_is_told():
    text = show(result(metrics={}, status="error", reason="encode failed:\x1b[31m boom"))
    assert "sparsity: error: encode failed:?[31m boom" in text


def test_results_on_other_data_are_another_table():
    """One header must describe all rows below it: else a short run reads as a long one."""
    small = result(n_documents=32, data_sha256="5" * 64, metrics={"l0": value(3.0)})
    large = result(n_documents=512, metrics={"l0": value(4.0)})
    other = result(sha="cd" * 32, n_documents=512, metrics={"l0": value(5.0)})
    same = result(n_documents=512, task="reconstruction", task_sha256="8" * 64, metrics={"fvu": value(0.25)})
    text = show(small, large, other, same)
    parts = text.split("\nmy sae: ")[1:]
    assert [("32 documents" in p, "512 documents" in p) for p in parts] == [(True, False), (False, True), (False, True)]
    assert " 0.25" in parts[1]
    for one in (large, same):
        assert f"{one.task} {one.protocol[:8]}" in parts[1]


def test_a_task_that_is_not_installed_is_still_shown():
    text = show(result(task="unknown_task", metrics={"thing": value(0.5)}))
    assert "unknown_task" in text
    assert "thing" in text


HOSTILE = "a\x1b[2J\x07\rb\u202e\u200b\x9b31m\x00"


def test_no_control_character_of_a_name_reaches_the_terminal():
    bad = value(None, reason=HOSTILE)
    one = result(name=HOSTILE, task=HOSTILE, model=HOSTILE, metrics={HOSTILE: value(1.0), "x": bad})
    one = one.model_copy(update={"controls": {HOSTILE: {HOSTILE: value(2.0)}}})
    sae = one.sae.model_copy(update={"architecture": HOSTILE, "hooks_in": (HOSTILE,), "hooks_out": (HOSTILE + "x",)})
    failed = result(name="other", status="error", reason=HOSTILE, metrics={})
    for text in (show(one.model_copy(update={"sae": sae}), failed), show(one, everything=True)):
        assert all(c.isprintable() or c == "\n" for c in text)


def test_a_name_cannot_pretend_to_be_a_row():
    forged = "x\nreconstruction  fvu  0.0001"
    plain = result(metrics={"fake": value(1.0)})
    bad = result(name=forged, metrics={"fake" + forged: value(1.0)}).model_copy(update={"controls": {forged: {}}})
    assert len(show(bad).splitlines()) == len(show(plain).splitlines())


def test_printable_keeps_letters_of_all_scripts():
    assert printable("日本語 ü γ ‖x‖ 🙂\n") == "日本語 ü γ ‖x‖ 🙂\n"
    assert printable("\x1b[31m") == "?[31m"
