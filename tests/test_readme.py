"""What the README says is what the program says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sae_bench.cli.main import main

ROOT = Path(__file__).parent.parent


@pytest.mark.skipif(not (ROOT / "README.md").is_file(), reason="needs the checkout")
def test_the_table_of_layouts_is_that_of_the_registry(capsys):
    """Mend it with: sae-bench ls formats --markdown, pasted between the marks."""
    assert main(["ls", "formats", "--markdown"]) == 0
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    pasted = re.search(r"<!-- sae-bench ls formats --markdown -->\n(.*)\n<!-- end -->", text, re.DOTALL)
    assert pasted is not None
    assert pasted[1].strip() == capsys.readouterr().out.strip()
