"""One plug-in of each kind for sae-bench. Importing this module loads no torch, since results are read without it."""

from pathlib import Path

TASKS = Path(__file__).parent / "tasks"
