"""The end of a run: what it takes to make figures, intervals and files of what was measured.

``python benchmarks/figures.py`` writes the rows of a run of several SAEs at one hook point with the default controls
and three tasks into a run in progress, and then makes its results as a run does: tables, 2,000 resamples, files. One
process a case. Printed: CPU seconds of the end, an SAE, the seconds of the first SAE alone (which makes what the others
share), peak of anonymous memory above that before, bytes of the results; and how seconds grow with SAEs, documents and
resamples, as the exponent between the first and the last of the cases that differ in that alone. ``--before FOLDER``
has another checkout of this repository do the same. ``--profile`` prints where the time goes.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import math
import os
import pstats
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import harness
from harness import plain

HOOK = "blocks.8.hook_resid_post"
CONTROLS = ("mean", "identity", "pca", "random", "random_l0", "permuted")
TASKS = ("reconstruction", "sparsity", "loss_recovered")
SUMS = ("error", "energy_hat", "inner", "norm_ratio", "norm_ratio_tokens", "cosine", "cosine_tokens")
LENGTH, AT_ONCE = 128, 64  # tokens of a document, documents of a row file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="another checkout of this repository")
    parser.add_argument("--saes", type=int, nargs="+", default=[1, 6, 36])
    parser.add_argument("--documents", type=int, nargs="+", default=[1000, 8192])
    parser.add_argument("--resamples", type=int, nargs="+", default=[2000])
    parser.add_argument("--width", type=int, nargs="+", default=[768])
    parser.add_argument("--latents", type=int, default=16_384)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measured(**json.loads(options.child))))
        return
    sides = {"before": options.before} if options.before else {}
    sides["this repository"] = Path(__file__).parents[1]
    found: dict[tuple[str, int, int, int, int], float] = {}
    harness.head(
        "SAEs", "documents", "resamples", "width", "side", "end, CPU s", "an SAE", "the first", "memory, MiB", "MiB"
    )
    for case in (
        (saes, documents, resamples, width)
        for width in options.width
        for resamples in options.resamples
        for documents in options.documents
        for saes in options.saes
    ):
        given = dict(zip(("saes", "documents", "resamples", "width"), case, strict=True))
        for side, root in sides.items():
            one = child(root, **given, latents=options.latents, profile=options.profile)
            found[side, *case] = one["end"]
            harness.row(
                *case, side, plain(one["end"]), plain(one["end"] / case[0]), plain(one["first"]),
                plain(one["memory"]), plain(one["bytes"] / 2**20),
            )  # fmt: skip
    for side in sides:
        for place, name in enumerate(("SAEs", "documents", "resamples", "width")):
            exponents(side, place, name, {key[1:]: value for key, value in found.items() if key[0] == side})


def exponents(side: str, place: int, name: str, found: dict[tuple[int, ...], float]) -> None:
    """A line for each series of cases that differ in one number alone."""
    series: dict[tuple[int, ...], list[tuple[int, float]]] = {}
    for case, seconds in found.items():
        series.setdefault(case[:place] + case[place + 1 :], []).append((case[place], seconds))
    for others, points in series.items():
        if len(points) > 1:
            (n, a), (m, b) = min(points), max(points)
            exponent = math.log(b / a) / math.log(m / n)
            print(f"\n{side}, others {others}: exponent in {name} from {n} to {m}: {exponent:.2f}")


def child(root: Path, **given: Any) -> dict[str, Any]:
    """What a process measures that imports the package from ``root``."""
    environment = os.environ | {"PYTHONPATH": str(root.resolve()), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--child", json.dumps(given)]
    found = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(found.stdout)  # type: ignore[no-any-return]


def measured(*, saes: int, documents: int, resamples: int, width: int, latents: int, profile: bool) -> dict[str, Any]:
    """Make the results of a run; CPU seconds, memory and bytes."""
    from sae_bench.engine.checkpoint import Checkpoint
    from sae_bench.results import store
    from sae_bench.session.report import results

    warnings.simplefilter("ignore")  # random figures are no better than those of controls, which is said
    with tempfile.TemporaryDirectory() as folder:
        run, records, protocols, provenance = made(
            Checkpoint(Path(folder, "run")), saes, documents, resamples, width, latents
        )
        out, first = Path(folder, "results"), None
        before = harness._answer(None, {"settle": True})["before"]
        profiler = cProfile.Profile()
        if profile:
            profiler.enable()
        start = time.process_time()
        for i, (result, tables) in enumerate(results(run, records, protocols, provenance)):
            assert result.status == "ok", result.reason
            store.written(out, result, tables)
            if i + 1 == len(run.tasks):
                first = time.process_time() - start
        end = time.process_time() - start
        profiler.disable()
        after = harness.resident()
        if profile:
            pstats.Stats(profiler, stream=sys.stderr).sort_stats("cumulative").print_stats(45)
            pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(25)
        size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    peak = max(after["VmHWM"] - after["RssFile"], after["RssAnon"])
    return {"end": end, "first": first, "memory": peak - before, "bytes": size}


def made(checkpoint: Any, n_saes: int, documents: int, resamples: int, width: int, latents: int) -> tuple[Any, ...]:
    """A run that has just ended, with what its results say of themselves."""
    import numpy as np

    from sae_bench import registry
    from sae_bench.data.documents import Corpus
    from sae_bench.data.tokens import TokenSet
    from sae_bench.engine.plan import Cast, Options
    from sae_bench.engine.workspace import Entry
    from sae_bench.results import store
    from sae_bench.saes.protocol import CoderInfo
    from sae_bench.schema import CoderRecord, Protocol
    from sae_bench.session.run import Measured
    from sae_bench.streams import Inputs, Run
    from sae_bench.streams.documents import DocumentsReader

    rng = np.random.default_rng(0)
    ids = rng.integers(1, 1000, documents * LENGTH, dtype=np.int32)
    names = tuple(f"{int(i):016x}" for i in rng.permutation(documents))
    tokens = TokenSet(ids, np.arange(documents + 1) * LENGTH, np.arange(documents, dtype=np.int32), names)
    options = Options(mask="none", controls=CONTROLS, resamples=resamples)
    info = CoderInfo("sae", latents, width, width, (HOOK,), (HOOK,), architecture="topk")

    def entry(key: str) -> Entry:
        return Entry(key, key, SimpleNamespace(info=info))  # type: ignore[arg-type]

    own = [entry(f"sae{i}") for i in range(n_saes)]
    controls = [entry(f"{sae.key}/{name}") for sae in own for name in CONTROLS]
    of = {sae.key: {name: f"{sae.key}/{name}" for name in CONTROLS} for sae in own}
    state = checkpoint.load()
    work = SimpleNamespace(moments={HOOK: SimpleNamespace(n_tokens=1)}, subject=None)
    inputs = Inputs(Corpus(tokens, tokens, "text", {}), None, options)
    run = Run(work, Cast(own, controls, of), inputs, 2048, checkpoint, state)  # type: ignore[arg-type]
    known = registry.tasks()
    tasks = {name: registry.load(known[name].code)(known[name]) for name in TASKS}
    for start in range(0, documents, AT_ONCE):
        n = min(AT_ONCE, documents - start)
        checkpoint.append(state, rows(rng, np.arange(start, start + n), [e.key for e in [*own, *controls]], width))
    for one in [*own, *controls]:
        active = rng.integers(0, 50, latents).astype(np.float64)
        state.totals |= {("sparsity", one.key, "active_tokens"): active, ("sparsity", one.key, "contribution"): active}
    reader = DocumentsReader(run)
    reader.tasks = tasks
    records, protocols = {}, {}
    for i, sae in enumerate(own):
        records[sae.key] = CoderRecord(
            name=sae.key, source="x", format="x", architecture="topk", weights_sha256=f"{i:064x}", n_latents=latents,
            d_in=width, d_out=width, hooks_in=(HOOK,), hooks_out=(HOOK,),
        )  # fmt: skip
        for name, task in tasks.items():
            protocol = Protocol(
                task=name, version=task.spec.version, task_sha256="1" * 64, model="m", model_sha256="2" * 64,
                dtype="float32", hooks_in=(HOOK,), hooks_out=(HOOK,), data="d", data_sha256="3" * 64,
                calibration_sha256="4" * 64, n_documents=documents, mask="none", special_ids=(),
                mean_from="calibration", seed=0, resamples=resamples,
            )  # fmt: skip
            protocols[sae.key, name] = (store.protocol_hash(protocol), protocol)
    common = {"versions": {}, "platform": "x", "device": "cpu", "backend": "hf", "batch_tokens": 2048, "n_tokens": 1}
    provenance = {name: common | {"data": {}} for name in tasks}
    return Measured(run, tasks, dict.fromkeys(tasks, reader)), records, protocols, provenance


def rows(rng: Any, units: Any, coders: list[str], width: int) -> dict[tuple[str, str, str], Any]:
    """What the batches of some documents would have appended."""
    import numpy as np

    n, at = len(units), f"@{HOOK}"
    found = {("", "", "unit"): units}
    x = rng.normal(size=(3, n, width)) + 1
    for i, (prefix, tokens) in enumerate((("", LENGTH), ("first_", 1), ("top_", 1))):
        energy = tokens * (x[i] ** 2).sum(1)
        values = {"tokens": np.full(n, float(tokens)), "energy": energy, "x": x[i] * tokens, "rounding": energy * 1e-15}
        found |= {("reconstruction", at, prefix + name): column for name, column in values.items()}
    found["sparsity", at, "tokens"] = np.full(n, float(LENGTH))
    names = ("predictions", "ce_clean", "ce_zero", "ce_mean", "kl_zero", "kl_mean")
    found |= {("loss_recovered", at, name): rng.uniform(i, i + 1, n) for i, name in enumerate(names)}
    for coder in coders:
        names = (*SUMS, *(f"first_{name}" for name in SUMS), "top_error")
        found |= {("reconstruction", coder, name): rng.uniform(1, 2, n) for name in names}
        found |= {("sparsity", coder, c): rng.uniform(1, 2, n) for c in ("active", "magnitude", "contribution")}
        found |= {("loss_recovered", coder, c): rng.uniform(2, 3, n) for c in ("ce_spliced", "kl")}
    return found


if __name__ == "__main__":
    main()
