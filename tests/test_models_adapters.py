"""Models with an adapter: its change is in what is measured, or the run is refused."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sae_bench.errors import ModelError
from sae_bench.models.adapters import adapter_of
from sae_bench.models.digests import weights_sha256
from sae_bench.models.loading import load_subject
from sae_bench.models.weight_files import weight_files
from tests.builders import tiny_models
from tests.builders.tokenizer_files import change_file, write_tokenizer

TOKENS = torch.tensor([[1, 2, 3, 4, 5, 6]])
ALPHA, RANK = 8, 2
has_peft = importlib.util.find_spec("peft") is not None
needs_peft = pytest.mark.skipif(not has_peft, reason="peft is not installed")


def factors() -> dict[str, tuple[Tensor, Tensor]]:
    """By the name of a projection: A `[rank, d_in]` and B `[d_out, rank]`."""
    generator = torch.Generator().manual_seed(0)
    return {
        f"model.layers.{layer}.self_attn.{name}": (
            torch.randn(RANK, 16, generator=generator),
            torch.randn(width, RANK, generator=generator),
        )
        for layer in range(tiny_models.LAYERS)
        for name, width in (("q_proj", 16), ("v_proj", 8))
    }


def write_adapter(folder: Path, base: str | None = None, **changes: Any) -> Path:
    """The files that peft writes for a LoRA of `tiny_llama`."""
    folder.mkdir(exist_ok=True)
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": ["q_proj", "v_proj"]}
    config |= {"base_model_name_or_path": base, "task_type": "CAUSAL_LM", "inference_mode": True, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config | changes))
    tensors = {}
    for name, (a, b) in factors().items():
        tensors |= {f"base_model.model.{name}.lora_A.weight": a, f"base_model.model.{name}.lora_B.weight": b}
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def beside(folder: Path) -> Path:
    tiny_models.tiny_llama().save_pretrained(folder)
    return write_adapter(folder, str(folder))


def apart(folder: Path) -> Path:
    tiny_models.tiny_llama().save_pretrained(folder / "base")
    return write_adapter(folder / "tuned", str(folder / "base"))


def adapted_logits(dtype: torch.dtype = torch.float64) -> Tensor:
    """Without peft: W + B A alpha / r, as the paper of LoRA has it."""
    model = tiny_models.tiny_llama().to(dtype)
    with torch.no_grad():
        for name, (a, b) in factors().items():
            model.get_submodule(name).weight += (b.to(dtype) @ a.to(dtype)) * ALPHA / RANK
        return model(TOKENS).logits  # type: ignore[no-any-return]


@pytest.mark.skipif(has_peft, reason="peft is installed")
@pytest.mark.parametrize("make", [beside, apart])
def test_without_peft_an_adapter_is_refused(tmp_path, make):
    with pytest.raises(
        ModelError, match=r"holds an adapter .*lora.* needs peft .*pip install 'sae-bench-suite\[peft\]'"
    ):
        load_subject(make(tmp_path))


@needs_peft
@pytest.mark.parametrize("backend", ["hf", "tl"])
@pytest.mark.parametrize(("make", "name"), [(beside, "+lora"), (apart, "base+tuned")])
def test_an_adapter_is_in_the_weights_and_in_the_name(tmp_path, make, name, backend):
    folder = make(tmp_path)
    subject, _ = load_subject(folder, dtype=torch.float64, backend=backend)
    found = subject.splice(TOKENS, torch.ones_like(TOKENS, dtype=torch.bool), {})
    torch.testing.assert_close(found, adapted_logits(), rtol=1e-6, atol=1e-6)
    assert subject.name.endswith(name)
    assert subject.width("model.layers.1.self_attn.q_proj:out" if backend == "hf" else "blocks.1.hook_resid_post") == 16


@needs_peft
def test_provenance_names_the_adapter_and_the_digest_covers_it(tmp_path):
    folder = apart(tmp_path)
    subject, _ = load_subject(folder)
    assert adapter_of(subject.model) == "lora adapter of tuned, merged into base"
    before = weights_sha256(load_subject(folder)[0].model)
    change_file(folder / "adapter_config.json", lambda content: content.update(lora_alpha=2 * ALPHA))
    assert weights_sha256(load_subject(folder)[0].model) != before
    write_adapter(folder, str(tmp_path / "base"))
    assert weights_sha256(load_subject(folder)[0].model) == before
    file = tmp_path / "base" / "model.safetensors"
    save_file({name: tensor * 2 for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
    assert weights_sha256(load_subject(folder)[0].model) != before


def test_the_files_of_an_adapted_model_are_those_of_both(tmp_path):
    names = ["model.safetensors", "adapter_config.json", "adapter_model.safetensors"]
    assert [file.name for file in weight_files(apart(tmp_path))] == names
    assert [file.name for file in weight_files(beside(tmp_path / "one"))] == names


@needs_peft
def test_the_tokenizer_is_that_of_the_base_where_the_adapter_has_none(tmp_path):
    tiny_models.tiny_llama(vocab_size=512).save_pretrained(tmp_path / "base")
    raw = write_tokenizer(tmp_path / "base", tokenizer_class="PreTrainedTokenizerFast")
    _, tokenizer = load_subject(write_adapter(tmp_path / "tuned", str(tmp_path / "base")))
    assert tokenizer("the cat", add_special_tokens=False)["input_ids"] == raw.encode("the cat").ids


@needs_peft
def test_an_adapter_in_half_precision_is_rounded_once(tmp_path):
    subject, _ = load_subject(beside(tmp_path), dtype=torch.bfloat16)
    name = "model.layers.0.self_attn.q_proj"
    a, b = factors()[name]
    right = tiny_models.tiny_llama().get_submodule(name).weight + b @ a * ALPHA / RANK
    assert subject.model.get_submodule(name).weight.dtype == torch.bfloat16
    assert subject.model.model.rotary_emb.inv_freq.dtype == torch.float32  # as in a model that has no adapter
    torch.testing.assert_close(subject.model.get_submodule(name).weight, right.to(torch.bfloat16))


def _rename(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    save_file({name.replace("layers.2", "layers.7"): tensor for name, tensor in load_file(file).items()}, file)


def _shorten(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    save_file(dict(list(load_file(file).items())[1:]), file)


def _settings(**changes: Any) -> Any:
    return lambda folder: change_file(folder / "adapter_config.json", lambda content: content.update(changes))


FAULTS: dict[str, tuple[Any, str]] = {
    "for a deeper base": (_rename, "no place for 4 of its tensors .first base_model.model.model.layers.7"),
    "a tensor is lacking": (_shorten, "asks for 1 tensors more"),
    "another rank": (_settings(r=3), "cannot be merged into its base"),
    "no such kind": (_settings(peft_type="NEW"), "cannot be merged into its base"),
    "no change of weights": (
        _settings(peft_type="PROMPT_TUNING", num_virtual_tokens=3, token_dim=16),
        "adapter_config.json, prompt_tuning",
    ),
    "no base": (_settings(base_model_name_or_path=None), "neither a base model nor its name"),
    "a base that is gone": (_settings(base_model_name_or_path="/no/such"), "whose base cannot be loaded"),
    "pickled": (
        lambda f: (f / "adapter_model.safetensors").rename(f / "adapter_model.bin"),
        "save the adapter as safe",
    ),
    "damaged settings": (lambda f: (f / "adapter_config.json").write_text("{"), "cannot be read"),
}


@needs_peft
@pytest.mark.parametrize("case", FAULTS)
def test_an_adapter_that_does_not_fit_is_refused_in_a_sentence(tmp_path, case):
    spoil, pattern = FAULTS[case]
    folder = apart(tmp_path)
    spoil(folder)
    with pytest.raises(ModelError, match=pattern) as caught:
        load_subject(folder)
    assert "\n" not in str(caught.value)


@needs_peft
def test_an_adapter_on_an_adapter_is_refused(tmp_path):
    second = write_adapter(tmp_path / "second", str(apart(tmp_path)))
    with pytest.raises(ModelError, match="holds an adapter too; merge that one first"):
        load_subject(second)


@needs_peft
def test_an_adapter_that_is_not_merged_in_memory_is_refused(tmp_path):
    import peft

    base = tiny_models.tiny_llama()
    adapted = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    for model in (adapted, base):  # peft changes the modules of the base in place
        with pytest.raises(ModelError, match=r"adapter.*merge_and_unload"):
            load_subject(model)
    load_subject(adapted.merge_and_unload())
