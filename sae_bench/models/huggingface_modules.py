"""The modules of a `transformers` model at its hook points: read, replaced and skipped until a stack closes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from sae_bench.errors import ModelError
from sae_bench.models.edits import (
    AffineFreeNorm,
    Edit,
    Later,
    ResidualMid,
    attach,
    centre,
    first_tensor,
    fit,
    only,
    scaled,
    written,
)
from sae_bench.models.hooks import Hook, find_blocks, parse_hook


class Modules:
    """What can be done at the hook points of `model`; everything attached is registered on the stack that is given."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._norms: dict[str, AffineFreeNorm] = {}
        self._returns: dict[int, Callable[[Tensor], Any]] = {}  # by block: puts a tensor into what it returns
        self._blocks_path, self._blocks = _blocks(model)
        self.later: Later | None = None  # takes checks of what passes, if nobody waits for them

    def learn_outputs(self, stack: ExitStack) -> None:
        """Note what each block returns, a tensor or a sequence; a forward pass of it must come before `enter`."""

        def learn(layer: int, out: Any) -> None:
            several = isinstance(out, tuple | list)
            kind, more = type(out), len(out) - 1 if several else 0
            self._returns[layer] = (lambda x: kind([x] + [None] * more)) if several else (lambda x: x)

        for layer, block in enumerate(self._blocks):
            handle = block.register_forward_hook(lambda _m, _a, out, layer=layer: learn(layer, out))
            stack.callback(handle.remove)

    def observe(self, stack: ExitStack, hook: Hook, see: Callable[[Tensor], None]) -> None:
        """Call `see` with a copy of what passes at `hook`, `[batch, seq, d]`: later modules may write into it."""

        def read(x: Tensor) -> None:
            see(self.seen(hook, x))

        attach(stack, self._model.get_submodule(hook.path), hook.io, only(read, hook.call))

    def watch(self, stack: ExitStack, hook: Hook, see: Callable[[Tensor], None]) -> None:
        """Call `see` with a copy of whatever passes through the module of `hook`, at every run, as it is."""
        attach(stack, self._model.get_submodule(hook.path), hook.io, lambda x: see(x.clone()))

    def seen(self, hook: Hook, x: Tensor) -> Tensor:
        """Return the activation at `hook` where `x` passes through its module; never `x` itself."""
        if hook.form == "normalized":
            return self._norm(hook, x).normalize(x)
        if hook.residual_mid:  # its scale is that of the attention branch, and `x` is the sum
            return centre(x) if hook.centered else x.clone()
        x = x.clone() if hook.scale == 1 else x * hook.scale
        return centre(x) if hook.centered else x

    def observe_input(self, stack: ExitStack, layer: int, see: Callable[[Tensor], None]) -> None:
        """Call `see` with a copy of the input `[batch, seq, d_model]` of block `layer`."""
        attach(stack, self._blocks[layer], "in", lambda x: see(x.clone()))

    def replace(self, stack: ExitStack, hook: Hook, new: Tensor) -> list[bool]:
        """Make `hook` carry `new` until the stack closes; the returned list has an item for each time that happened.

        A pass with `new` of another shape raises ModelError.
        """
        used: list[bool] = []
        module = self._model.get_submodule(hook.path)

        def put(old: Tensor) -> Tensor:
            used.append(True)
            return written(new, old, hook)

        if hook.residual_mid:
            self._replace_residual_mid(stack, hook, put)
        elif hook.form == "normalized":
            norm = self._norm(hook, new)
            attach(stack, module, "out", only(lambda old: norm.scale(put(old)), hook.call))
        else:
            attach(stack, module, hook.io, only(scaled(put, hook.scale), hook.call))
        return used

    def enter(self, stack: ExitStack, hook: Hook, x: Tensor, carry: Mapping[int, Tensor]) -> None:
        """Skip the blocks before `hook`, which lies in one, and let it carry `x`, until the stack closes.

        `carry` has by layer the input `[batch, seq, d_model]` of the block of `hook`, where `needs_carry`.
        """
        layer = hook.layer
        assert layer is not None  # a caller asks `can_resume` first, which is False outside the blocks
        for index in range(layer):
            self._bypass(stack, index, None)
        if self._is_block_output(hook):
            self._bypass(stack, layer, x)
            return
        if self.needs_carry(hook):
            attach(stack, self._blocks[layer], "in", lambda old: fit(carry[layer], old, hook.name))
        self.replace(stack, hook, x)

    def needs_carry(self, hook: Hook) -> bool:
        """Whether resuming needs the block's input besides the activation: not where the activation is all there is."""
        return hook.centered or not (hook.residual_mid or hook.path == f"{self._blocks_path}.{hook.layer}")

    def _is_block_output(self, hook: Hook) -> bool:
        """Whether the block of `hook` can be skipped; in centred form its output is needed for the mean."""
        return not hook.centered and (hook.path, hook.io) == (f"{self._blocks_path}.{hook.layer}", "out")

    def _replace_residual_mid(self, stack: ExitStack, hook: Hook, put: Edit) -> None:
        branch, norm = (
            parse_hook(f"blocks.{hook.layer}.{site}", self._model) for site in ("hook_attn_out", "ln1.hook_out")
        )
        edits = ResidualMid(put, hook, self.later)
        assert hook.layer is not None
        attach(stack, self._blocks[hook.layer], "in", edits.block_input)
        attach(stack, self._model.get_submodule(norm.path), "in", edits.norm_input)
        attach(stack, self._model.get_submodule(branch.path), branch.io, edits.branch_output)
        attach(stack, self._model.get_submodule(hook.path), "in", edits.verify)

    def _bypass(self, stack: ExitStack, layer: int, new: Tensor | None) -> None:
        """Let block `layer` return its input, or `new`, in the type that it normally returns."""
        block, returns = self._blocks[layer], self._returns[layer]

        def passthrough(*args: Any, **kwargs: Any) -> Any:
            x = first_tensor(args, kwargs)
            return returns(x if new is None else fit(new, x, f"output of block {layer}"))

        had = block.__dict__.get("forward")
        stack.callback(block.__dict__.pop if had is None else block.__dict__.__setitem__, "forward", had)
        block.__dict__["forward"] = passthrough

    def _norm(self, hook: Hook, like: Tensor) -> AffineFreeNorm:
        if hook.path not in self._norms:
            self._norms[hook.path] = AffineFreeNorm(self._model.get_submodule(hook.path), hook.name, like)
        return self._norms[hook.path]


def _blocks(model: nn.Module) -> tuple[str, list[nn.Module]]:
    """Return the path and the blocks; none where there is no list of them: module paths only, and no resuming."""
    try:
        path, blocks = find_blocks(model)
    except ModelError:
        return "", []
    return path, list(blocks)
