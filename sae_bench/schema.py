"""Records that cross a boundary: task definitions read from files, results written to files.

Every record refuses fields that it does not know: a typo in a task file is an error, not a default.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, PrivateAttr, model_validator

from sae_bench import older

Claims = Literal["features", "encoder", "decoder", "fidelity"]  # what a metric says that it measures
Better = Literal["higher", "lower", "none"]
Verdict = Literal["better", "worse", "differs", "cannot be told apart"]  # differs: nothing says which one is better
Status = Literal["ok", "degraded", "error", "skipped"]  # degraded: there are figures, which must not be ranked

NOT_VALIDATED = "it is not validated: known truth was never asked about this definition"
ANOTHER = "it is not validated: known truth was asked about another definition, or about other parameters"
MOST_RESAMPLES = 100_000  # a file from elsewhere must not take all memory
CAUTIONS = "cautions"  # name in the details of a result: what its figures must not be read without
LOST = "controls without figures"  # likewise: by control, why it has none
INFERENCE = "inference_architecture"  # in the provenance of an SAE: how it computes, where not as it was trained
NO_LATENTS = "it has no latents, which this task measures"
MEASURED = "controls as measured"  # likewise: by control, its L0 and on how many documents, if not on all
# 1: matched to each SAE's own L0, measured on all text; 2: on a grid of L0, 9 % off at most, on a sample where that
# tells them from it; 3: within 1 % of its L0, or not at all
CONTROL_RULES = 3
RESULT_SCHEMA = 3  # 2 holds the definition, 3 what intervals are worth; older ones are read as well
MARKED_FROM = 3  # the first in which a figure says why its interval is missing or too narrow


class Record(BaseModel):
    """Frozen, strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class MetricSpec(Record):
    """One figure of a task.

    ``unit`` is the unit of the figure ("nats", "1" for a ratio), ``table`` the kind of unit over which it is summed and
    resampled, ``target`` a value that would be ideal where neither more nor less is better, ``lowest`` and ``highest``
    what no figure can pass but by rounding. ``claims`` says what it measures: features, their encoder or decoder, or
    fidelity; None of what says nothing of an SAE's quality. Whether SAEs are ranked by it is no part of a definition:
    that is earned (:mod:`sae_bench.standing`), and known only where the task is installed. ``at_equal_l0``: more active
    latents alone make it better, so that it orders only SAEs of about the same L0 (:mod:`sae_bench.results.at_l0`).
    """

    name: str
    unit: str
    better: Better
    table: str = Field(pattern=r"^[a-z][a-z0-9_]*$")  # a kind of sae_bench.units.kinds
    interval: Literal["bootstrap", "wilson"] = "bootstrap"
    target: FiniteFloat | None = None
    lowest: FiniteFloat | None = None
    highest: FiniteFloat | None = None
    headline: bool = True
    claims: Claims | None = None
    at_equal_l0: bool = False
    description: str
    _judged: tuple[str, str | None] | None = PrivateAttr(default=None)  # digest and verdict: no file brings them

    @property
    def unranked(self) -> str | None:
        """Why SAEs are not put in order by this figure; None where they are."""
        if self.better == "none":
            return "neither more nor less of it is better"
        if self._judged is not None and self._judged[1] is not None:
            return self._judged[1]
        if self.claims is None:
            return "it does not claim to measure how good an SAE is"
        return NOT_VALIDATED if self._judged is None else None

    @property
    def orders(self) -> bool:
        """Whether SAEs may be put in order by this figure."""
        return self.unranked is None

    @property
    def ranking(self) -> Literal["yes", "at equal L0", "no"]:
        """Among which SAEs one is ranked by this figure, in words."""
        return "no" if not self.orders else "at equal L0" if self.at_equal_l0 else "yes"

    def __eq__(self, other: object) -> bool:
        """Two definitions are equal where their fields are, whatever was made of their claims."""
        return isinstance(other, MetricSpec) and self.__dict__ == other.__dict__

    def judged(self, digest: str, why: str | None) -> Self:
        """The metric of the definition of this digest, by which SAEs are ranked unless ``why`` says why not."""
        made = self.model_copy()
        made._judged = digest, why
        return made

    def measured_as(self, digest: str) -> Self:
        """The metric of a result whose definition had this digest: another one than was judged ranks nobody."""
        if not self.orders or self._judged is None or self._judged[0] == digest:
            return self
        return self.judged(digest, ANOTHER)

    @model_validator(mode="before")
    @classmethod
    def _earns_its_ranks(cls, content: Any) -> Any:
        if isinstance(content, dict) and "ranked" in content:
            raise ValueError(
                "ranked is earned and not said: remove it, and say by claims what the metric measures "
                '("features", "encoder", "decoder" or "fidelity") if it measures how good an SAE is'
            )
        return content

    @model_validator(mode="after")
    def _is_one_or_the_other(self) -> Self:
        if self.at_equal_l0 and self.better == "none":
            raise ValueError("at_equal_l0 needs a direction: it says among which SAEs one is ranked")
        return self


class TaskSpec(Record):
    """A task definition, ``tasks/<id>/task.toml``: frozen, versioned, with one reference to each half of its code.

    ``code`` is the class that measures. ``figures`` is a module without torch, from which whoever reads results makes
    the figures again: ``metrics(parameters)`` and, where there are any, the record ``Parameters`` (whose defaults are
    the definition's ``parameters``) and ``blocks(details)``. ``pairs``: the task looks at other SAEs of
    the run; ``judge``: it asks a language model.
    """

    id: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    version: int = Field(ge=1)
    title: str
    question: str
    code: str = Field(pattern=r"^[\w.]+:\w+$")
    figures: str = Field(pattern=r"^[\w.]+$")
    pairs: bool = False
    judge: bool = False
    parameters: dict[str, Any] = Field(default_factory=dict)
    metrics: dict[str, MetricSpec]

    def measured_as(self, digest: str) -> Self:
        """The task of a result whose definition had this digest: another one than was judged ranks nobody."""
        return self.model_copy(update={"metrics": {n: one.measured_as(digest) for n, one in self.metrics.items()}})


class MetricValue(Record):
    """A measured figure. ``value`` is null exactly when ``reason`` says why; an interval holds its value.

    ``n_units`` counts what was resampled: groups of rows, which are documents, or what several of them come from.
    ``no_interval`` says why a value has no interval, ``optimistic`` why its interval is too narrow. ``design_effect``
    is the standard error over groups divided by that over rows, null where every group is a row. Older results say
    none of the three.
    """

    value: FiniteFloat | None
    low: FiniteFloat | None
    high: FiniteFloat | None
    unit: str
    better: Better
    n_units: int = Field(ge=0)
    reason: str | None = None
    no_interval: str | None = None
    optimistic: str | None = None
    design_effect: FiniteFloat | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if (self.value is None) == (self.reason is None):
            raise ValueError("either value or reason must be given, and the other be null")
        if (self.low is None) != (self.high is None) or (self.value is None and self.low is not None):
            raise ValueError("low and high must both be numbers, or both be null where there is no value or interval")
        if (self.no_interval and (self.low is not None or self.value is None)) or (
            self.optimistic and self.low is None
        ):
            raise ValueError("no_interval is said of a value without an interval, optimistic of an interval")
        if self.value is None or self.low is None or self.high is None or self.low <= self.value <= self.high:
            return self
        raise ValueError(f"the interval {self.low} to {self.high} must hold the value {self.value}")


class Against(Record):
    """An SAE held against what stands beside it, in pairs: its figure minus that of the other, on ``n_units`` of both.

    ``p`` is adjusted over all that the metric is held against. A verdict says what the SAE is; it "differs" in a metric
    by which nobody was ranked when that was written.
    """

    value: FiniteFloat
    low: FiniteFloat | None
    high: FiniteFloat | None
    p: FiniteFloat | None
    n_units: int = Field(ge=0)
    verdict: Verdict


class CoderRecord(Record):
    """The SAE that was measured.

    ``architecture`` is how it was trained, as far as its files say it. Where it computes otherwise (BatchTopK by a
    threshold, as a JumpReLU) the ``provenance`` says so under INFERENCE.
    """

    name: str
    source: str
    format: str
    architecture: str
    weights_sha256: str
    n_latents: int
    d_in: int
    d_out: int
    hooks_in: tuple[str, ...]
    hooks_out: tuple[str, ...]
    provenance: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _as_trained(cls, content: Any) -> Any:
        return older.as_trained(content, INFERENCE)


class Protocol(Record):
    """All that changes a number. Its hash decides which results may be compared.

    ``parameters`` are those of the task that differ from its definition. ``data`` is what the task reads: text, or a
    suite of labelled sets, of which ``n_documents`` counts the texts. What is None is not known of older results, but
    for ``tokenizer_sha256`` (there is no tokenizer), ``bos`` (nothing stands before labelled texts, or none are read)
    and ``code_sha256`` (the task's code ships with sae-bench). Versions and devices are no part of it: see
    :mod:`sae_bench.results.environment`.
    """

    task: str
    version: int
    task_sha256: str
    parameters: dict[str, Any] = Field(default_factory=dict)
    model: str
    model_sha256: str
    dtype: str
    hooks_in: tuple[str, ...]
    hooks_out: tuple[str, ...]
    data: str
    data_sha256: str
    calibration_sha256: str
    n_documents: int
    mask: Literal["special", "first", "none"]
    special_ids: tuple[int, ...]  # what the mask "special" leaves out; empty for the others
    mean_from: Literal["calibration", "evaluation"]
    seed: int
    resamples: int | None = None
    config_sha256: str | None = None  # the model's effective configuration, and what was changed in memory
    tokenizer_sha256: str | None = None  # what the tokenizer does
    backend: str | None = None  # what runs the model
    bos: int | None = None  # what stands before labelled texts; that of documents is in their digest
    code_sha256: str | None = None  # of a task that does not ship with sae-bench


class Provenance(Record):
    """Where a result comes from. Holds nothing that differs between two runs of the same work on one machine."""

    protocol: Protocol
    versions: dict[str, str]
    platform: str
    device: str
    backend: str
    controls: tuple[str, ...] = ()
    control_rules: int = 1  # by which controls were made and measured, see CONTROL_RULES; older results do not say it
    resamples: int = Field(ge=20, le=MOST_RESAMPLES)
    confidence: float
    batch_tokens: int
    n_tokens: int
    n_calibration_documents: int
    n_calibration_tokens: int
    data: dict[str, Any]
    counters: dict[str, int]
    settings: dict[str, Any] = Field(default_factory=dict)  # what repeats the run, but for where things lie
    model: dict[str, Any] = Field(default_factory=dict)  # an adapter in its weights, and what was changed in memory
    environment: dict[str, str] = Field(default_factory=dict)  # of versions and device the rest: see environment.py
    judge: dict[str, Any] = Field(default_factory=dict)  # who was asked, who answered, and what the endpoint takes


class Result(Record):
    """What one SAE scored on one version of one task.

    ``definition`` is that of the task with the parameters of the run, so that its figures are shown where the task is
    not installed; its digest is ``task_sha256`` of the protocol. Results of schema 1 have none. ``units_sha256`` is the
    digest of the file of units beside the result, None where there is no file, or where older results do not say.
    ``against`` holds by control and metric how the SAE differs from it; older results do not say it. ``suite`` is the
    frozen suite that the run kept to, as ``name@sha256`` of its file, None of a run with settings of its own.
    """

    schema_version: int = Field(default=RESULT_SCHEMA, ge=1, le=RESULT_SCHEMA, strict=True)
    sae: CoderRecord
    task: str
    version: int
    status: Status
    reason: str | None = None
    protocol: str
    metrics: dict[str, MetricValue] = Field(default_factory=dict)
    controls: dict[str, dict[str, MetricValue]] = Field(default_factory=dict)
    against: dict[str, dict[str, Against]] = Field(default_factory=dict)
    details: dict[str, Any] = Field(default_factory=dict)
    provenance: Provenance
    definition: TaskSpec | None = None
    units_sha256: str | None = None
    suite: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_ranks(cls, content: Any) -> Any:
        return older.without_ranks(content)

    @property
    def cautions(self) -> tuple[str, ...]:
        """What the figures must not be read without, as far as details from elsewhere say it in sentences."""
        said = self.details.get(CAUTIONS)
        return tuple(one for one in said if isinstance(one, str)) if isinstance(said, list) else ()

    @property
    def measured(self) -> bool:
        """Whether there are figures."""
        return self.status in ("ok", "degraded")
