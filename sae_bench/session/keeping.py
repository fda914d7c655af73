"""Which of what the model makes of a text is kept for later runs, and all that decides its bits.

Moments at a hook point on the calibration text; and the columns that a task of this package has of a hook point alone,
where they take passes of the model: losses without an SAE, and under zero and mean ablation. What is taken is equal to
the bit to what would be measured: the key holds the code of this package, the weights and the configuration of the
model, the tokens, how they were put into batches, versions, device, processor, threads and whatever else was found to
decide how products round. Where that cannot be known nothing is kept: a module that is not what its configuration
builds, code of another package that runs it.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sae_bench import registry
from sae_bench.engine.kept import Kept
from sae_bench.engine.moments import packed, unpacked
from sae_bench.engine.plan import Batches, Options
from sae_bench.errors import ResultError
from sae_bench.files import cache_folder, read_text, sha256
from sae_bench.models.digests import ModelDigests
from sae_bench.models.subject import SubjectModel
from sae_bench.saes.calibration import Moments
from sae_bench.settings import Settings
from sae_bench.streams import Inputs, Run
from sae_bench.streams.documents import NAME as DOCUMENTS
from sae_bench.streams.documents import DocumentsReader
from sae_bench.tasks.base import Task

VARIABLE = "SAE_BENCH_CALIBRATION_CACHE"  # another folder; empty: none
_STARTS = (
    "ATEN_",
    "CUBLAS",
    "CUDNN",
    "DNNL_",
    "KMP_",
    "MKL_",
    "NVIDIA_",
    "OMP_",
    "ONEDNN_",
    "OPENBLAS_",
    "PYTORCH_",
    "TORCH_",
)
_PACKAGE = __name__.partition(".")[0]
_ATTENTION = (None, "eager", "sdpa")  # whose code is that of torch and transformers


def folder() -> Path | None:
    """Where things are kept; None where the user wants none, or has no home."""
    given = os.environ.get(VARIABLE)
    if given is not None:
        return Path(given).expanduser() if given else None
    below = cache_folder()
    return below and below / "calibration"


def keeping(
    settings: Settings, subject: SubjectModel, digests: ModelDigests, surroundings: Mapping[str, Any]
) -> Kept | None:
    """What this run may take from earlier ones and keep for later ones; None for nothing."""
    known = not digests.departures and type(subject).__module__.partition(".")[0] == _PACKAGE
    attention = surroundings["environment"].get("attention")
    if not settings.calibration_cache or not known or attention not in _ATTENTION or (place := folder()) is None:
        return None
    about = {
        "code": _code_sha256(),
        "model": {"weights": digests.weights, "config": digests.config, "dtype": str(subject.dtype)},
        "machine": dict(surroundings) | _arithmetic(),
    }
    return Kept(place, about, reads=settings.overwrite != "always")


@cache
def _code_sha256() -> str:
    """Digest of all code of this package, which a checkout changes without a version."""
    return sha256(*sorted(Path(__file__).parents[1].rglob("*.py")))


def _arithmetic() -> dict[str, Any]:
    """What decides how products are rounded, as far as it has been found to."""
    backends: Any = torch.backends
    cuda, mkldnn = backends.cuda, backends.mkldnn
    return {
        "processor": _processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": [torch.get_num_threads(), torch.get_num_interop_threads()],
        "torch": [torch.__version__, str(torch.version.cuda), str(torch.version.hip), _cudnn()],
        "numpy": np.__version__,
        "switches": [  # but for those that :mod:`sae_bench.precision` sets while a run computes
            torch.are_deterministic_algorithms_enabled(),
            cuda.flash_sdp_enabled(),
            cuda.mem_efficient_sdp_enabled(),
            cuda.math_sdp_enabled(),
            mkldnn.is_available() and mkldnn.enabled,
        ],
        "variables": {name: value for name, value in sorted(os.environ.items()) if name.startswith(_STARTS)},
    }


def _cudnn() -> str:
    backends: Any = torch.backends
    return str(backends.cudnn.version()) if torch.cuda.is_available() else ""


@cache
def _processor() -> str:
    """The model of the processor: libraries choose their kernels by it."""
    try:
        lines = read_text(Path("/proc/cpuinfo")).splitlines()
    except ResultError:
        return platform.processor()
    named = [line for line in lines if line.startswith(("model", "cpu family", "stepping", "CPU "))]
    return "; ".join(dict.fromkeys(named)) or platform.processor()


def keeps(task: Task) -> bool:
    """Whether what a task has of a hook point is kept: it takes passes of the model, and its code is known."""
    return bool(set(task.replacements) - {"spliced"}) and registry.code_sha256(task.spec) is None


class Keeping:
    """What one run takes and keeps; with ``kept`` None it does neither. ``batches`` are those of the calibration."""

    def __init__(self, kept: Kept | None, inputs: Inputs, size: int) -> None:
        self.batches = Batches.of(inputs.corpus.calibration, size)
        self._kept, self._options = kept, inputs.options
        self._taken: frozenset[str] = frozenset()
        self._calibration = _passed(self.batches, inputs.options) if kept else {}

    def moments(self, hooks: Sequence[str], device: torch.device) -> dict[str, Moments]:
        """Moments at those hook points of which an earlier run kept them."""
        found: dict[str, Moments] = {}
        for hook in hooks:
            there = self._kept and self._kept.load(self._moments_at(hook))
            if there:
                with suppress(KeyError, TypeError, ValueError, AttributeError):
                    found[hook] = unpacked(*there, device)[hook]
        self._taken = frozenset(found)
        return found

    def keep_moments(self, moments: Mapping[str, Moments]) -> None:
        """Keep those moments that were not taken."""
        for hook, of in moments.items():
            if self._kept and hook not in self._taken:
                self._kept.save(self._moments_at(hook), *packed({hook: of}))

    def take_columns(self, run: Run) -> None:
        """Tell a run the columns of its hook points that an earlier one kept."""
        for task, hook, reader in self._of_hooks(run):
            if self._kept and (there := self._kept.load(self._columns_of(task, hook, reader))) is not None:
                columns = {name: column for (_, _, name), column in there[0].items()}
                if all(len(column) == len(reader.batches.tokens) for column in columns.values()):
                    run.known[task.spec.id, f"@{hook}"] = columns

    def keep_columns(self, run: Run) -> None:
        """Keep the columns of hook points that this process has measured, from the first batch to the last."""
        for task, hook, reader in self._of_hooks(run):
            own = task.spec.id, f"@{hook}"
            if self._kept is None or own in run.known or own[1] in run.state.task_failures.get(own[0], {}):
                continue
            rows = run.checkpoint.rows(run.state, {own})
            of_row = np.concatenate([np.array(group) for group in reader.batches.groups])
            if all(len(column) == len(of_row) for column in rows.values()):
                by_sequence = {key: column[np.argsort(of_row)] for key, column in rows.items()}
                self._kept.save(self._columns_of(task, hook, reader), by_sequence, {})

    def _of_hooks(self, run: Run) -> Iterator[tuple[Task, str, DocumentsReader]]:
        reader = run.readers.get(DOCUMENTS)
        if self._kept is None or not isinstance(reader, DocumentsReader):
            return
        hooks = dict.fromkeys(entry.hook_out for entry in run.cast.entries)
        yield from ((task, hook, reader) for task in reader.tasks.values() if keeps(task) for hook in hooks)

    def _moments_at(self, hook: str) -> dict[str, Any]:
        return {"moments at": hook, "calibration": self._calibration}

    def _columns_of(self, task: Task, hook: str, reader: DocumentsReader) -> dict[str, Any]:
        """What decides such columns beside the model and the machine."""
        spec, work = task.spec, reader.run.work
        return {
            "columns of": [spec.id, registry.definition_sha256(spec), spec.model_dump(mode="json")["parameters"]],
            "at": [hook, work.hooks[-1]],  # the clean pass goes on from the last one
            "text": _passed(reader.batches, self._options),
            "calibration": self._calibration,
            "seed": self._options.seed,
        }


def _passed(batches: Batches, options: Options) -> dict[str, Any]:
    """What of a text decides what is measured on it: its tokens, those that count, and what passed together."""
    special = sorted(options.special_ids) if options.mask == "special" else []
    plan = hashlib.sha256(repr(batches.groups).encode()).hexdigest()
    return {"tokens": batches.tokens.sha256, "mask": options.mask, "special": special, "batches": plan}
