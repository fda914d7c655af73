"""What a task is: sums per sequence, sums per latent, and metrics as functions of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from sae_bench import registry
from sae_bench.kernels.divergence import Scores
from sae_bench.metrics import metrics_of, silent_of
from sae_bench.randomness import Noise
from sae_bench.saes.protocol import CoderInfo, Codes
from sae_bench.schema import TaskSpec
from sae_bench.units import Column, Units
from sae_bench.units.bootstrap import Metric


class Site(Protocol):
    """One batch at one hook point, before any SAE. Everything is computed when first asked for, and once.

    Tokens are the real positions of the batch, flattened: ``T`` of them. ``kept`` marks those inside the mask, which
    are summed, replaced and ablated; ``first`` marks position 0 of every sequence, inside the mask or not. Predictions
    are made at positions inside the mask that have a successor.
    """

    rms: float
    """Root mean square norm of the target on calibration tokens."""

    top_channels: Tensor
    """Int64: the three channels of the target with the largest variance in the calibration text."""

    @property
    def target(self) -> Tensor:
        """Activations that a coder should reproduce ``[T, d_out]``."""
        ...

    @property
    def kept(self) -> Tensor:
        """Bool ``[T]``: inside the mask."""
        ...

    @property
    def first(self) -> Tensor:
        """Bool ``[T]``: position 0 of its sequence."""
        ...

    @property
    def first_tokens(self) -> Tensor:
        """Int64: which of the T tokens stands at position 0 of each sequence that has one."""
        ...

    @property
    def top(self) -> Tensor:
        """Bool ``[T]``: kept, and farther from the calibration mean than 99 % of the calibration tokens."""
        ...

    @property
    def folds(self) -> Tensor:
        """Int64 ``[T]``: the fold of its document, of :mod:`sae_bench.units.folds`."""
        ...

    def sum(self, values: Tensor, where: Tensor) -> Tensor:
        """Float64 sums over the tokens ``where`` of each sequence: ``[T, ...]`` to ``[sequences, ...]``."""
        ...

    def predictions(self) -> Tensor:
        """Number of predictions of each sequence, float64 ``[sequences]``."""
        ...

    def loss(self, replacement: str) -> Tensor:
        """Cross-entropy summed over each sequence's predictions, nats, float64 ``[sequences]``.

        ``replacement`` says what the kept tokens carry: "clean", "zero" or "mean", and for a coder also "spliced".
        """
        ...

    def kl(self, replacement: str) -> Tensor:
        """KL(clean || replaced) summed over each sequence's predictions, nats, float64 ``[sequences]``."""
        ...

    def replaced(self, replacement: str) -> Scores:
        """What :meth:`loss` and :meth:`kl` sum, of every prediction: "zero" or "mean", for a coder also "spliced"."""
        ...

    def sum_predictions(self, values: Tensor) -> Tensor:
        """Float64 sums over the predictions of each sequence: ``[P]`` to ``[sequences]``."""
        ...

    def noise(self, role: str) -> Noise:
        """Random numbers for every token, keyed by seed, ``role`` and sequence and not by batch."""
        ...


class View(Site, Protocol):
    """One batch as one coder sees it."""

    @property
    def info(self) -> CoderInfo:
        """What the coder is."""
        ...

    @property
    def x_hat(self) -> Tensor:
        """Reconstruction ``[T, d_out]``."""
        ...

    @property
    def codes(self) -> Codes:
        """Latent activations, T rows."""
        ...

    @property
    def sizes(self) -> Tensor:
        """Of every entry of ``codes``: its magnitude times the norm of its decoder direction, float64 ``[entries]``."""
        ...

    def decode(self, codes: Codes) -> Tensor:
        """What the coder makes of other codes of the same T tokens, for instance a part of its own: ``[T, d_out]``."""
        ...

    def scores(self, values: Tensor, key: str) -> Scores:
        """What the model says with ``values`` ``[T, d_out]`` at the kept tokens, of every prediction ``[P]``.

        Memoised under ``key``, which must name one replacement; each key costs a pass of the rest of the model, which
        :meth:`Task.passes` declares. Raises ValueError for a key that was used for other values.
        """
        ...

    @property
    def partners(self) -> tuple[View, ...]:
        """The other SAEs of the run on this batch, no controls; for tasks whose definition says ``pairs = true``."""
        ...


@dataclass(frozen=True)
class Context:
    """What a run knows: how a token and a run of tokens read, and a token that stands for "nothing" in a text."""

    token_text: Callable[[int], str]
    text_of: Callable[[Sequence[int]], str]
    padding: int


class Fidelity(NamedTuple):
    """A metric of how faithful reconstructions are, and the least difference of it that means anything."""

    metric: str
    least: float


class Task:
    """Base class of all tasks. All columns are float64 tensors ``[sequences]`` or ``[sequences, width]``.

    ``metrics`` maps the metric ids of the task's definition to functions of column sums, from its module of figures.
    """

    stream = "documents"  # what the task reads: a name of sae_bench.streams
    replacements: tuple[str, ...] = ()  # of "clean", "zero", "mean", "spliced": those whose losses it reads
    sees_decoder = (
        True  # whether a figure depends on the decoder: else controls that differ in theirs alone say nothing
    )
    may_be_nan: frozenset[str] = frozenset()  # columns in which NaN has a meaning
    counts: str | None = None  # a column of "document" that counts the tokens inside the mask, for a run to check
    only_of_coders: frozenset[str] = frozenset()  # metrics that references do not have
    fidelity: Fidelity | None = None  # the figure by which reconstructions are held against those of other directions
    constants: Mapping[str, Mapping[str, float]] = {}  # known scores that stand beside the controls, by name and metric
    text_of: Callable[[Sequence[int]], str] = staticmethod(lambda ids: " ".join(map(str, ids)))  # the same for several
    token_text: Callable[[int], str] = staticmethod(str)  # how to show a token; a run with a tokenizer sets it

    def __init__(self, spec: TaskSpec) -> None:
        self.spec = spec
        self.metrics: Mapping[str, Metric] = metrics_of(spec)

    def prepare(self, context: Context) -> None:
        """Take what a run knows and a definition does not; called once, before anything is measured."""
        self.token_text, self.text_of = context.token_text, context.text_of

    def passes(self) -> int:
        """How many replacements of its own the task lets the model run on, a coder and batch: the keys of scores."""
        return 0

    def shared(self, site: Site) -> dict[str, Tensor]:
        """Columns that do not depend on the coder; measured, summed and stored once for all coders at a hook point.

        They are read-only in :meth:`tables`, which may put others in their place.
        """
        return {}

    def measure(self, view: View) -> dict[str, Tensor]:
        """Columns of one coder."""
        return {}

    def totals(self, view: View) -> dict[str, Tensor]:
        """Sums over all tokens of the batch, which are added up over batches (for instance one entry a latent)."""
        return {}

    def tables(self, rows: Units, totals: Mapping[str, Column]) -> dict[str, Units]:
        """All tables of units, from the measured rows (shared and own columns) and the added-up totals."""
        return {"document": rows}

    def unusable(self, tables: Mapping[str, Units]) -> str | None:
        """Why these tables hold nothing to score, or None; the result then has the status "error"."""
        return None

    def degraded(self, details: Mapping[str, Any]) -> str | None:
        """Why the figures beside these details must not be ranked, or None; the status is then "degraded"."""
        return None

    def cautions(self, tables: Mapping[str, Units], n_latents: int) -> list[str]:
        """What must stand beside the figures so that they are not misread, a sentence each: on stderr and in details.

        The same sentence of several SAEs is said once. `n_latents` are those that the SAE has.
        """
        return []

    def wants_control(self, name: str) -> bool:
        """Whether a control is measured too: not where it has the codes of another one, or of the SAE, and only codes
        are seen; and one that bounds what an SAE could reach where reconstructions are held against it.
        """
        control = registry.controls().get(name)
        if control is None:
            return True
        return (self.sees_decoder or not control.codes_of) and (self.fidelity is not None or not control.bound)

    def lacking(self, beside: str) -> frozenset[str]:
        """The metrics that say nothing of a control or a reference that stands beside an SAE, by its name.

        Of a control they are what its task's module of figures says, so that a reader of results knows them too.
        """
        return silent_of(self.spec, beside) if beside in registry.controls() else self.only_of_coders

    def details(self, tables: Mapping[str, Units]) -> dict[str, Any]:
        """What a result shows beside metrics; plain JSON, of bounded size."""
        return {}
