"""Make the picture of the README again, docs/board.png: the page of results/, as a headless Chromium draws it.

    python scripts/picture.py

It needs Chromium and the extra ``board``. Browsers and fonts differ, so the picture is made by hand when the page has
changed, and no test compares it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "board.png"
WIDTH, HEIGHT = 1280, 900
MOST_BYTES = 200_000
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-device-scale-factor=1")


def main() -> int:
    """Draw the page and put it in its place; the old picture stays where that fails."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print("docs/board.png is as it was: no Chromium is installed (Debian: apt-get install chromium)")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        page, drawn = Path(folder) / "board.html", Path(folder) / "board.png"
        program = [sys.executable, "-m", "sae_bench.cli.main", "board", str(ROOT / "results")]
        subprocess.run([*program, "--format", "html", "--out", str(page)], check=True, cwd=ROOT)
        size = f"--window-size={WIDTH},{HEIGHT}"
        command = [browser, *QUIET, f"--user-data-dir={folder}/browser", size, "--virtual-time-budget=10000"]
        subprocess.run([*command, f"--screenshot={drawn}", page.as_uri()], check=True, capture_output=True)
        if drawn.stat().st_size > MOST_BYTES:
            print(f"docs/board.png is as it was: the new one has {drawn.stat().st_size} bytes, {MOST_BYTES} at most")
            return 1
        shutil.copyfile(drawn, PICTURE)
    print("docs/board.png is new; look at it, and at its text in README.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
