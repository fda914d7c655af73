"""bartbussmann/BatchTopK: ``config.json`` and ``sae.pt`` in a folder ``checkpoints/NAME_STEP``.

``W_enc [d, n_latents]``, ``W_dec [n_latents, d]``, ``b_enc``, ``b_dec``; ``jumprelu.log_threshold`` of JumpReLU SAEs,
which alone do not subtract ``b_dec`` from the input. ``input_unit_norm`` takes mean and standard deviation out of every
token. BatchTopK SAEs have no threshold in their files: what they keep of a token depended on its batch.
"""

from __future__ import annotations

from sae_bench.errors import CoderError
from sae_bench.saes.config import Config, take
from sae_bench.saes.linear import Activation, Nonlinearity
from sae_bench.saes.reading import Question, Reading
from sae_bench.saes.source import Source
from sae_bench.saes.weights import Weights
from sae_bench.settings import Told

CONFIG, WEIGHTS = "config.json", "sae.pt"
_ACTIVATIONS: dict[str, Activation] = {
    "vanilla": "relu",
    "topk": "topk",
    "batchtopk": "jumprelu",
    "jumprelu": "jumprelu",
}
_LOG_THRESHOLD = "jumprelu.log_threshold"
_NO_THRESHOLD = Question(
    "BatchTopK SAEs of this repository are saved without a threshold, so that their latents depend on the batch",
    ("threshold",),
)
_OLD = (
    "the revision of the repository that wrote the configuration adds the normalised activation to the reconstruction "
    "where later ones add its mean, which is what is done here"
)
_OLD_VANILLA = (
    "input_unit_norm is true, but the revision of the repository that wrote the configuration did not normalise the "
    "input of vanilla SAEs, so it is not normalised here"
)


def matches(source: Source) -> bool:
    """Whether the folder has this layout."""
    return source.has(CONFIG, WEIGHTS) and {"sae_type", "act_size", "dict_size"} <= set(source.config(CONFIG).values)


def read(source: Source, told: Told) -> Reading:
    """What is in the folder. Raises CoderError."""
    config = source.config(CONFIG)
    kind = config.choice("sae_type", tuple(_ACTIVATIONS))
    extra = [_LOG_THRESHOLD] if kind == "jumprelu" else []
    tensors = take(source.tensors(WEIGHTS), ["W_enc", "W_dec", "b_dec", "b_enc", *extra], source.file(WEIGHTS))
    assumptions, warnings = _checked(config, kind)
    normalised = config.flag("input_unit_norm", False) and _OLD_VANILLA not in warnings
    selects = kind in ("topk", "batchtopk")
    b_enc = tensors["b_enc"]
    if selects and config.get("use_encoder_bias") is False:
        b_enc = b_enc.new_zeros(b_enc.shape)
    elif selects and "use_encoder_bias" not in config.values and bool(b_enc.any()):
        assumptions += ("b_enc is added to the pre-activations: it is not zero, so training used it",)
    k = config.integer("top_k") if selects else None
    return Reading(
        weights=Weights(
            W_enc=tensors["W_enc"],
            W_dec=tensors["W_dec"],
            b_dec=tensors["b_dec"],
            b_enc=b_enc,
            threshold=tensors[_LOG_THRESHOLD].exp() if extra else None,
        ),
        rule=Nonlinearity(
            _ACTIVATIONS[kind],
            k=k if kind == "topk" else None,
            apply_b_dec_to_input=kind != "jumprelu",
            normalise="layer_norm" if normalised else "none",
        ),
        files=(CONFIG, WEIGHTS),
        hook_in=config.optional("hook_point", str),
        architecture=kind,
        inference="jumprelu" if kind == "batchtopk" else "",
        n_latents=config.integer("dict_size"),
        d_in=config.integer("act_size"),
        model=config.optional("model_name", str),
        context_size=config.optional("seq_len", int),
        declared_l0=k,
        assumptions=assumptions,
        warnings=warnings,
        questions=(_NO_THRESHOLD,) if kind == "batchtopk" else (),
    )


def _checked(config: Config, kind: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What older revisions could do otherwise: assumed, warned of, or refused with CoderError."""
    config.flag("use_encoder_bias", True)
    config.choice("activation", ("relu",), "relu", "other activation functions are not supported")
    if config.flag("tied_weights", False) and kind in ("topk", "batchtopk"):
        raise CoderError(
            f"{config.where('tied_weights')} is true, which sae-bench does not read; write W_dec as W_enc^T"
        )
    old = "tied_weights" in config.values  # only the first revisions had it
    if not (old and config.flag("input_unit_norm", False)):
        return (), ()
    return ((_OLD,), ()) if kind != "vanilla" else ((), (_OLD_VANILLA,))
