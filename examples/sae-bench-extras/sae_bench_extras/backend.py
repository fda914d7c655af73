"""A back end: a model of transformers through forward hooks on its blocks, in whole passes.

It leaves out the optional members of ``SubjectModel``, at the price of running every pass from the beginning.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from sae_bench.errors import ModelError
from sae_bench.models.hooks import find_blocks
from sae_bench.models.subject import Capture, check_batch

Edit = Callable[[Tensor], Tensor | None]  # of a block's output: what stands there instead, or None


class Hooked:
    """Outputs of blocks, ``blocks.N.hook_resid_post``; the names and shapes are those of ``SubjectModel``."""

    backend = "hooked"

    def __init__(self, model: nn.Module, name: str, *, copy_model: bool) -> None:
        self.model: Any = copy.deepcopy(model).eval() if copy_model else model
        self.name, self.device, self.dtype = name, self.model.device, self.model.dtype
        config = self.model.config
        self.vocab_size, self.n_layers = config.vocab_size, config.num_hidden_layers
        self.context_length: int | None = getattr(config, "max_position_embeddings", None)
        self.counters = dict.fromkeys(("prefix", "suffix", "full", "selftest"), 0)

    def width(self, hook: str) -> int:
        """The size of the residual stream. Raises ModelError for any other hook point."""
        self._block(hook)
        return int(self.model.config.hidden_size)

    def capture(self, tokens: Tensor, attention_mask: Tensor, hooks: Sequence[str]) -> Capture:
        """Activations ``[batch, seq, d]`` at ``hooks``."""
        found: dict[str, Tensor] = {}

        def keep(hook: str) -> Edit:
            return lambda out: found.update({hook: out.clone()})

        self.counters["prefix"] += len(tokens)
        self._run(tokens, attention_mask, {hook: keep(hook) for hook in hooks})
        return Capture(tokens, attention_mask, found)

    def splice(self, tokens: Tensor, attention_mask: Tensor, replacements: Mapping[str, Tensor]) -> Tensor:
        """Logits ``[batch, seq, vocab_size]`` with activations replaced."""
        self.counters["full"] += len(tokens)
        return self._run(tokens, attention_mask, {hook: lambda _, x=x: x for hook, x in replacements.items()})

    def resume(self, capture: Capture, hook: str, activation: Tensor) -> Tensor:
        """The same, from what was captured."""
        return self.splice(capture.tokens, capture.attention_mask, {hook: activation})

    def can_resume(self, hook: str) -> bool:
        """Every pass is a whole one."""
        return False

    def _block(self, hook: str) -> nn.Module:
        blocks = find_blocks(self.model)[1]
        found = re.fullmatch(r"blocks\.(\d+)\.hook_resid_post", hook)
        if not found or int(found[1]) >= len(blocks):
            raise ModelError(f"the back end {self.backend} knows blocks.N.hook_resid_post alone, and not {hook!r}")
        return blocks[int(found[1])]

    def _run(self, tokens: Tensor, attention_mask: Tensor, edits: Mapping[str, Edit]) -> Tensor:
        """Logits of one pass; padding is on the right, where no real token attends to it."""
        check_batch(tokens, attention_mask, self.vocab_size, self.context_length)
        with ExitStack() as stack, torch.no_grad():
            for hook, edit in edits.items():
                handle = self._block(hook).register_forward_hook(_hook(edit))
                stack.callback(handle.remove)
            logits: Tensor = self.model(tokens, attention_mask=torch.ones_like(tokens), use_cache=False).logits
        return logits


def _hook(edit: Edit) -> Callable[..., Any]:
    """A forward hook; some blocks return the stream alone, others a tuple that begins with it."""

    def run(module: nn.Module, inputs: Any, out: Any) -> Any:
        new = edit(out[0] if isinstance(out, tuple) else out)
        return new if new is None or not isinstance(out, tuple) else (new, *out[1:])

    return run
