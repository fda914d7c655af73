"""Commands out of a document, so that they run word by word with another address."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.builders.explainers import TASK
from tests.builders.judged_runs import SIZES

DEFAULT_PATH = "/v1"  # of the address where a command gives none


@dataclass(frozen=True)
class Recipe:
    """A command of ``sae-bench run`` with the variables that are set before it."""

    name: str
    variables: tuple[str, ...]
    arguments: tuple[str, ...]

    @property
    def key_variable(self) -> str:
        """The variable that holds the key, whether the recipe sets it or not."""
        return self.after("--judge-key-env") or "OPENAI_API_KEY"

    def after(self, flag: str) -> str | None:
        """The value of a flag, None where it is not given."""
        found = dict(zip(self.arguments, self.arguments[1:], strict=False))
        return found.get(flag)

    def run_at(self, host: str, files: Path) -> tuple[list[Any], dict[str, str]]:
        """Arguments and variables, on a tiny model and SAE, with ``host`` (scheme and port) for the endpoint's."""
        own = {"SAE": str(files / "sae"), "MODEL": str(files / "model"), "FILE": str(files / "ids.npy")}
        given, variables = [own.get(word, word) for word in self.arguments], {}
        address = self.after("--judge-base-url")
        if address is None:
            variables["OPENAI_BASE_URL"] = host + DEFAULT_PATH
        else:
            parts = urlsplit(address)
            given[given.index(address)] = host + parts.path + (f"?{parts.query}" if parts.query else "")
        more = ["--quiet", "--resamples", "20", "--controls", "none"]
        return [*given, *more, *(w for n, v in SIZES.items() for w in ("--param", f"{TASK}.{n}={v}"))], variables


def recipes(document: Path) -> dict[str, Recipe]:
    """The commands of a document by the heading that they stand under; one a heading at most."""
    found: dict[str, Recipe] = {}
    for heading, body in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", document.read_text(), re.MULTILINE | re.DOTALL):
        for block in re.findall(r"^```sh\n(.*?)^```", body, re.MULTILINE | re.DOTALL):
            lines = [shlex.split(line) for line in block.replace("\\\n", " ").splitlines()]
            variables = [word.split("=")[0] for line in lines if line[0] == "export" for word in line[1:]]
            (command,) = [line for line in lines if line[0] == "sae-bench"]
            assert heading not in found
            found[heading] = Recipe(heading, tuple(variables), tuple(command[1:]))
    return found
