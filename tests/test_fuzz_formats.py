"""Files of SAEs come from strangers and from broken downloads: whatever is in them, one sentence says what is wrong.

Nothing in a file is run, nothing that it merely claims is allocated, and nothing but CoderError and UsageError escapes.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import faulthandler
import json
import os
import pickle
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sae_bench import registry
from sae_bench.errors import CoderError, UsageError
from sae_bench.saes.conformance import check
from sae_bench.saes.load import load_sae
from tests.builders.fuzz_files import SHARE, Case, all_cases, chosen, plant
from tests.builders.fuzz_pickles import MARKER, PAYLOADS, pickled
from tests.builders.layouts import LAYOUTS, told, write
from tests.builders.marks import slow_but
from tests.conftest import Run

LONGEST_SENTENCE = 600
MOST_SECONDS = 120  # of all cases of one layout, which take about one: beyond it something hangs
MOST_MEMORY = 48 << 20  # beyond what loading healthy SAEs takes; the files are of some KiB, configurations up to 1 MiB

REFUSED = [name for name, layout in LAYOUTS.items() if layout.refused]
HEALTHY = [name for name in LAYOUTS if name not in REFUSED]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """No warnings; and what hangs, even in code that no exception can stop, ends with a traceback."""
    faulthandler.dump_traceback_later(MOST_SECONDS, exit=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that code in a pickle would create."""
    monkeypatch.setenv(MARKER, str(tmp_path / "marker"))
    return tmp_path / "marker"


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy(name: str, tmp_path: Path) -> None:
    coder = load_sae(str(write(name, tmp_path)), told=told(name))
    assert coder.info.format == LAYOUTS[name].format
    x = torch.randn(16, coder.info.d_in, generator=torch.Generator().manual_seed(0))
    assert check(coder, x) == []
    codes = coder.encode(x)
    assert len(codes.indices) > 0
    assert bool(coder.decode(codes, x).isfinite().all())


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(CoderError, match=r"sequence|reconstruction"):
        load_sae(str(write(name, tmp_path)), told=told(name))


def test_plan() -> None:
    """What the next test tries where it is slow: thousands of files, of all layouts, damaged in every way."""
    cases = [case for name in LAYOUTS for case in chosen(name)]
    assert len(cases) >= 2000
    assert {LAYOUTS[case.layout].format for case in cases} == {entry.name for entry in registry.FORMATS}
    assert {case.kind for case in cases} == {case.kind for name in LAYOUTS for case in all_cases(name)}


@pytest.mark.parametrize("share", [16 * SHARE, pytest.param(SHARE, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", LAYOUTS)
def test_damaged(name: str, share: int, tmp_path: Path, marker: Path) -> None:
    outcomes = collections.Counter(_outcome(case, tmp_path / "planted", marker) for case in chosen(name, share=share))
    few = sum(outcomes.values()) < 6  # all of them may be harmless; each worked or was refused in a sentence
    assert few or outcomes["refused"] > 0, "damage that is harmless does not make up the whole"


def _outcome(case: Case, folder: Path, marker: Path) -> str:
    """Plant, load, compute; the SAE must work or be refused in one sentence."""
    told_now = f"{case.layout}, {case.path}, {case.kind}"
    sae = plant(case, folder)
    try:
        coder = load_sae(str(sae), told=told(case.layout))
        x = torch.randn(3, coder.info.d_in, generator=torch.Generator().manual_seed(0))
        coder.decode(coder.encode(x), x)
        refusal = None
    except (CoderError, UsageError) as error:
        refusal = str(error)
    except BaseException as error:
        error.add_note(f"the damaged SAE: {told_now}")
        raise
    assert refusal is None or _is_sentence(refusal, case, folder), f"{told_now}: {refusal[:1000]!r}"
    assert not marker.exists(), f"{told_now}: code in the file was run"
    shutil.rmtree(folder)
    return "works" if refusal is None else "refused"


def _is_sentence(message: str, case: Case, folder: Path) -> bool:
    """Printable, on one line, of a bearable length, about this SAE, and no dump."""
    layout = LAYOUTS[case.layout]
    own = {part for path in layout.files for part in Path(path).with_suffix("").parts} | {folder.name, "my "}
    names = str(folder) in message or any(name in message.partition(":")[0] for name in own)
    return message.isprintable() and 0 < len(message) <= LONGEST_SENTENCE and names and "Traceback" not in message


@pytest.mark.parametrize("every", [6, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("forced", [entry.name for entry in registry.FORMATS])
def test_read_as_another_layout(forced: str, every: int, tmp_path: Path) -> None:
    """``--format`` with the name of a layout that the files do not have: refused, or they are alike."""
    for name in list(LAYOUTS)[::every]:
        sae = write(name, tmp_path / name)
        with contextlib.suppress(CoderError, UsageError):
            coder = load_sae(str(sae), told=dataclasses.replace(told(name), format=forced))
            coder.encode(torch.ones(3, coder.info.d_in))


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize(
    ("file", "packed"),
    slow_but(
        2,
        [
            *(("ae.pt", True), ("last.ckpt", False)),
            *(("ae.pt", False), ("last.ckpt", True)),
            *((file, packed) for file in ("sae.pth", "model.bin") for packed in (True, False)),
        ],
    ),
)
def test_no_code_is_run(payload: str, file: str, packed: bool, tmp_path: Path, marker: Path) -> None:
    content = PAYLOADS[payload]
    (tmp_path / "sae").mkdir()
    (tmp_path / "sae" / file).write_bytes(pickled(content) if packed else content)
    for sae in (tmp_path / "sae", tmp_path / "sae" / file):
        with pytest.raises(CoderError) as caught:
            load_sae(str(sae))
        assert str(caught.value).isprintable()
    assert not marker.exists()


def test_the_payloads_would_run(marker: Path) -> None:
    """Else the test above would pass for nothing."""
    ran = 0
    for content in PAYLOADS.values():
        with contextlib.suppress(Exception):
            pickle.loads(content)
        ran += marker.exists()
        marker.unlink(missing_ok=True)
    assert ran >= 8


_CHILD = """
import json, resource, sys, warnings
warnings.simplefilter("ignore")
import torch
from sae_bench.errors import CoderError, UsageError
from sae_bench.saes.load import load_sae
from sae_bench.settings import Told

def load(sae, told):
    try:
        coder = load_sae(sae, told=Told(**told))
        x = torch.zeros(3, coder.info.d_in)
        coder.decode(coder.encode(x), x)
    except (CoderError, UsageError) as error:
        return str(error)

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

torch.set_num_threads(1)
plan = json.load(open(sys.argv[1]))
for name, sae, told in plan["healthy"]:
    load(sae, told)
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + plan["room"]
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
found = []
for name, sae, told in plan["absurd"]:
    before = peak()
    message = load(sae, told)
    found.append([name, message, peak() - before])
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_what_a_file_claims_is_not_allocated(tmp_path: Path) -> None:
    """In a process that may map little more than it has: sizes in headers, bombs, and deep or many values."""
    kinds: dict[str, Case] = {}
    for i, name in enumerate(LAYOUTS):
        for case in all_cases(name):
            if case.absurd:  # what chance decides in a case is decided anew in three layouts
                kinds.setdefault(f"{case.kind} {i % 3}", case)
    plan = {"room": 256 << 20, "healthy": [], "absurd": []}
    for i, case in enumerate(kinds.values()):
        layout = LAYOUTS[case.layout]
        label = f"{case.layout}, {case.path}, {case.kind}"
        plan["absurd"].append([label, str(plant(case, tmp_path / str(i))), layout.told])
    for name in HEALTHY:
        plan["healthy"].append([name, str(write(name, tmp_path / name)), LAYOUTS[name].told])
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    command = [sys.executable, "-c", _CHILD, str(tmp_path / "plan.json")]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(root)})
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert len(found) >= 60
    greedy = [(label, grown >> 20) for label, _, grown in found if grown > MOST_MEMORY]
    assert greedy == []
    starved = [(label, message) for label, message, _ in found if message and "llocat" in message.replace("\n", " ")]
    assert starved == []


@pytest.mark.parametrize(
    ("layout", "kind"),
    [
        ("native_relu", "json: deep lists"),
        ("saelens_standard", "safetensors: truncated"),
        ("saelens_topk", "safetensors: shape huge"),
        ("sparsify_topk", "json: not UTF-8"),
        ("dl_AutoEncoder", "pt: truncated"),
        ("dl_AutoEncoder", "pt: code"),
        ("dl_AutoEncoder", "pt: shape huge"),
        ("circuit_tracer_relu", "yaml: merge bomb"),
        ("gemma_scope_res", "npz: shape huge"),
        ("gemma_scope_res", "npz: objects"),
        ("native_relu", "tensor: NaN"),
        ("goodfire", "pt: not a dictionary"),
    ],
)
def test_on_the_command_line(layout: str, kind: str, tmp_path: Path, cli: Run, marker: Path) -> None:
    case = next(case for case in all_cases(layout) if case.kind == kind)
    code, out, err = cli("inspect", plant(case, tmp_path / "sae"))
    assert code == 2
    assert out == ""
    assert err.startswith("sae-bench: ")
    assert len(err.splitlines()) == 1
    assert not marker.exists()
