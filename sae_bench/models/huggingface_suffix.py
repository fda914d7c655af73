"""What runs behind a hook point of a `transformers` model with the keys and values of the clean run."""

from __future__ import annotations

import inspect
from contextlib import ExitStack
from typing import Any

from torch import Tensor

from sae_bench.errors import ModelError
from sae_bench.models.hooks import Hook
from sae_bench.models.huggingface_modules import Modules
from sae_bench.models.subject import Capture, SubjectModel
from sae_bench.modules import evaluating


class KeysAndValues:
    """The rest of a Hugging Face model behind the hook point `hook` at `place`; see `Suffix` for the members.

    The clean run counts as "suffix" in the subject's counters. Raises ModelError where the capture lacks what resuming
    there needs, and whatever the model raises that cannot take keys and values.
    """

    def __init__(self, subject: SubjectModel, modules: Modules, capture: Capture, hook: str, place: Hook) -> None:
        from transformers.cache_utils import DynamicCache

        self._subject, self._modules, self._capture = subject, modules, capture
        self._hook, self._place = hook, place
        cache = DynamicCache()  # made without the configuration it drops nothing behind a sliding window
        subject.counters["suffix"] += len(capture.tokens)
        with ExitStack() as stack:
            self._attach(stack, slice(None), capture.activations[hook])
            self._forward(subject.model.base_model, capture.tokens, 0, cache)  # the output head is not needed
        kept = {i: layer for i, layer in enumerate(cache.layers) if layer.is_initialized}
        self._kept: dict[int, tuple[Tensor, Tensor]] = {i: (layer.keys, layer.values) for i, layer in kept.items()}
        self.kept_per_token = sum(x.shape[1] * x.shape[3] for pair in self._kept.values() for x in pair)

    def logits(self, sequence: int, position: int, activations: Tensor, steps: int) -> Tensor:
        """Return logits `[n, steps, vocab_size]` with each of `activations` `[n, d]` at one place of a sequence."""
        n, place = len(activations), (slice(sequence, sequence + 1), slice(position, position + steps))
        x = self._capture.activations[self._hook][place].repeat(n, 1, 1)
        x[:, 0] = activations
        tokens = self._capture.tokens[place].repeat(n, 1)
        with ExitStack() as stack:
            self._attach(stack, place, x)
            out = self._forward(self._subject.model, tokens, position, self._prefix(sequence, position, n))
        logits: Tensor = out.logits
        return logits[..., : self._subject.vocab_size]

    def _attach(self, stack: ExitStack, place: Any, x: Tensor) -> None:
        """Skip what comes before the hook point and let it carry `x`; `place` says which tokens run."""
        layer, carry = self._place.layer, {}
        if layer is not None and self._modules.needs_carry(self._place):
            if layer not in self._capture.carry:
                raise ModelError(f"changing {self._hook!r} needs a capture of it; add it to the captured hooks")
            carry[layer] = self._capture.carry[layer][place].expand(len(x), -1, -1)
        self._modules.enter(stack, self._place, x, carry)

    def _prefix(self, sequence: int, position: int, n: int) -> Any:
        """Return a cache of the tokens before `position`, repeated `n` times without a copy.

        A skipped block holds empty entries: models read off the first one how many tokens came before.
        """
        from transformers.cache_utils import Cache, DynamicLayer

        layers = []
        nothing = self._capture.activations[self._hook].new_zeros(1, 1, 1, 1).expand(n, 1, position, 1)
        for index in range(self._subject.n_layers):
            keys = values = nothing
            if index in self._kept:
                keys, values = (x[sequence, :, :position].expand(n, -1, -1, -1) for x in self._kept[index])
            layer = DynamicLayer()
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = keys, values
            layers.append(layer)
        return Cache(layers=layers)

    def _forward(self, module: Any, tokens: Tensor, before: int, cache: Any) -> Any:
        mask = tokens.new_ones(len(tokens), before + tokens.shape[1])
        with evaluating(self._subject.model):
            return module(input_ids=tokens, attention_mask=mask, use_cache=True, **{cache_argument(module): cache})


def cache_argument(module: Any) -> str:
    """Return the name under which `module.forward` takes keys and values: `cache`, or `past_key_values` in older ones.

    Raises ModelError where the signature has neither: a name that only `**kwargs` swallows would be ignored in silence.
    """
    names = inspect.signature(module.forward).parameters
    for name in ("cache", "past_key_values"):
        if name in names:
            return name
    raise ModelError(f"forward of {type(module).__name__} takes neither cache nor past_key_values")
