"""A small world, and a variation of it for every setting and input: what names another result, and what does not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM

from sae_bench import registry
from sae_bench.saes.load import load_sae
from tests.builders.tiny_models import WIDTH, TinyTokenizer, number_texts, tiny_gpt2
from tests.builders.tiny_saes import tiny_coder, write_native

TEXTS = number_texts(60, seed=5)
HOOK = "blocks.1.hook_resid_post"
TEXT, LABELS = "reconstruction,loss_recovered", "probe_recovery"
Made = dict[str, Any]


@dataclass(frozen=True)
class World:
    """A model, an SAE and text in a folder of their own, and the settings of a run on them."""

    folder: Path

    def copy(self, name: str, to: str) -> Path:
        """A copy of one of its folders, made once."""
        target = self.folder / to
        if not target.exists():
            shutil.copytree(self.folder / name, target)
        return target

    def config(self, to: str, **changes: Any) -> Path:
        """A copy of the model whose ``config.json`` says something else."""
        return _edited(self.copy("model", to) / "config.json", changes).parent

    def sae(self, to: str, **changes: Any) -> Path:
        """A copy of the SAE whose configuration says something else."""
        return _edited(self.copy("sae", to) / "sae_bench.json", changes).parent

    def given(self, **changes: Any) -> Made:
        """Settings, with ``sae`` among them."""
        told = {"model": self.folder / "model", "tokenizer": TinyTokenizer(), "data": self.folder / "text.jsonl"}
        few = {"context": 16, "tier": "smoke", "limit": 12, "controls": "none", "resamples": 20, "device": "cpu"}
        return {"sae": self.folder / "sae", "probe_data": self.folder / "sets", "tasks": TEXT} | told | few | changes


def _edited(file: Path, changes: Made) -> Path:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return file


def _sets(folder: Path, flipped: bool = False) -> Path:
    for name, divisor in (("even", 2), ("third", 3)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        texts = number_texts(80, seed=divisor)
        rows = [json.dumps({"text": t, "label": int((i % divisor == 0) != flipped)}) for i, t in enumerate(texts)]
        (folder / name / "train.jsonl").write_text("\n".join(rows[:40]))
        (folder / name / "test.jsonl").write_text("\n".join(rows[40:]))
    return folder


def made(folder: Path) -> World:
    """The world, in an empty folder."""
    tiny_gpt2().save_pretrained(folder / "model")
    write_native(tiny_coder("topk", d_in=WIDTH, hook=HOOK), folder / "sae")
    pairs = enumerate(zip(TEXTS, TEXTS[::-1], strict=True))
    lines = [json.dumps({"text": text, "other": other, "source": i % 9}) for i, (text, other) in pairs]
    (folder / "text.jsonl").write_text("\n".join(lines))
    _sets(folder / "sets")
    return World(folder)


# --- the variations --------------------------------------------------------------------------------------------------


def _weights(world: World) -> Path:
    folder = world.copy("model", "other_weights")
    tensors = load_file(folder / "model.safetensors")
    tensors["transformer.h.0.mlp.c_fc.bias"][0] += 1.0
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def _sae_weights(world: World) -> Path:
    folder = world.copy("sae", "other_sae_weights")
    file = folder / "weights.safetensors"
    tensors = load_file(file)
    tensors["b_dec"][0] += 1.0
    save_file(tensors, file)
    return folder


def _in_memory(world: World, change: Callable[[Any], Any] = lambda model: None) -> Any:
    model = AutoModelForCausalLM.from_pretrained(world.folder / "model").eval()
    change(model)
    return model


def _sharded(world: World) -> Path:
    folder = world.folder / "sharded"
    if not folder.exists():
        _in_memory(world).save_pretrained(folder, max_shard_size="4KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    return folder


def _with_another_file(world: World) -> Path:
    """A folder in which other weights lie too, in a file that is not read."""
    folder = world.copy("model", "two_files")
    torch.save({"nothing": torch.zeros(1)}, folder / "pytorch_model.bin")
    return folder


def _link(world: World) -> Path:
    link = world.folder / "link"
    if not link.exists():
        link.symlink_to(world.folder / "model")
    return link


def _rows() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(1, 50, (40, 16))


def _dataset(world: World) -> Path:
    import datasets

    folder = world.folder / "splits"
    if not folder.exists():
        parts = {"a": TEXTS[:30], "b": TEXTS[30:]}
        made = {name: datasets.Dataset.from_dict({"text": texts}) for name, texts in parts.items()}
        datasets.DatasetDict(made).save_to_disk(folder)
    return folder


def _other_ids(tokenizer: TinyTokenizer) -> TinyTokenizer:
    tokenizer.eos_token_id = 7
    return tokenizer


def _tasks(world: World) -> Path:
    folder = world.folder / "tasks" / "mine"
    folder.mkdir(parents=True, exist_ok=True)
    shipped = (registry.data_folder("tasks") / "reconstruction" / "task.toml").read_text()
    (folder / "task.toml").write_text(shipped.replace('id = "reconstruction"', 'id = "mine"'))
    return folder.parent


@dataclass(frozen=True)
class Row:
    """A variation: how the settings differ, from what base; ``moves`` whether a figure must differ too."""

    changes: Callable[[World], Made]
    base: Callable[[World], Made] = lambda world: {}
    named: bool = True
    moves: bool = True


def named(base: Made | None = None, *, moves: bool = True, **changes: Any) -> Row:
    return Row(lambda world: changes, lambda world: base or {}, True, moves)


def same(base: Made | None = None, **changes: Any) -> Row:
    return Row(lambda world: changes, lambda world: base or {}, False)


def by(changes: Callable[[World], Made], *, is_named: bool = True, base: Made | None = None, moves: bool = True) -> Row:
    return Row(changes, lambda world: base or {}, is_named, moves)


ON_LABELS = {"tasks": LABELS}
SETTINGS: dict[str, list[Row] | str] = {
    "model": [
        by(lambda w: {"model": _weights(w)}),
        by(lambda w: {"model": w.config("another_activation", activation_function="relu")}),
        by(lambda w: {"model": w.config("another_epsilon", layer_norm_epsilon=0.1)}),
        by(lambda w: {"model": w.config("unscaled", scale_attn_weights=False)}),
        by(lambda w: {"model": w.copy("model", "copied")}, is_named=False),
        by(lambda w: {"model": str(w.folder / "model") + "/"}, is_named=False),
        by(lambda w: {"model": f"{w.folder}/./sae/../model"}, is_named=False),
        by(lambda w: {"model": _link(w)}, is_named=False),
        by(lambda w: {"model": _sharded(w)}, is_named=False),
        by(lambda w: {"model": _with_another_file(w)}, is_named=False),
        by(
            lambda w: {"model": w.config("notes", use_cache=False, transformers_version="4", dtype="bfloat16")},
            is_named=False,
        ),
        by(lambda w: {"model": _in_memory(w)}, is_named=False),
        by(lambda w: {"model": _in_memory(w, lambda m: m.train())}, is_named=False),
        by(lambda w: {"model": _in_memory(w, lambda m: setattr(m.transformer.h[0].mlp, "act", nn.ReLU()))}),
        by(lambda w: {"model": _in_memory(w, lambda m: setattr(m.transformer.ln_f, "eps", 0.1))}),
        by(lambda w: {"model": _in_memory(w, lambda m: m.transformer.h[0].register_forward_hook(_doubled))}),
        by(lambda w: {"model": _in_memory(w, lambda m: setattr(m.transformer.h[0].mlp, "forward", torch.zeros_like))}),
        by(lambda w: {"model": _in_memory(w, lambda m: m.to(torch.bfloat16))}),
    ],
    "data": [
        named(data=TEXTS[::-1]),
        named(data=[*TEXTS[:3], "1 2 3 4 5", *TEXTS[3:]]),
        same(data=TEXTS),
        same({"data": _rows()}, data=torch.from_numpy(_rows())),
    ],
    "tokenizer": [
        named(moves=False, tokenizer=TinyTokenizer(40)),
        named(moves=False, tokenizer=TinyTokenizer(decoded=lambda i: f"<{i}>")),
        named(tokenizer=_other_ids(TinyTokenizer())),
        named({"mask": "none"}, moves=False, mask="none", tokenizer=_other_ids(TinyTokenizer())),
        same(tokenizer=TinyTokenizer()),
    ],
    "name": [same(name="called otherwise")],
    "suite": [same(suite="none")],
    "tasks": [same({"tasks": "reconstruction"}, tasks="reconstruction")],
    "task_dir": [by(lambda w: {"task_dir": _tasks(w)}, is_named=False)],
    "tier": [named(base={"limit": None}, tier="full", limit=None), same(ON_LABELS, tier="standard", **ON_LABELS)],
    "limit": [named(limit=11)],
    "tokens": [
        named(tokens=100),
        named({"limit": None, "tokens": 100}, limit=None, tokens=101),
        same(tokens=10**6),
    ],
    "group_field": [named(group_field="source"), named({"group_field": "source"}, group_field="other")],
    "groups": [
        named({"data": TEXTS}, data=TEXTS, groups=[i % 9 for i in range(60)]),
        named({"data": _rows()}, data=_rows(), groups=[i % 9 for i in range(40)]),
        same(
            {"data": TEXTS, "groups": [i % 9 for i in range(60)]},
            data=TEXTS,
            groups=[str(i % 9) for i in range(60)],
        ),
    ],
    "probe_data": [by(lambda w: {"probe_data": _sets(w.folder / "flipped", True), **ON_LABELS}, base=ON_LABELS)],
    "probe_sets": [named(ON_LABELS, probe_sets="even", **ON_LABELS)],
    "parameters": [
        named(
            parameters={"loss_recovered.smallest_denominator_nats": 9.0},
            tasks="loss_recovered",
            base={"tasks": "loss_recovered"},
        ),
        named(ON_LABELS, parameters={"probe_recovery.ridge": 1.0}, **ON_LABELS),
        same(
            {"tasks": "loss_recovered"},
            parameters={"loss_recovered.smallest_denominator_nats": 0.05},
            tasks="loss_recovered",
        ),
    ],
    "judge_model": "who judges is in the protocol: test_cli_judge",
    "judge_base_url": "where the judge is is in the protocol: test_judge_identity",
    "judge_endpoint": "stands for the address in the protocol: test_judge_identity",
    "judge_params": "decide replies, and are in the protocol: test_judge_first",
    "judge_headers": "are secrets, and kept by their names alone: test_judge_first",
    "judge_timeout": "a reply that comes later is the same reply",
    "judge_key_env": "a key says nothing of the answers",
    "judge_fingerprint": "whether the fingerprint is in the protocol: test_judge_identity",
    "reply_tokens": "what is cut off is asked again, what is whole is the same: test_judge_first",
    "judge_cache": "an answer is the same from the cache: test_judge_cache",
    "judge_cache_only": "what has no answer is incomplete, and measured again: test_cli_judge",
    "judge_batch": "writes requests and measures nothing",
    "null": "adds figures of a control, which are measured if they are missing: test_autointerp",
    "max_requests": "a limit ends in an incomplete result, which is measured again: test_judge_options",
    "max_tokens": "as max_requests",
    "max_cost": "as max_requests",
    "price_in": "a price is no figure",
    "price_out": "a price is no figure",
    "text_field": [named(text_field="other")],
    "split": [Row(lambda w: {"data": _dataset(w), "split": "b"}, lambda w: {"data": _dataset(w), "split": "a"})],
    "context": [named(context=8), named(ON_LABELS, context=8, **ON_LABELS), same(context=16)],
    "packed": [named(packed=True)],
    "bos": [
        named(bos="no"),
        same(bos="yes"),
    ],
    "mask": [named(mask="none"), named(mask="first")],
    "mean_from": [named(mean_from="evaluation")],
    "controls": [same(controls="mean,permuted"), same({"controls": "mean,permuted"}, controls="permuted,mean")],
    "select_in": [same(select_in="bfloat16")],
    "backend": [named(moves=False, backend="tl"), same(backend="hf")],
    "device": [same(device="auto")],
    "dtype": [named(dtype="bfloat16"), named(moves=False, dtype="float64"), same(dtype="float32")],
    "sae_dtype": [
        named(sae_dtype="bfloat16"),
        same(sae_dtype="float32"),
        named({"dtype": "float64"}, moves=False, dtype="float64", sae_dtype="float32"),
    ],
    "seed": [named(seed=1)],
    "resamples": [named(resamples=21)],
    "batch_tokens": [same(batch_tokens=40), same(ON_LABELS, batch_tokens=64, **ON_LABELS)],
    "out": [by(lambda w: {"out": w.folder / "runs"}, is_named=False)],
    "overwrite": [same(overwrite="always")],
    "checkpoint_seconds": [same(checkpoint_seconds=100.0)],
    "calibration_cache": [same(calibration_cache=False)],
    "format": [same(format="native")],
    "hook_in": [
        named(hook_in="blocks.0.hook_resid_post"),
        same(hook_in="transformer.h.1:out"),
        same(hook_in="h.1.output"),
        same(hook_in=HOOK),
    ],
    "hook_out": [named(hook_out="blocks.2.hook_resid_post"), same(hook_out="transformer.h.1:out")],
    "layer": "it is in the name of the hook point: see hook_in",
    "threshold": [named(threshold=0.3)],
    "norm_factor": [named(norm_factor=1.5)],
    "k": [named(k=2)],
}


def _doubled(module: nn.Module, arguments: Any, output: Any) -> Any:
    return 2 * output


class _Other(nn.Module):
    """A dense SAE with a number that is no tensor."""

    def __init__(self, least: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.W = nn.Parameter(torch.randn(WIDTH, 24, generator=generator))
        self.bias = nn.Parameter(torch.zeros(24))
        self.hook_in, self.d_in, self.least = HOOK, WIDTH, least

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        pre = x @ self.W + self.bias
        return pre * (pre > self.least)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents @ self.W.T / 24


def _silent(bias: float) -> _Other:
    """An SAE with a latent that no probe wakes."""
    sae = _Other()
    sae.bias = nn.Parameter(torch.cat([torch.zeros(23), torch.tensor([bias])]))
    return sae


INPUTS: dict[str, list[Row]] = {
    "weights of the SAE": [by(lambda w: {"sae": _sae_weights(w)})],
    "configuration of the SAE": [
        by(lambda w: {"sae": w.sae("another_k", k=3)}),
        by(lambda w: {"sae": w.sae("normalising", normalize_activations="layer_norm")}),
        by(lambda w: {"sae": w.sae("uncentred", apply_b_dec_to_input=False)}),
        by(lambda w: {"sae": w.sae("another_hook", hook_in="blocks.0.hook_resid_post", hook_out=HOOK)}),
    ],
    "place of the SAE": [
        by(lambda w: {"sae": w.copy("sae", "elsewhere")}, is_named=False),
        by(lambda w: {"sae": f"{w.folder}/./sae/"}, is_named=False),
        by(
            lambda w: {"sae": [w.folder / "sae", w.sae("beside", k=3)], "tasks": "reconstruction"},
            is_named=False,
            base={"tasks": "reconstruction"},
        ),
    ],
    "an SAE in memory": [
        by(lambda w: {"sae": _Other(seed=1)}, base={"sae": _Other()}),
        by(lambda w: {"sae": _Other(least=1e-4)}, base={"sae": _Other()}, moves=False),
        by(lambda w: {"sae": _silent(-2e9)}, base={"sae": _silent(-1e9)}, moves=False),
        by(lambda w: {"sae": _Other()}, base={"sae": _Other()}, is_named=False),
        by(lambda w: {"sae": load_sae(w.folder / "sae")}, is_named=False),
    ],
}
