"""Results of many SAEs for summaries, made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sae_bench import registry
from sae_bench.board.summary import summaries
from sae_bench.results import store
from sae_bench.results.heads import Heads
from sae_bench.schema import Against, MetricValue, Result
from sae_bench.show.summary import Summary
from tests.builders.results import result

SNAPSHOTS = Path(__file__).parents[1] / "snapshots" / "summary"
SPECS = registry.tasks()


def value(task: str, metric: str, at: float | None, *, half: float = 0.1, **more: Any) -> MetricValue:
    """A figure with an interval of a share ``half`` of it to either side; None: no value, for a reason."""
    spec = SPECS[task].metrics[metric]
    common: dict[str, Any] = {"unit": spec.unit, "better": spec.better, "n_units": 200}
    if at is None:
        return MetricValue(value=None, low=None, high=None, reason="no token is left to measure", **common)
    return MetricValue(value=at, low=at - half * abs(at), high=at + half * abs(at), **(common | more))


def held(verdict: str, at: float) -> Against:
    """How an SAE does against a control: better by 0.2, worse by 0.2, or neither."""
    low, high = (at - 0.1, at + 0.1) if verdict != "cannot be told apart" else (-0.1, 0.1)
    return Against(value=at, low=low, high=high, p=0.001 if low * high > 0 else 0.9, n_units=200, verdict=verdict)  # type: ignore[arg-type]


def made(
    name: str,
    task: str,
    figures: dict[str, Any],
    *,
    against: dict[str, dict[str, str]] | None = None,
    suite: str | None = None,
    data: dict[str, Any] | None = None,
    n_tokens: int = 5600,
    **changes: Any,
) -> Result:
    """A result with figures by metric (numbers or MetricValue), and verdicts by control and metric."""
    metrics = {m: v if isinstance(v, MetricValue) else value(task, m, v) for m, v in figures.items()}
    sha = name.encode("utf-8", "surrogatepass").hex()[-64:].ljust(64, "0")
    one: Result = result(name=name, sha=sha, task=task, metrics=metrics, **{"n_documents": 64, **changes})
    signs = {m: 1.0 if SPECS[task].metrics[m].better == "higher" else -1.0 for m in metrics}
    ahead = {"better": 0.2, "worse": -0.2, "cannot be told apart": 0.0}
    verdicts = {
        control: {m: held(verdict, signs[m] * ahead[verdict]) for m, verdict in own.items()}
        for control, own in (against or {}).items()
    }
    provenance = one.provenance.model_copy(update={"n_tokens": n_tokens, **({"data": data} if data else {})})
    return one.model_copy(update={"against": verdicts, "suite": suite, "provenance": provenance})


def family(name: str, l0: float, kl: float | None, verdict: str = "better", **changes: Any) -> list[Result]:
    """Results of one SAE in five tasks: as a run of ``core`` leaves them."""
    better = {"random_fit": {"kl": verdict, "loss_recovered_mean": "better"}, "identity": {"kl": "worse"}}
    sets = {"data_sha256": "5" * 64, "n_documents": 423, "bos": 0}
    return [
        made(name, "sparsity", {"l0": l0, "dead_fraction": 0.125}, **changes),
        made(name, "reconstruction", {"fvu": 2 * (kl or 0.25)}, against={"pca": {"fvu": "better"}}, **changes),
        made(name, "loss_recovered", {"kl": kl, "loss_recovered_mean": 0.9}, against=better, **changes),
        made(name, "token_rules", {"rule_f1": 0.25}, **changes),
        made(
            name, "probe_recovery", {"probe_r": 0.4}, against={"random": {"probe_r": "cannot be told apart"}},
            data={"coverage": "36 of 37"}, **(changes | sets),
        ),
    ]  # fmt: skip


def many() -> list[Result]:
    """Seven SAEs as they come: of several L0, with ties, a missing figure, outliers, a failure and narrow intervals."""
    found = [one for name, l0, kl, verdict in (
        ("lab/topk-16", 16.0, 0.08, "better"), ("lab/topk-32-seed-0", 32.0, 0.04, "better"),
        ("lab/topk-32-seed-1", 32.5, 0.041, "cannot be told apart"), ("lab/relu", 33.0, 0.09, "worse"),
        ("lab/a-name-that-is-longer-than-any-column-of-a-table-and-ends-in-7", 34.0, None, "better"),
    ) for one in family(name, l0, kl, verdict)]  # fmt: skip
    narrow = value("reconstruction", "fvu", 0.2, optimistic="32 groups")
    for name, share in (("lab/outlier", "61.5%"), ("lab/outlier-2", "73.0%")):
        caution = f"12 of 5600 tokens hold {share} of the variance, so that fvu says how these few are given back"
        details = {"cautions": [caution], "controls without figures": {"random_fit": "4096 tokens are too few"}}
        found.append(made(name, "sparsity", {"l0": 60.0, "dead_fraction": None}))
        found.append(made(name, "reconstruction", {"fvu": narrow}, details=details))
        found.append(made(name, "loss_recovered", {}, status="error", reason="the SAE decodes to NaN"))
    return found


def lay(folder: Path, results: list[Result]) -> Path:
    """Write results without units."""
    for one in results:
        store.write(folder, one, {})
    return folder


def of(results: list[Result], others: list[Result] | None = None) -> list[Summary]:
    """Summaries of results that need no file."""

    def files(some: list[Result]) -> dict[Path, Result]:
        return {store.path_of("nowhere", r.sae, r.task, r.version, r.protocol): r for r in some}

    return summaries(files(results), registry.tasks(), others=files(others or []))


def heads(folder: Path) -> dict[Path, Result]:
    """What lies in a folder, as ``show`` reads it."""
    found: dict[Path, Result] = store.read_below(folder, Heads(SPECS).read)
    return found
