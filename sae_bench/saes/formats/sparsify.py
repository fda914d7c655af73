"""EleutherAI sparsify: ``cfg.json`` and ``sae.safetensors`` in a folder that is named after the hook point.

Tensors: ``encoder.weight [n_latents, d]``, ``encoder.bias``, ``W_dec [n_latents, d]``, ``b_dec``, and ``W_skip [d, d]``
with a skip connection. The encoder sees ``x - b_dec``, a transcoder's sees ``x``; relu, then the k largest, or the
largest of each of k groups. The hook point is a module of the base model, counted from zero: its output, and for a
transcoder its input as well.
"""

from __future__ import annotations

import re

from sae_bench.errors import CoderError
from sae_bench.saes.config import Config, listed, take
from sae_bench.saes.linear import Activation, Nonlinearity
from sae_bench.saes.reading import Question, Reading
from sae_bench.saes.source import Source
from sae_bench.saes.weights import Weights
from sae_bench.settings import Told

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"
_KEYS = {
    *("activation", "expansion_factor", "normalize_decoder", "num_latents", "k", "multi_topk", "skip_connection"),
    *("transcode", "d_in", "signed"),
}


def matches(source: Source) -> bool:
    """Whether the folder has this layout."""
    return source.has(CONFIG, WEIGHTS)


def read(source: Source, told: Told) -> Reading:
    """What is in the folder. Raises CoderError."""
    config = source.config(CONFIG)
    d_in, transcode = config.integer("d_in"), config.flag("transcode", False)
    skip = ["W_skip"] if config.flag("skip_connection", False) else []
    names = ["encoder.weight", "encoder.bias", "W_dec", "b_dec", *skip]
    tensors = take(source.tensors(WEIGHTS), names, source.file(WEIGHTS))
    if tensors["encoder.weight"].ndim != 2:
        raise CoderError(f"{source.file(WEIGHTS)}: encoder.weight must have two axes, [n_latents, d_in]")
    rule = _rule(config, transcode, told)
    hook, run = _place(source)
    output = None if hook is None else f"{hook}:out"
    return Reading(
        weights=Weights(
            W_enc=tensors["encoder.weight"].T,
            W_dec=tensors["W_dec"],
            b_dec=tensors["b_dec"],
            b_enc=tensors["encoder.bias"],
            W_skip=tensors.get("W_skip"),
        ),
        rule=rule,
        files=(CONFIG, WEIGHTS),
        hook_in=f"{hook}:in" if hook is not None and transcode else output,
        hook_out=output if transcode else None,
        architecture=f"{rule.activation} transcoder" if transcode else rule.activation,
        n_latents=_n_latents(config, d_in),
        d_in=d_in,
        d_out=d_in,
        model=run.optional("model", str),
        context_size=run.optional("ctx_len", int),
        declared_l0=rule.k,
        assumptions=_assumptions(hook, transcode),
        warnings=_warnings(config),
        questions=_questions(source, hook, transcode),
    )


def _rule(config: Config, transcode: bool, told: Told) -> Nonlinearity:
    named = config.choice("activation", ("topk", "groupmax"), "topk")
    activation: Activation = "groupmax" if named == "groupmax" else "topk"
    if config.flag("signed", False):  # of early versions: by magnitude, without the relu
        if activation == "groupmax":
            raise CoderError(f"{config.where('signed')} has no meaning for groupmax")
        activation = "abstopk"
    k = config.integer("k") if told.k is None else told.k
    return Nonlinearity(activation=activation, k=k, apply_b_dec_to_input=not transcode)


def _n_latents(config: Config, d_in: int) -> int:
    """``num_latents``; of 0, the product with the expansion factor."""
    if config.get("num_latents") in (None, 0):
        return d_in * config.integer("expansion_factor")
    return config.integer("num_latents")


def _place(source: Source) -> tuple[str | None, Config]:
    """The hook point by the name of the folder, None if it is not one, and the configuration of the run above it.

    Of a run with several seeds the folders are ``hookpoint/seedN``.
    """
    words = [word for word in source.words if word not in (CONFIG, WEIGHTS)] or list(source.folder.resolve().parts)
    seeded = len(words) > 1 and re.fullmatch(r"seed\d+", words[-1]) is not None
    name = words[-2] if seeded else words[-1]
    run, hookpoints = _run(source, "../../config.json" if seeded else "../config.json")
    is_path = re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", name) is not None
    return name if is_path and (re.search(r"\.\d", name) or name in hookpoints) else None, run


def _run(source: Source, name: str) -> tuple[Config, list[str]]:
    """What the configuration of the run says of the model, and its hook points; nothing if it lies elsewhere."""
    try:
        found = source.config(name).values if source.file(name).is_file() else {}
    except CoderError:  # a file above the SAE need not be one of sparsify
        found = {}
    if not isinstance(found.get("sae"), dict):
        found = {}
    kept = {key: found[key] for key, kind in (("model", str), ("ctx_len", int)) if type(found.get(key)) is kind}
    hookpoints = found.get("hookpoints")
    return Config(source.file(name), kept), hookpoints if isinstance(hookpoints, list) else []


def _questions(source: Source, hook: str | None, transcode: bool) -> tuple[Question, ...]:
    if hook is not None:
        return ()
    what = (
        f"sparsify says the hook point by the name of the folder, and that of {source.folder} is no module path such "
        "as layers.3.mlp"
    )
    asked = (Question(what, ("hook_in",)),)
    return (*asked, Question(f"{what}, and it is a transcoder", ("hook_out",))) if transcode else asked


def _assumptions(hook: str | None, transcode: bool) -> tuple[str, ...]:
    if hook is None:
        return ()
    sides = "from the input of the module to its output" if transcode else "at the output of the module"
    return (f"{sides} {hook} of the base model, which the folder is named after: the convention of sparsify",)


def _warnings(config: Config) -> tuple[str, ...]:
    unknown = set(config.values) - _KEYS
    return (f"{CONFIG} has keys that sparsify does not know: {listed(unknown, 8)}",) if unknown else ()
