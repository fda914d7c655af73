"""The architectures of SAELens: which tensors each has, how they are named here, and what activations are scaled by."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import get_args

from torch import Tensor

from sae_bench.errors import CoderError
from sae_bench.saes.config import Config, take
from sae_bench.saes.formats import native
from sae_bench.saes.linear import Activation, Normalisation
from sae_bench.saes.reading import Question
from sae_bench.saes.source import Source
from sae_bench.saes.weights import FLOATS, Weights
from sae_bench.settings import Told

WEIGHTS, SCALER = "sae_weights.safetensors", "activation_scaler.json"


@dataclass(frozen=True)
class Architecture:
    """An architecture in the words used here; ``activation`` None: matching pursuit. ``threshold``: its tensor."""

    activation: Activation | None
    transcoder: bool = False
    skip: bool = False
    threshold: str = "threshold"


ARCHITECTURES = {
    "standard": Architecture("relu"),
    "topk": Architecture("topk"),
    "abstopk": Architecture("abstopk"),
    "jumprelu": Architecture("jumprelu"),
    "gated": Architecture("gated"),
    "matching_pursuit": Architecture(None),
    "transcoder": Architecture("relu", transcoder=True),
    "skip_transcoder": Architecture("relu", transcoder=True, skip=True),
    "jumprelu_transcoder": Architecture("jumprelu", transcoder=True),
    "jumprelu_skip_transcoder": Architecture("jumprelu", transcoder=True, skip=True),
    "batchtopk": Architecture("jumprelu", threshold="topk_threshold"),
    "matryoshka_batchtopk": Architecture("jumprelu", threshold="topk_threshold"),
}


@dataclass
class Scaling:
    """What is done to activations before the encoder: a normalisation per token, or one factor out of ``files``."""

    normalise: Normalisation = "none"
    factor: float | None = None
    files: tuple[str, ...] = ()
    assumptions: list[str] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)


def scaling(source: Source, config: Config, told: Told) -> Scaling:
    """The normalisation of activations, without a factor that was told. Raises CoderError."""
    named = config.choice(
        "normalize_activations",
        (*get_args(Normalisation), "expected_average_only_in"),
        "none",
        otherwise="export the SAE with save_inference_model of SAELens, which folds whitening into the weights",
    )
    normalise: Normalisation = next((n for n in get_args(Normalisation) if n == named), "none")
    if normalise != "none" or told.norm_factor is not None:
        return Scaling(normalise)
    factor = _stored_factor(source)
    if named == "none":
        open_question = f"normalize_activations is none, but {SCALER} has the factor {factor} (1 leaves it out)"
        return Scaling(questions=[Question(open_question, ("norm_factor",))] if factor is not None else [])
    if factor is None:
        open_question = (
            "normalize_activations is expected_average_only_in, whose factor (sqrt(d_in) over the mean norm of the "
            "activations in training) is not in the folder"
        )
        return Scaling(questions=[Question(open_question, ("norm_factor",))])
    said = f"activations are multiplied with {factor}, the factor in {SCALER} of this checkpoint"
    return Scaling(factor=factor, files=(SCALER,), assumptions=[said])


def _stored_factor(source: Source) -> float | None:
    """The factor that a checkpoint of training has beside it. Raises CoderError."""
    if not source.has(SCALER):
        return None
    scaler = source.config(SCALER)
    if scaler.flag("has_whitening", False):
        raise CoderError(
            f"{scaler.where('has_whitening')} is true, and whitened activations are not read; export the SAE with "
            "save_inference_model of SAELens, which folds the whitening into the weights"
        )
    if scaler.get("scaling_factor") is None:
        return None
    factor = scaler.number("scaling_factor")
    if factor <= 0:
        raise CoderError(f"{scaler.where('scaling_factor')} must be positive, but it is {factor}")
    return factor


def weights(source: Source, kind: Architecture) -> Weights:
    """The tensors of an SAE of this architecture, without copies of matrices. Raises CoderError."""
    file = source.file(WEIGHTS)
    stored = dict(source.tensors(WEIGHTS))
    _drop_scaling_factor(stored, source)
    if kind.activation is None:
        tensors = take(stored, ("W_dec", "b_dec"), file)
        if tensors["W_dec"].ndim != 2:
            raise CoderError(f"{file}: W_dec must be a matrix, but it has shape {list(tensors['W_dec'].shape)}")
        return Weights(W_enc=tensors["W_dec"].T, **tensors)
    threshold = kind.threshold
    if threshold not in stored and "log_threshold" in stored:  # older checkpoints of JumpReLU
        threshold = "log_threshold"
    names = [threshold if name == "threshold" else name for name in native.TENSORS[kind.activation]]
    tensors = take(stored, [*names, *(["W_skip"] if kind.skip else [])], file)
    if kind.activation == "jumprelu":
        value = tensors.pop(threshold)
        logarithm = threshold == "log_threshold" and value.dtype in FLOATS
        tensors["threshold"] = value.float().exp() if logarithm else value
    return Weights(**tensors)


def _drop_scaling_factor(stored: dict[str, Tensor], source: Source) -> None:
    """Take out the factors per latent that v3 and v4 stored, which are ones unless they were fine-tuned."""
    factors = stored.pop("scaling_factor", None)
    if factors is not None and not _all(factors, 1):
        raise CoderError(
            f"{source.file(WEIGHTS)}: scaling_factor was fine-tuned (it is not 1 everywhere), which SAELens v6 cannot "
            "read either; multiply the rows of W_dec with it, and leave it out"
        )


def unset(found: Weights, kind: Architecture) -> bool:
    """Whether the threshold of BatchTopK is still what it was before training."""
    threshold = found.threshold
    return kind.threshold == "topk_threshold" and threshold is not None and _all(threshold, 0)


def _all(tensor: Tensor, value: int) -> bool:
    return tensor.dtype in FLOATS and bool((tensor == value).all())
