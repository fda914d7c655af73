"""The regression gate: is a new result worse than a baseline by more than is allowed, beyond noise?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, FiniteFloat, ValidationError, model_validator

from sae_bench.errors import ResultError, UsageError
from sae_bench.parsing import read_toml
from sae_bench.registry import data_folder, suggest
from sae_bench.results import store
from sae_bench.results.compare import Difference, Loaded, NotComparable, comparable, difference, load, refusal
from sae_bench.results.compare_sides import Side
from sae_bench.schema import Record, TaskSpec
from sae_bench.show import marks
from sae_bench.show.text import some

State = Literal["ok", "regression", "not shown", "not compared"]
Gates = Mapping[str, Mapping[str, "Gate"]]


class Gate(Record):
    """The limits of one metric, all in its unit; see leaderboard/gates.toml."""

    allowed_loss: FiniteFloat | None = Field(default=None, ge=0, strict=True)
    floor: FiniteFloat | None = Field(default=None, strict=True)
    ceiling: FiniteFloat | None = Field(default=None, strict=True)

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.allowed_loss is None and self.floor is None and self.ceiling is None:
            raise ValueError("give allowed_loss, floor or ceiling")
        if self.floor is not None and self.ceiling is not None and self.floor >= self.ceiling:
            raise ValueError(f"the floor {self.floor:g} must be below the ceiling {self.ceiling:g}")
        return self


@dataclass(frozen=True)
class Outcome:
    """What the gate says of one metric, and why.

    "not shown": no regression, but the interval of the loss holds more than is allowed, or the baseline or the new
    result is not whole (``marks``, in this order), so it is not shown that there is none. ``loss``, ``low`` and
    ``high`` are positive where the new result is worse, in the metric's unit. ``n_units`` groups were compared;
    ``optimistic`` says why that interval is too narrow, ``design_effect`` how much wider grouping made it.
    """

    task: str
    metric: str
    state: State
    why: str
    gate: Gate
    old: float | None
    new: float | None
    loss: float | None = None
    low: float | None = None
    high: float | None = None
    marks: tuple[marks.Mark | None, marks.Mark | None] = (None, None)
    n_units: int | None = None
    optimistic: str | None = None
    design_effect: float | None = None


def read_gates(file: Path | None, specs: Mapping[str, TaskSpec]) -> dict[str, dict[str, Gate]]:
    """Limits by task and metric, from ``file`` or those that are shipped. Raises UsageError naming file and field."""
    file = file or data_folder("leaderboard") / "gates.toml"
    content = read_toml(file, UsageError, "the gates ")
    gates: dict[str, dict[str, Gate]] = {}
    for task, metrics in content.items():
        if task not in specs:
            raise UsageError(f"{file}: {task!r} is not a task; {suggest(task, specs)}")
        if not isinstance(metrics, dict):
            raise UsageError(f"{file}: {task!r} must be tables [{task}.metric], not {metrics!r}")
        for metric, limits in metrics.items():
            gates.setdefault(task, {})[metric] = _gate(f"{file}: '{task}.{metric}", specs[task], metric, limits)
    return gates


def _gate(where: str, spec: TaskSpec, metric: str, limits: Any) -> Gate:
    if metric not in spec.metrics:
        raise UsageError(f"{where}' is not a metric of {spec.id}; {suggest(metric, spec.metrics)}")
    try:
        gate = Gate.model_validate(limits)
    except ValidationError as error:
        first = error.errors()[0]
        field = "".join(f".{part}" for part in first["loc"])
        hint = f"; {suggest(str(first['loc'][0]), Gate.model_fields)}" if first["type"] == "extra_forbidden" else ""
        raise UsageError(f"{where}{field}': {first['msg']}{hint}") from error
    if gate.allowed_loss is not None and spec.metrics[metric].better == "none":
        raise UsageError(f"{where}.allowed_loss': neither more nor less is a loss here; give floor or ceiling")
    return gate


def baselines(
    new: Side,
    path: Path | None,
    *,
    sae_name: str | None = None,
    allow_missing: bool = False,
    task_dir: str | None = None,
) -> tuple[list[tuple[Loaded, Loaded | None]], list[str]]:
    """For every new result the old one to hold it against, None where there is none; and notes.

    ``path`` is a result or a folder, in which results of the SAE's own name count, or of ``sae_name``. Raises
    NotComparable, and UsageError where several would fit.
    """
    if path is None:
        return [(one, None) for one in new.results], ["no baseline: floors and ceilings alone are checked"]
    old = _old_results(new, path, sae_name, task_dir)
    _refuse_missing(new, old, allow_missing)
    found: list[tuple[Loaded, Loaded | None]] = []
    notes = []
    for one in new.results:
        same = [x for x in old if x.result.task == one.result.task]
        fitting = [x for x in same if comparable(one, x)]
        fitting = [x for x in fitting if x.result.protocol == one.result.protocol] or fitting
        if len(fitting) > 1:
            files = " and ".join(str(x.file) for x in fitting)
            raise UsageError(f"{files} all fit as baseline of {one.file}; give the one that is meant as --baseline")
        twins = [x for x in new.results if x is not one and x.result.task == one.result.task]
        if not fitting and same and not any(comparable(x, y) for x in twins for y in same):
            raise refusal(same[0], one)
        if not fitting:
            notes.append(f"{one.result.task} ({one.file}): not in the baseline; floors and ceilings alone are checked")
        found.append((one, fitting[0] if fitting else None))
    return found, notes


def _old_results(new: Side, path: Path, sae_name: str | None, task_dir: str | None) -> list[Loaded]:
    """The results of a baseline that count."""
    own = {x.file.resolve() for x in new.results}
    files = [file for file in store.results_below(path) if file.resolve() not in own]
    if not files:
        raise UsageError(f"the baseline {path} is the new result itself; give an older one")
    if path.is_dir():
        names = {file: store.read(file).sae.name for file in files}
        wanted = sae_name or new.sae.name
        files = [file for file in files if names[file] == wanted]
        if not files:
            there = some([repr(name) for name in sorted(set(names.values()))])
            raise NotComparable(
                f"the baseline {path} has no result of the SAE {wanted!r}, but of {there}; choose one with --sae-name"
            )
    loaded = [load(file, task_dir) for file in files]
    return [x for x in loaded if x.result.status == "ok"]


def _refuse_missing(new: Side, old: Sequence[Loaded], allow_missing: bool) -> None:
    """A part of a result that is gone must not pass as one that is as good as before."""
    if not old:
        raise NotComparable("the baseline has no result with figures")
    having: dict[str, set[str]] = {}
    for x in new.results:
        having.setdefault(x.result.task, set()).update(x.result.metrics)
    missing = [
        x.result.task if x.result.task not in having else f"{x.result.task}.{metric}"
        for x in old
        for metric in x.result.metrics
        if metric not in having.get(x.result.task, ())
    ]
    if missing and not allow_missing:
        why = f" ({'; '.join(new.failed)})" if new.failed else ""
        raise NotComparable(
            f"{new.path} lacks what the baseline has: {', '.join(dict.fromkeys(missing))}{why}; measure it, or pass it "
            "over with --allow-missing"
        )


def judge(new: Loaded, old: Loaded | None, gates: Mapping[str, Gate]) -> list[Outcome]:
    """Every gated metric of one task that the new result has; without a baseline only those with a floor or ceiling.

    Raises NotComparable where there are no units.
    """
    for x in (new, old):
        if x is not None and not x.tables and old is not None:
            raise NotComparable(f"{x.file} has no units beside it, and only units can be compared")
    return [
        _marked(_judged(new, old, metric, gate), new, old)
        for metric, gate in gates.items()
        if metric in new.result.metrics and (old is not None or (gate.floor, gate.ceiling) != (None, None))
    ]


def _judged(new: Loaded, old: Loaded | None, metric: str, gate: Gate) -> Outcome:
    shown = new.result.metrics[metric]
    before = old.result.metrics.get(metric) if old is not None else None
    said = Outcome(new.result.task, metric, "ok", "", gate, before.value if before else None, shown.value)
    if shown.value is None:
        lost = before is not None and before.value is not None
        return _said(said, "regression" if lost else "not compared", f"it has no value: {shown.reason}")
    if gate.floor is not None and shown.value < gate.floor:
        return _said(said, "regression", f"{shown.value:.4g} is below the floor {gate.floor:g}")
    if gate.ceiling is not None and shown.value > gate.ceiling:
        return _said(said, "regression", f"{shown.value:.4g} is above the ceiling {gate.ceiling:g}")
    if gate.allowed_loss is None:
        return _said(said, "ok", "within floor and ceiling")
    if old is None:
        return _said(said, "ok", "within floor and ceiling; there is no baseline")
    if before is None:
        return _said(said, "not compared", "the baseline lacks it")
    return _held(said, difference(old, new, metric), gate.allowed_loss)


def _held(said: Outcome, d: Difference, allowed: float) -> Outcome:
    """The loss against what is allowed."""
    if d.value is None or d.low is None or d.high is None:
        return _said(said, "not compared", d.reason or "there is no interval")
    loss, low, high = (
        (d.value, d.low, d.high) if d.better == "lower" else (0 - d.value, 0 - d.high, 0 - d.low)
    )  # 0 -: no -0
    measured = replace(
        said, old=d.a, new=d.b, loss=loss, low=low, high=high,
        n_units=d.n_units, optimistic=d.optimistic, design_effect=d.design_effect,
    )  # fmt: skip
    if low > allowed:
        return _said(measured, "regression", f"it lost {low:.3g} to {high:.3g}, allowed is {allowed:g}")
    if high > allowed:
        return _said(measured, "not shown", f"it may have lost up to {high:.3g}, allowed is {allowed:g}")
    if high < 0:
        return _said(measured, "ok", f"it gained at least {-high:.3g}")
    return _said(measured, "ok", f"it lost at most {high:.3g}, allowed is {allowed:g}")


def _marked(outcome: Outcome, new: Loaded, old: Loaded | None) -> Outcome:
    """A result that cannot be ranked shows no metric to be as good as before; what it has lost, it has."""
    both = (None if old is None else marks.of(old.result), marks.of(new.result))
    said = [
        f"{whose} is {m.word}: {m.why}" for whose, m in zip(("the baseline", "the new result"), both, strict=True) if m
    ]
    if not said:
        return outcome
    whole = all(m is None or m.ranked for m in both)
    state: State = outcome.state if whole or outcome.state != "ok" else "not shown"
    return replace(outcome, state=state, why="; ".join([outcome.why, *said]), marks=both)


def _said(outcome: Outcome, state: State, why: str) -> Outcome:
    return replace(outcome, state=state, why=why)


def check(pairs: Sequence[tuple[Loaded, Loaded | None]], gates: Gates) -> list[Outcome]:
    """All outcomes. Raises ResultError where no gate applies, which must not pass as "nothing got worse"."""
    outcomes = [o for new, old in pairs for o in judge(new, old, gates.get(new.result.task, {}))]
    if not outcomes:
        tasks = ", ".join(dict.fromkeys(new.result.task for new, _ in pairs))
        raise ResultError(f"no gate applies to {tasks}; write one in a file and give it with --gates")
    return outcomes


def failed(outcomes: Sequence[Outcome], *, strict: bool) -> list[Outcome]:
    """Those that fail a build: regressions, and if ``strict`` also what is not shown or not compared."""
    return [o for o in outcomes if o.state == "regression" or (strict and o.state != "ok")]
