"""SAELens folders of v3 to v6, and its checkpoints of training: ``cfg.json`` and ``sae_weights.safetensors``.

Formulas as in SAELens: gated has no ``b_enc``; transcoders never subtract ``b_dec`` from their input, nor undo its
normalisation; with ``rescale_acts_by_decoder_norm`` latents are ``pre * ||W_dec||``, and decoding divides them again.
BatchTopK and Matryoshka are exported as JumpReLU, and only ``training_architecture`` says what they are; their
checkpoints keep one ``topk_threshold`` for all latents, in those scaled units. Matching pursuit has no encoder. A
normalisation whose factor is not in the folder is asked for.
"""

from __future__ import annotations

import torch

from sae_bench.errors import CoderError
from sae_bench.saes.config import Config
from sae_bench.saes.formats.saelens_config import shaped
from sae_bench.saes.formats.saelens_subject import subject_of
from sae_bench.saes.formats.saelens_weights import ARCHITECTURES, WEIGHTS, Architecture, scaling, unset, weights
from sae_bench.saes.linear import SELECTS_K, Nonlinearity, Normalisation
from sae_bench.saes.pursuit import Pursuit
from sae_bench.saes.reading import Question, Reading
from sae_bench.saes.source import Source
from sae_bench.saes.weights import Weights
from sae_bench.settings import Told

CONFIG = "cfg.json"


def matches(source: Source) -> bool:
    """Whether the folder has this layout."""
    return source.has(CONFIG, WEIGHTS)


def read(source: Source, told: Told) -> Reading:
    """What is in the folder. Raises CoderError."""
    shape = shaped(source.config(CONFIG))
    config, metadata = shape.config, shape.metadata
    name = _architecture(config)
    kind = ARCHITECTURES[name]
    subject = subject_of(shape, told, transcoder=kind.transcoder)
    scaled = scaling(source, config, told)
    rule, questions, assumptions = _rule(config, kind, scaled.normalise)
    found = weights(source, kind)
    if unset(found, kind):
        open_question = "topk_threshold is 0, so this checkpoint is from before the first step of training"
        questions.append(Question(open_question, ("threshold",)))
    if isinstance(rule, Pursuit) and not rule.apply_b_dec_to_input:
        found = Weights(found.W_enc, found.W_dec, torch.zeros_like(found.b_dec))  # added only where it is subtracted
    made: tuple[Nonlinearity | Pursuit, Weights] = (rule, found)
    if scaled.factor is not None:
        made = rule.scaled(found, scaled.factor)
    details = metadata.section("training_architecture_details")
    trained, stored = _trained(config, metadata, name, kind)
    d_in, n_latents = config.integer("d_in"), config.integer("d_sae")
    return Reading(
        rule=made[0],
        weights=made[1],
        files=(CONFIG, WEIGHTS, *scaled.files),
        hook_in=subject.hook_in,
        hook_out=subject.hook_out,
        architecture=trained,
        inference=stored,
        n_latents=n_latents,
        d_in=d_in,
        d_out=config.integer("d_out") if kind.transcoder else d_in,
        model=metadata.optional("model_name", str),
        prepend_bos=metadata.optional("prepend_bos", bool),
        context_size=metadata.optional("context_size", int),
        prefix_widths=_nested(config, details, n_latents) if kind.activation == "jumprelu" else (),
        declared_l0=_declared_l0(config, details),
        assumptions=(*shape.assumptions, *assumptions, *subject.assumptions, *scaled.assumptions),
        warnings=(*shape.warnings, *subject.warnings),
        questions=(*subject.questions, *scaled.questions, *questions),
        extra={"metadata": dict(metadata.values)},
    )


def _architecture(config: Config) -> str:
    if config.get("architecture") == "temporal":
        raise CoderError(
            f"{config.where('architecture')} is temporal: the latents of a token need the sequence before it, so "
            "tokens cannot be measured one by one"
        )
    config.choice("reshape_activations", ("none", "hook_z"), "none")  # activations of heads are flat here anyhow
    return config.choice("architecture", ARCHITECTURES, otherwise="give an SAE of another kind as --sae module:factory")


def _trained(config: Config, metadata: Config, name: str, kind: Architecture) -> tuple[str, str]:
    """How the SAE was trained, and the architecture in which it is stored; both alike where nothing else is said."""
    said = next((text for where in (metadata, config) if (text := where.optional("training_architecture", str))), name)
    if said != name:
        return said, name
    return said, "jumprelu" if kind.threshold == "topk_threshold" else ""


def _rule(
    config: Config, kind: Architecture, normalise: Normalisation
) -> tuple[Nonlinearity | Pursuit, list[Question], list[str]]:
    """The activation function, and what is open or assumed of it. Raises CoderError."""
    subtracts = config.flag("apply_b_dec_to_input", True)
    assumptions: list[str] = []
    questions: list[Question] = []
    if kind.transcoder and "apply_b_dec_to_input" in config.values and subtracts:
        assumptions.append("apply_b_dec_to_input is true, but no transcoder of SAELens subtracts b_dec from its input")
    elif not kind.transcoder and "apply_b_dec_to_input" not in config.values:
        assumptions.append("b_dec is subtracted from the input, the default of SAELens (apply_b_dec_to_input)")
    if kind.activation is None:
        return _pursuit(config, normalise, subtracts), questions, assumptions
    selects = kind.activation in SELECTS_K
    if selects and config.get("k") is None:
        questions.append(Question("the configuration does not say how many latents of a token are kept", ("k",)))
    rescales = selects or kind.threshold == "topk_threshold"
    if rescales and not selects and "rescale_acts_by_decoder_norm" not in config.values:
        assumptions.append("topk_threshold holds for pre-activations as they are (no rescale_acts_by_decoder_norm)")
    rule = Nonlinearity(
        activation=kind.activation,
        k=config.integer("k") if selects and not questions else None,
        apply_b_dec_to_input=subtracts and not kind.transcoder,
        by_decoder_norm="latents" if rescales and config.flag("rescale_acts_by_decoder_norm", False) else "no",
        normalise=normalise,
        undo_normalisation=not kind.transcoder,
    )
    return rule, questions, assumptions


def _pursuit(config: Config, normalise: Normalisation, subtracts: bool) -> Pursuit:
    if normalise != "none":
        raise CoderError(
            f"{config.where('normalize_activations')} must be none or expected_average_only_in with matching pursuit, "
            f"but it is {normalise}"
        )
    return Pursuit(
        max_iterations=config.integer("d_in" if config.get("max_iterations") is None else "max_iterations"),
        residual_threshold=config.number("residual_threshold", 0.01),
        stop_on_duplicate_support=config.flag("stop_on_duplicate_support", True),
        apply_b_dec_to_input=subtracts,
    )


def _nested(config: Config, details: Config, n_latents: int) -> tuple[int, ...]:
    """Widths of the nested dictionaries of a Matryoshka SAE, without the whole. Raises CoderError."""
    for where in (config, details):
        if widths := where.integers("matryoshka_widths"):
            if list(widths) != sorted(set(widths)) or widths[-1] > n_latents:
                raise CoderError(
                    f"{where.where('matryoshka_widths')} must ascend to at most d_sae={n_latents}, but they are "
                    f"{str(list(widths))[:60]}"
                )
            return tuple(width for width in widths if width < n_latents)
    return ()


def _declared_l0(config: Config, details: Config) -> float | None:
    """k, which BatchTopK means as an average over tokens. Raises CoderError."""
    for where in (config, details):
        if where.get("k") is not None:
            if (k := where.number("k")) <= 0:
                raise CoderError(f"{where.where('k')} must be positive, but it is {k}")
            return k
    return None
