"""The product with the unembedding apart from the pass, so that logits are made for some positions at a time.

What a model does to its logits behind the product (a cap, a factor) cannot be seen from outside. It is looked for among
what models are known to do, by a self-test that must hold to the bit; where nothing fits, passes go on to the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sae_bench.models.edits import close
from sae_bench.modules import evaluating

After = Callable[[Tensor], Tensor]


class Reached(Exception):
    """Raised where a pass comes to the unembedding, with what entered it."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden


class Head:
    """Logits `[n, vocab_size]` of the last hidden states `[n, d_model]` of any positions."""

    def __init__(self, module: nn.Module, after: After, vocab_size: int) -> None:
        self._module, self._after, self.vocab_size = module, after, vocab_size

    def __call__(self, hidden: Tensor) -> Tensor:
        """Return the logits of some positions."""
        with evaluating(self._module):
            return self._after(self._module(hidden))[..., : self.vocab_size]

    @contextmanager
    def ends_pass(self) -> Iterator[None]:
        """Let a pass end before the unembedding, with `Reached`."""
        with ExitStack() as stack:
            stack.callback(self._module.register_forward_pre_hook(_reached).remove)
            yield


def find_head(model: Any, vocab_size: int, run: Callable[[], Tensor]) -> Head | None:
    """Return the head of a model of which `run` makes logits `[batch, seq, vocab_size]`; None if it has none apart."""
    get = getattr(model, "get_output_embeddings", None)
    module = get() if callable(get) else None
    if not isinstance(module, nn.Module):
        return None
    entered: list[Tensor] = []

    def keep(_module: nn.Module, args: tuple[Any, ...]) -> None:
        entered.extend(x for x in args if isinstance(x, Tensor))

    with ExitStack() as stack:
        stack.callback(module.register_forward_pre_hook(keep).remove)
        logits = run()
    if len(entered) != 1 or entered[0].shape[:-1] != logits.shape[:-1]:
        return None
    hidden = entered[0]
    for after in _candidates(model.config):
        head = Head(module, after, vocab_size)
        some = slice(None, None, 3)
        with torch.no_grad():
            if torch.equal(head(hidden), logits) and close(
                head(hidden.flatten(0, 1)[some]), logits.flatten(0, 1)[some]
            ):
                return head
    return None


def _reached(_module: nn.Module, args: tuple[Any, ...]) -> None:
    raise Reached(args[0])


def _candidates(config: Any) -> Iterator[After]:
    """What may be done to logits: nothing, a cap (Gemma), a factor (Cohere), a divisor (Granite)."""
    text = config.get_text_config()
    yield lambda logits: logits
    if cap := getattr(text, "final_logit_softcapping", None):
        yield lambda logits: torch.tanh(logits / cap) * cap
    if factor := getattr(text, "logit_scale", None):
        yield lambda logits: logits * factor
    if divisor := getattr(text, "logits_scaling", None):
        yield lambda logits: logits / divisor
