"""``cfg.json`` of SAELens v3 to v6 in the shape of v6: the SAE's fields at the top, those of its training in metadata.

Before v6 there was one flat list. v3 wrote ``hook_point`` for ``hook_name`` and true or false for the normalisation; v4
and v5 kept ``"architecture": "standard"`` for TopK and said it in ``activation_fn``. What the old library took for a
field that is not there is taken here too, and said.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from sae_bench.errors import CoderError
from sae_bench.saes.config import Config

# What the configuration classes of SAELens (v2 to v6.54) have, so that only other fields are worth a warning.
_SAE = """
    activation_fn activation_fn_kwargs activation_fn_str apply_b_dec_to_input architecture d_in d_out d_sae device dtype
    finetuning_scaling_factor k matryoshka_widths max_iterations metadata normalize_activations
    rescale_acts_by_decoder_norm reshape_activations residual_threshold stop_on_duplicate_support
"""
_SUBJECT = """
    context_size dataset_path dataset_trust_remote_code disable_concat_sequences exclude_special_tokens hf_hook_name
    hf_hook_name_out hook_head_index hook_head_index_out hook_name hook_name_out model_class_name
    model_from_pretrained_kwargs model_name neuronpedia_id prepend_bos sae_lens_training_version sae_lens_version
    seqpos_slice sequence_separator_token training_architecture training_architecture_details
"""
_TRAINING = """
    act_store_device activations_mixing_fraction adam_beta1 adam_beta2 autocast autocast_lm aux_loss_coefficient
    b_dec_init_method cached_activations_path checkpoint_path compile_llm compile_sae dead_feature_estimation_method
    dead_feature_threshold dead_feature_window decoder_heuristic_init decoder_heuristic_init_norm decoder_init_norm
    decoder_orthogonal_init eval_batch_size_prompts eval_every_n_wandb_logs expansion_factor feature_reinit_scale
    feature_sampling_method feature_sampling_window finetuning_method finetuning_tokens from_pretrained_path hook_eval
    hook_layer hook_layer_out hook_point hook_point_eval hook_point_head_index hook_point_layer
    init_encoder_as_decoder_transpose is_dataset_tokenized jumprelu_bandwidth jumprelu_init_threshold
    jumprelu_sparsity_loss_mode jumprelu_ste_to_input jumprelu_tanh_scale l0_coefficient l0_warm_up_steps l1_coefficient
    l1_warm_up_steps llm_compilation_mode llm_device log_activations_store_to_wandb log_optimizer_state_to_wandb
    log_to_wandb log_weights_to_wandb logger lp_norm lr lr_decay_steps lr_end lr_scheduler_name lr_warm_up_steps
    model_kwargs mse_loss_normalization n_batches_for_norm_estimate n_batches_in_buffer n_checkpoints n_eval_batches
    n_eval_seqs n_restart_cycles name noise_scale normalize_sae_decoder output_path pre_act_loss_coefficient
    prefetch_llm_batches resample_batches resume resume_from_checkpoint run_name sae_compilation_mode
    save_final_checkpoint scale_sparsity_penalty_by_decoder_norm seed store_batch_size store_batch_size_prompts
    streaming target_l0 tokens_per_buffer topk_threshold_lr total_training_steps total_training_tokens train_batch_size
    train_batch_size_tokens training_tokens use_cached_activations use_chat_formatting use_ghost_grads
    use_matryoshka_aux_loss use_sparse_activations verbose wandb_entity wandb_id wandb_log_frequency wandb_project
"""
_METADATA = frozenset(_SUBJECT.split())
_KNOWN = _METADATA.union(_SAE.split(), _TRAINING.split())
_RENAMED = {"hook_point": "hook_name", "hook_point_head_index": "hook_head_index", "activation_fn_str": "activation_fn"}
_SHOWN = 8


@dataclass(frozen=True)
class Shaped:
    """A configuration in the shape of v6.

    ``may_be_processed``: it is from before v4, which trained on models with processed weights, or of unknown age, and
    does not say how the model was loaded.
    """

    config: Config
    metadata: Config
    may_be_processed: bool = False
    assumptions: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def shaped(config: Config) -> Shaped:
    """The configuration in the shape of v6. Raises CoderError."""
    unknown = [repr(key[:40]) for key in sorted(set(config.values) - _KNOWN)]
    more = ", ..." if len(unknown) > _SHOWN else ""
    warned = (
        f"{config.file.name} has fields that no version of SAELens known here has, and they are ignored: "
        f"{', '.join(unknown[:_SHOWN])}{more}"
    )
    warnings = (warned,) if unknown else ()
    metadata = config.section("metadata")
    if metadata.values:
        return Shaped(config, metadata, warnings=warnings)
    values = _renamed(config)
    flat = Config(config.file, values)  # filled in below
    values |= _architecture(flat)
    hook = flat.optional("hook_name", str) or ""
    if "{layer}" in hook:  # the first versions kept the layer apart
        layer = flat.optional("hook_point_layer", int)
        values["hook_name"] = None if layer is None else hook.replace("{layer}", str(layer))
    normalise = values.get("normalize_activations")
    if normalise is None or isinstance(normalise, bool):
        values["normalize_activations"] = "expected_average_only_in" if normalise else "none"
    values.setdefault("reshape_activations", "hook_z" if "hook_z" in hook else "none")
    assumptions = []
    if values.get("prepend_bos") is None:
        values["prepend_bos"] = True
        assumptions.append(
            "the configuration does not say so, but SAELens before v6 trained with a token BOS by default"
        )
    subject = Config(config.file, {key: value for key, value in values.items() if key in _METADATA})
    major = re.match(r"\d{1,9}", flat.optional("sae_lens_training_version", str) or "1")
    silent = "model_from_pretrained_kwargs" not in values and major is not None and int(major[0]) < 4
    return Shaped(flat, subject, silent, tuple(assumptions), warnings)


def _renamed(config: Config) -> dict[str, Any]:
    """The fields of a flat configuration under the names of v5. Raises CoderError."""
    values = dict(config.values)
    for old, new in _RENAMED.items():
        said, also = values.get(old), values.get(new)
        if said is not None and also is not None and said != also:
            raise CoderError(
                f"{config.where(old)} and {new} must say the same, but they are {str(said)[:60]!r} and "
                f"{str(also)[:60]!r}"
            )
        values[new] = also if said is None else said
    return values


def _architecture(flat: Config) -> dict[str, Any]:
    """Architecture and k, which ``activation_fn`` decides. Raises CoderError."""
    activation = flat.optional("activation_fn", str) or "relu"
    architecture = flat.optional("architecture", str) or "standard"
    options = flat.section("activation_fn_kwargs")
    topk = activation == "topk" or architecture == "topk"
    if activation not in ("relu", "topk") or (activation == "topk" and architecture not in ("standard", "topk")):
        raise CoderError(
            f"{flat.where('activation_fn')} must be relu, or topk with a standard architecture, but it is "
            f"{activation[:40]!r} with {architecture[:40]!r}; give such an SAE as --sae module:factory"
        )
    if not topk:
        return {"architecture": architecture}
    return {"architecture": "topk", "k": options.get("k") if "k" in options.values else flat.get("k")}
