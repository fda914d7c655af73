"""Fixtures that every test can use."""

import functools
import gc
import importlib
import os
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from sae_bench.cli.main import main
from tests.builders.locks import judged_by, trust_what_claims

CACHE = tempfile.TemporaryDirectory(prefix="sae-bench-tests-")  # gone with the process
USERS_CACHE = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
for variable, inside in (("MPLCONFIGDIR", "matplotlib"), ("HF_HOME", "huggingface")):  # whose lack only makes slower
    os.environ.setdefault(variable, os.path.join(USERS_CACHE, inside))
os.environ["XDG_CACHE_HOME"] = CACHE.name  # nor does a test find the user's package of labelled sets, or paid answers
os.environ["SAE_BENCH_CALIBRATION_CACHE"] = ""  # no test takes what another one kept, nor what the user's runs did
os.environ["HF_HUB_OFFLINE"] = "1"  # no test downloads, and none waits for a hub that it cannot reach
os.environ["LANGUAGE"] = "C"  # argparse looks for translations once for each flag, and tests read what it says
# processes that tests start compile the package once, and not each: also where this variable is set for other reasons
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ.pop("COLUMNS", None)  # tables are as wide as in a pipe, whatever runs the tests says of its terminal
# no deadline: how long an example takes is no matter of right or wrong
settings.register_profile(
    "few", max_examples=25, deadline=None
)  # where a test does not say how many; --hypothesis-profile many
settings.register_profile("many", max_examples=200, deadline=None)
settings.load_profile("few")

# the parser of all verbs is the same for every command, and made anew it is a quarter of what a refused one costs
main_module = importlib.import_module("sae_bench.cli.main")
main_module.parser = functools.cache(main_module.parser)  # type: ignore[attr-defined]

# what a rank looks like must not depend on which metrics have earned one: tests of what ships rank by all that claims
# something, and who needs the lock that ships takes the fixture `shipped_lock`
trust_what_claims()

ON_TEXT = "reconstruction,sparsity,loss_recovered"  # tasks that read documents, and no labelled texts
Run = Callable[..., tuple[int, str, str]]


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, Any, Any]:
    """Collect no garbage while tests are collected, and never look again at what imports made.

    Libraries leave a million objects that live as long as the process; each full collection would walk them all.
    """
    if session.config.pluginmanager.hasplugin("dsession"):  # with -n, this process runs no test: it needs no torch
        return (yield)
    import torch

    torch.set_num_threads(1)  # arrays as small as these mostly wait for a second thread, above all on a busy machine
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session")
def references() -> Path:
    """Files of numbers that other programs computed; ``references/README.md`` says which."""
    return Path(__file__).parent / "references"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference material too large for the repository, beside it; tests that read it are skipped without it."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("needs the reference material in ../shared")
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless browser, one for the tests of a module; without one they are skipped."""
    from tests.builders.browser import CHROMIUM, MISSING, Browser

    if CHROMIUM is None:
        pytest.skip(MISSING)
    started = Browser(tmp_path_factory.mktemp("profile"))
    yield started
    started.close()


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Any:
    """Opens pages of results in the browser."""
    from tests.builders.browser import opener

    return opener(browser, tmp_path)


@pytest.fixture
def shipped_lock() -> Iterator[None]:
    """Judge metrics by the lock that ships, as a user's process does."""
    with judged_by(None):
        yield


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command in an empty folder; returns exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: Any) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = main([str(a) for a in arguments])
        except SystemExit as error:
            code = int(error.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command
