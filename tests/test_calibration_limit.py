"""With a limit, calibration reads at most as many documents as are evaluated, and it is said how many these were."""

from __future__ import annotations

import pytest

from tests.builders.kept_runs import ran
from tests.builders.tiny_models import number_texts
from tests.conftest import Run


@pytest.mark.parametrize(("tier", "limit", "expected"), [
    ("smoke", None, 16), ("smoke", 5, 5), ("smoke", 16, 16), ("smoke", 20, 16), ("standard", 20, 20), ("full", 30, 30),
])  # fmt: skip
def test_calibration_is_capped_by_the_limit(tier: str, limit: int | None, expected: int) -> None:
    data = number_texts(400, seed=2)
    (result,) = ran(tasks="sparsity", controls="none", tier=tier, limit=limit, data=data)
    assert result.provenance.n_calibration_documents == expected
    if limit is not None:
        assert result.provenance.n_calibration_documents <= limit


def test_a_smaller_run_calibrates_on_a_part_of_what_a_larger_one_does() -> None:
    few, more = (
        ran(tasks="sparsity", controls="none", limit=limit, data=number_texts(400))[0].provenance for limit in (5, 20)
    )
    assert few.n_calibration_tokens < more.n_calibration_tokens
    assert few.protocol.calibration_sha256 != more.protocol.calibration_sha256, "never compared as one"


def test_little_calibration_is_said() -> None:
    with pytest.warns(UserWarning, match=r"--limit 3 leaves \d+ calibration tokens \(3 documents\)"):
        ran(tasks="sparsity", controls="none", limit=3, data=number_texts(400))


def test_show_says_on_what_was_calibrated(cli: Run) -> None:
    command = ("run", "--sae", "demo", "--limit", 6, "--tasks", "sparsity", "--controls", "none", "--quiet")
    out = " ".join(cli(*command, "--all-metrics")[1].split())
    assert "; 6 documents (" in out
    assert ", 6 more to calibrate (" in out
    assert "calibration documents:                             6" in cli(*command, "--dry-run", "--out", "x")[1]
