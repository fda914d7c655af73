"""The columns of the summary: figures that somebody has, each under one protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sae_bench.board.columns import Column as Metric
from sae_bench.board.summary_parts import Found
from sae_bench.results import at_l0
from sae_bench.schema import MetricSpec, MetricValue, Result, TaskSpec
from sae_bench.show import judges
from sae_bench.show.fitted import head
from sae_bench.show.summary import Column

L0 = (at_l0.TASK, at_l0.METRIC)
DEAD = ("sparsity", "dead_fraction")
HEADLINES: dict[tuple[str, str], tuple[str, str]] = {  # task and metric of each column, and its heading
    L0: ("", "L0"),
    ("reconstruction", "fvu"): ("", "FVU"),
    ("loss_recovered", "kl"): ("", "KL"),
    ("loss_recovered", "loss_recovered_mean"): ("loss", "recov."),
    DEAD: ("dead", "@"),
    ("probe_recovery", "probe_r"): ("probe", "R"),
    ("token_labels", "label_f1"): ("label", "F1"),
    ("token_rules", "rule_f1"): ("rule", "F1"),
    ("autointerp", "detection"): ("detec-", "tion"),
}
DECIDING = (  # the figure of rank and verdict: the first of these that somebody has
    ("loss_recovered", "kl"),
    ("reconstruction", "fvu"),
    ("token_labels", "label_f1"),
    ("probe_recovery", "probe_r"),
    ("autointerp", "detection"),
)
FEW = 6  # columns; while there are fewer, tasks that HEADLINES does not name have one too
NAME = 20  # characters of the name of such a figure

Key = tuple[str, str, str, tuple[str, ...]]  # task, metric, protocol, judge


class Columns:
    """The columns of one table; ``left_out`` are tasks that have none."""

    def __init__(self, part: Sequence[Found], specs: Mapping[str, TaskSpec]) -> None:
        self.specs = dict(specs)
        for one in part:
            if one.result.task not in self.specs and one.result.definition is not None:
                self.specs[one.result.task] = one.result.definition
        measured = [one.result for one in part if one.result.measured]
        self._definitions = {one.protocol: one.provenance.protocol.task_sha256 for one in measured}
        self.shown, self.left_out = self._made(measured)
        self.by = self._deciding()

    def spec(self, key: Key) -> MetricSpec | None:
        """The definition of a column's metric as it was measured, None of a task that is not known here."""
        found = self.specs[key[0]].metrics.get(key[1]) if key[0] in self.specs else None
        return None if found is None else found.measured_as(self._definitions[key[2]])

    def orders(self, key: Key) -> bool:
        """Whether SAEs may be put in order by a column."""
        spec = self.spec(key)
        return spec is not None and spec.orders

    def metric(self) -> Metric | None:
        """The deciding figure as the board ranks it."""
        spec = None if self.by is None else self.spec(self.by)
        if self.by is None or spec is None:
            return None
        return Metric(task=self.by[0], metric=self.by[1], label=self.shown[self.by].name, arrow="", spec=spec)

    def passed_over(self) -> list[Metric]:
        """The columns by which SAEs would be ranked, if any metric could be, and are not."""
        wanted = [key for key in self.shown if self.by is None or key[:2] in DECIDING]
        own = [(key, spec) for key in wanted if not self.orders(key) and (spec := self.spec(key)) is not None]
        return [Metric(key[0], key[1], self.shown[key].name, "", spec) for key, spec in own]

    def _made(self, results: Sequence[Result]) -> tuple[dict[Key, Column], list[str]]:
        """In the order of HEADLINES, and then those of other tasks; of one metric the newest and largest first."""
        ages: dict[tuple[str, str], dict[Key, tuple[int, int]]] = {}
        for one in results:
            for metric in one.metrics:
                key = (one.task, metric, one.protocol, judges.identity(one))
                age = -one.version, -one.provenance.protocol.n_documents
                ages.setdefault((one.task, metric), {})[key] = age
        wanted = [one for one in HEADLINES if one in ages]
        left_out = []
        for task in sorted({task for task, _ in ages} - {task for task, _ in wanted}):
            if len(wanted) < FEW:
                wanted.append((task, self._first(task, [metric for of, metric in ages if of == task])))
            else:
                left_out.append(task)
        made: dict[Key, Column] = {}
        for which in wanted:
            several = ages[which]
            for nth, key in enumerate(sorted(several, key=lambda key: (several[key], key)), 1):
                made[key] = self._column(key, nth, results)
        return made, left_out

    def _first(self, task: str, metrics: Sequence[str]) -> str:
        """The metric that stands for a task: its first headline figure that orders SAEs, else its first."""
        defined = self.specs[task].metrics if task in self.specs else {}
        own = [name for name in defined if name in metrics]
        headline = [name for name in own if defined[name].headline]
        return next(iter([*(name for name in headline if defined[name].orders), *headline, *own, *sorted(metrics)]))

    def _column(self, key: Key, nth: int, results: Sequence[Result]) -> Column:
        spec, again = self.spec(key), f"({nth})" if nth > 1 else ""
        above, name = HEADLINES.get(key[:2], ("", ""))
        if not name:
            above, _, name = head(spec.name if spec is not None else key[1], NAME).rpartition(" ")
        if key[:2] == DEAD:
            tokens = max(one.provenance.n_tokens for one in results if one.protocol == key[2])
            name += (
                f"{tokens / 1000:.0f}k"
                if tokens >= 9999.5
                else f"{tokens / 1000:.1f}k"
                if tokens > 999
                else f"{tokens}"
            )
        better = spec.better if spec is not None else "none"
        return Column(key[0], key[1], key[2], (above, name), better, again)

    def _deciding(self) -> Key | None:
        """The column that rank and verdict are of."""
        able = [key for key in self.shown if self.orders(key)]
        named = (key for wanted in DECIDING for key in able if key[:2] == wanted)
        return next(named, next(iter(able), None))


def held(own: Sequence[Found], key: Key) -> tuple[Found, MetricValue] | None:
    """The result of an SAE that a column shows, and its figure there; None where it has none."""
    for one in own:
        r = one.result
        if r.measured and key[1] in r.metrics and (r.task, r.protocol, judges.identity(r)) == (key[0], *key[2:]):
            return one, r.metrics[key[1]]
    return None
