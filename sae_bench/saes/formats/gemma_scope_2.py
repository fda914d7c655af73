"""Gemma Scope 2: ``config.json`` and ``params.safetensors``.

Tensors: ``w_enc [d_in, n_latents]``, ``w_dec [n_latents, d_out]``, ``b_enc``, ``b_dec``, ``threshold``, and
``affine_skip_connection [d_in, d_out]`` of transcoders that skip. A JumpReLU that does not subtract ``b_dec``. The hook
points are modules of the Hugging Face model in ``hf_hook_point_in`` and ``hf_hook_point_out``: what a transcoder reads
is the output of the norm before the MLP, gain included.
"""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor

from sae_bench.errors import CoderError
from sae_bench.saes.config import Config, shown, take
from sae_bench.saes.hook_names import from_module
from sae_bench.saes.linear import Nonlinearity
from sae_bench.saes.reading import Flag, Question, Reading
from sae_bench.saes.source import Source
from sae_bench.saes.weights import Weights
from sae_bench.settings import Told

CONFIG, WEIGHTS, SKIP = "config.json", "params.safetensors", "affine_skip_connection"
TENSORS = ("w_enc", "w_dec", "b_enc", "b_dec", "threshold")
_PARTS = re.compile(r"params_layer_\d+\.safetensors")  # of CLTs and crosscoders, a file a layer
# TransformerLens names of places in a block of Gemma 3
_NAMES = {
    ":in": "hook_resid_pre",
    ":out": "hook_resid_post",
    ".self_attn.o_proj:in": "attn.hook_z",
    ".post_attention_layernorm:out": "hook_attn_out",
    ".post_feedforward_layernorm:out": "hook_mlp_out",
}
# the same by the folder of the release, of SAEs whose configuration is missing
_FOLDERS = {
    "resid_post": ("model.layers.{}.output", None),
    "attn_out": ("model.layers.{}.self_attn.o_proj.input", None),
    "mlp_out": ("model.layers.{}.post_feedforward_layernorm.output", None),
    "transcoder": (
        "model.layers.{}.pre_feedforward_layernorm.output",
        "model.layers.{}.post_feedforward_layernorm.output",
    ),
}


def matches(source: Source) -> bool:
    """Whether the folder or file has this layout."""
    if source.main is not None:
        return _PARTS.fullmatch(source.main.name) is not None
    if source.has(WEIGHTS):
        return source.has(CONFIG) or set(TENSORS) <= set(source.tensors(WEIGHTS))
    return source.has(CONFIG) and any(map(_PARTS.fullmatch, source.names))


def read(source: Source, told: Told) -> Reading:
    """What is in the folder. Raises CoderError."""
    has_config = source.file(CONFIG).is_file()
    config = source.config(CONFIG) if has_config else _config_by_folder(source)
    _check_kind(source, config)
    tensors = take(source.tensors(WEIGHTS), TENSORS, source.file(WEIGHTS), optional=[SKIP])
    _check_tensors(source.file(WEIGHTS), config, tensors)
    hook_in = _hook(config, "hf_hook_point_in", told.hook_in)
    hook_out = _hook(config, "hf_hook_point_out", told.hook_out)
    transcoder = config.get("type") == "transcoder" or SKIP in tensors or hook_out not in (None, hook_in)
    return Reading(
        weights=Weights(
            W_enc=tensors["w_enc"],
            W_dec=tensors["w_dec"],
            b_dec=tensors["b_dec"],
            b_enc=tensors["b_enc"],
            threshold=tensors["threshold"],
            W_skip=tensors[SKIP].T if SKIP in tensors else None,
        ),
        rule=Nonlinearity("jumprelu", apply_b_dec_to_input=False),
        files=(CONFIG, WEIGHTS) if has_config else (WEIGHTS,),
        hook_in=hook_in,
        hook_out=hook_out if transcoder else None,
        architecture="jumprelu transcoder" if transcoder else "jumprelu",
        name="/".join(_words(source)[-2:]) or None,
        n_latents=config.integer("width") if config.get("width") is not None else None,
        model=_model(config),
        prepend_bos=True,
        declared_l0=config.number("l0") if isinstance(config.get("l0"), int | float) else None,
        assumptions=_assumptions(has_config),
        questions=_questions(config, transcoder),
    )


def _words(source: Source) -> list[str]:
    return [word for word in source.words if word not in (CONFIG, WEIGHTS)]


def _check_kind(source: Source, config: Config) -> None:
    """Refuse what is no SAE or transcoder of one layer. Raises CoderError."""
    if config.get("type") in ("clt", "cross_layer_transcoder"):
        raise CoderError(
            f"{source.path} is a cross-layer transcoder: its latents write to several layers, whose inputs depend on "
            "what is written before, so there is no hook point at which its reconstruction could be measured"
        )
    if config.get("type") == "crosscoder" or isinstance(config.get("hf_hook_point_in"), list):
        raise CoderError(f"{source.path} is a crosscoder: it reads several layers at once, and sae-bench measures one")
    parts = [source.main.name] if source.main else [name for name in source.names if _PARTS.fullmatch(name)]
    if parts and not source.file(WEIGHTS).is_file():
        raise CoderError(
            f"{source.folder / parts[0]} is one layer of a cross-layer transcoder or crosscoder, which reads or writes "
            "several layers, and sae-bench measures one"
        )
    if config.file.is_file():
        config.choice("architecture", ("jump_relu",))


def _check_tensors(file: Path, config: Config, tensors: dict[str, Tensor]) -> None:
    axes = {name: tensor.ndim for name, tensor in tensors.items()}
    if axes["w_enc"] > 2 or axes["w_dec"] > 2:
        raise CoderError(
            f"{file}: w_enc has {axes['w_enc']} axes and w_dec {axes['w_dec']}, as in a crosscoder or cross-layer "
            "transcoder, which reads or writes several layers, and sae-bench measures one"
        )
    if config.file.is_file() and config.flag("affine_connection", False) != (SKIP in axes):
        there = "is there" if SKIP in axes else "is missing"
        raise CoderError(f"{file}: {SKIP} {there}, which {config.where('affine_connection')} denies")
    if axes.get(SKIP, 2) != 2:
        raise CoderError(f"{file}: {SKIP} must have two axes, [d_in, d_out]")


def _hook(config: Config, key: str, told: str | None) -> str | None:
    """The hook point under ``key``, by its TransformerLens name where there is one."""
    written = config.optional(key, str)
    path = None if written is None else from_module(written)
    if path is None:
        if written is not None and told is None:
            raise CoderError(
                f"{config.where(key)} must name the output or input of a module, but it is {shown(written)}; give "
                f"--{'hook-in' if key.endswith('_in') else 'hook-out'}"
            )
        return None
    match = re.fullmatch(r"(?:language_model\.|model\.)*layers\.(\d+)(.*)", path)
    if match is None or match[2] not in _NAMES:
        return path
    return f"blocks.{int(match[1])}.{_NAMES[match[2]]}"


def _model(config: Config) -> str | None:
    """The name on the hub: "gemma-v3-1b-pt" there is "google/gemma-3-1b-pt"; only the smallest goes without "-pt"."""
    written = config.optional("model_name", str)
    if not written:
        return None
    name = written.replace("gemma-v3-", "gemma-3-")
    name = name.removesuffix("-pt") if "gemma-3-270m" in name else name
    return name if "/" in name else f"google/{name}"


def _config_by_folder(source: Source) -> Config:
    """What the folders of the release say where the configuration is missing."""
    values: dict[str, str | None] = {}
    path = "/".join(_words(source))
    if match := re.search(r"(resid_post|attn_out|mlp_out|transcoder)(?:_all)?/layer_(\d{1,4})_width_", path):
        read_at, written_at = _FOLDERS[match[1]]
        values["hf_hook_point_in"] = read_at.format(match[2])
        values["hf_hook_point_out"] = written_at and written_at.format(match[2])
    if match := re.search(r"gemma-scope-2-(\w+-(?:pt|it))(?![\w-])", path):
        values["model_name"] = f"gemma-3-{match[1]}"
    return Config(source.file(CONFIG), values)


def _questions(config: Config, transcoder: bool) -> tuple[Question, ...]:
    needed: list[tuple[str, Flag]] = [("hf_hook_point_in", "hook_in")]
    if transcoder:
        needed.append(("hf_hook_point_out", "hook_out"))
    missing = [(key, flag) for key, flag in needed if config.get(key) is None]
    return tuple(
        Question(f"{config.where(key)} is missing, which says the hook point", (flag,)) for key, flag in missing
    )


def _assumptions(has_config: bool) -> tuple[str, ...]:
    said = (
        "a JumpReLU that does not subtract b_dec: the convention of Gemma Scope 2, whose files do not say it",
        "trained on sequences that start with BOS, as Gemma is",
    )
    return said if has_config else (*said, f"there is no {CONFIG}: the hook point is that of the folder's name")
