"""What SAELens' metadata say of the model and tokens that an SAE was trained on: hook points, processing, slices."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sae_bench.errors import CoderError
from sae_bench.saes import hook_names
from sae_bench.saes.config import Config
from sae_bench.saes.formats.saelens_config import Shaped
from sae_bench.saes.reading import Question
from sae_bench.settings import Told

CENTERING = "center_writing_weights"
# options of loading that leave the activations as they are
_HARMLESS = {
    *("attn_implementation", "cache_dir", "default_padding_side", "default_prepend_bos", "device", "device_map"),
    *("dtype", "first_n_layers", "force_download", "local_files_only", "low_cpu_mem_usage", "max_memory"),
    *("move_to_device", "n_ctx", "n_devices", "offload_folder", "token", "torch_dtype", "trust_remote_code"),
    *("use_auth_token", "use_cache"),
}
_OTHER_WEIGHTS = ("revision", "checkpoint_index", "checkpoint_value")


@dataclass
class Subject:
    """Hook points of an SAE, and what is to be said about its training."""

    hook_in: str | None = None
    hook_out: str | None = None
    assumptions: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)


def subject_of(shaped: Shaped, told: Told, *, transcoder: bool) -> Subject:
    """The hook points and sentences in the metadata of a configuration. Raises CoderError."""
    metadata = shaped.metadata
    for key in ("hook_head_index", "hook_head_index_out"):
        if (head := metadata.get(key)) is not None:
            raise CoderError(
                f"{metadata.where(key)} is {_shown(head)}, but an SAE on a single attention head cannot be read, since "
                "a hook point has all heads"
            )
    found = Subject(_hook(metadata, "hook_name", "hf_hook_name"), _hook(metadata, "hook_name_out", "hf_hook_name_out"))
    if transcoder and found.hook_out is None:
        found.questions.append(
            Question(
                "the configuration of this transcoder does not name the hook point that it predicts", ("hook_out",)
            )
        )
    _loading(shaped, told, found)
    _tokens(metadata, found)
    return found


def _hook(metadata: Config, key: str, huggingface_key: str) -> str | None:
    """The hook point under ``key``: a name of TransformerLens, or a module whose output is meant."""
    name = metadata.optional(key, str)
    path = metadata.optional(huggingface_key, str) or name
    if not name or path is None:
        return None
    own_module = metadata.get("model_class_name") == "AutoModelForCausalLM" and not hook_names.is_lens_name(name)
    return (hook_names.from_module(path, "out") or name) if own_module else name


def _loading(shaped: Shaped, told: Told, found: Subject) -> None:
    """Options with which SAELens loaded the model. Raises CoderError for those that cannot be followed."""
    options = shaped.metadata.section("model_from_pretrained_kwargs")
    for key in _OTHER_WEIGHTS:
        if (chosen := options.get(key)) not in (None, "main"):
            found.warnings.append(f"the SAE was trained on {key} {_shown(chosen)} of the model; load the model alike")
    ignored = {*_HARMLESS, *_OTHER_WEIGHTS, CENTERING}
    processed = [_shown(key) for key, value in options.values.items() if key not in ignored and value]
    if processed:
        raise CoderError(
            f"{options.file}: the SAE was trained on a model loaded with {', '.join(processed[:8])}, whose activations "
            "are not those of the model as it is stored; process x alike in code of your own and give --sae "
            "module:factory"
        )
    centered = hook_names.centered(found.hook_in or ""), hook_names.centered(found.hook_out or "")
    if options.optional(CENTERING, bool):
        if found.hook_in and not hook_names.is_lens_name(found.hook_in):
            raise CoderError(
                f"{options.where(CENTERING)} is an option of TransformerLens, but {found.hook_in} is none of its hook "
                "points; set it to false, or name the hook point in its words"
            )
        found.hook_in, found.hook_out = centered[0] or None, centered[1] or None
        if found.hook_in is None or any(hook.endswith(":centered") for hook in centered):
            found.assumptions.append(
                "trained with center_writing_weights, so activations are taken without their mean over the width "
                "(:centered behind a hook point), unless the norms of the model are RMS norms, which have none"
            )
    elif shaped.may_be_processed and centered[0].endswith(":centered") and told.hook_in is None:
        found.warnings.append(
            "the configuration does not say how the model was loaded, and activations are taken as the model has them; "
            "SAELens before September 2024 centred the writing weights of models with LayerNorm: if this SAE is as "
            f"old, give --hook-in {centered[0]}"
        )


def _tokens(metadata: Config, found: Subject) -> None:
    """Which tokens the SAE saw, where that differs from all of them; a run warns of those that it scores otherwise."""
    positions = metadata.get("seqpos_slice")
    if positions is not None and not (isinstance(positions, list) and all(entry is None for entry in positions)):
        found.assumptions.append(f"trained on the positions {_shown(positions)} of every context only (seqpos_slice)")
    excluded = metadata.get("exclude_special_tokens")
    if excluded:
        which = "special tokens" if excluded is True else f"the tokens {_shown(excluded)}"
        found.assumptions.append(f"trained without {which} (exclude_special_tokens)")
    if "sequence_separator_token" in metadata.values and (token := metadata.get("sequence_separator_token")) != "bos":
        joined = "without a token between them" if token is None else f"with the token {_shown(token)} between them"
        found.assumptions.append(f"trained on documents joined {joined}")
    if metadata.get("disable_concat_sequences"):
        found.assumptions.append("trained on documents that were not joined, without those shorter than the context")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
