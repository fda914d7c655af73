"""The subject model on TransformerLens: the `TransformerBridge` API that versions 3.9 to 4.x have in common.

Splicing means the same as on the Hugging Face back end, which is not always what a hook function on the bridge's point
of that name would do: its `hook_resid_mid` changes only what the MLP reads. There is no resuming: a bridge that starts
at a later layer still runs the earlier ones.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sae_bench.errors import ModelError, said
from sae_bench.kernels.transfer import onto
from sae_bench.models.checks import check_centering, check_scale, parsed
from sae_bench.models.edits import Edit, ResidualMid, centre, scaled, written
from sae_bench.models.hooks import Hook, canonical_name
from sae_bench.models.huggingface import HuggingFaceSubject
from sae_bench.models.selftests import Found, random_tokens, settle
from sae_bench.models.subject import Capture, check_batch
from sae_bench.switches import remarks_on_stderr, without_warnings

# A hook function of TransformerLens: the tensor that passes, and by keyword the hook point.
_Edit = tuple[str, Callable[..., Tensor | None]]


class TransformerLensSubject:
    """A causal language model inside a `TransformerBridge`; see `SubjectModel` for the members.

    The bridge rebuilds the model that it is given, so a model that somebody else holds must be copied (`copy_model`).
    """

    backend = "tl"

    def __init__(self, model: nn.Module, name: str, *, copy_model: bool) -> None:
        plain = HuggingFaceSubject(model, name)  # its self-tests hold for this back end too
        self.name, self.device, self.dtype = name, plain.device, plain.dtype
        self.model = model  # whose weights they are; with `copy_model` untouched by the bridge
        self.vocab_size, self.n_layers, self.context_length = plain.vocab_size, plain.n_layers, plain.context_length
        self.counters, self._embed_scale = plain.counters, plain.embed_scale
        self._tokens, self.plain = random_tokens(plain.vocab_size, plain.context_length, plain.device), plain.plain
        self._says: dict[str, tuple[str, ...]] = {}
        with torch.device("meta"):  # the module tree without weights: the bridge replaces modules, names stay readable
            self._skeleton: nn.Module = type(model)(copy.deepcopy(model.config))
        self._bridge = _boot(copy.deepcopy(model) if copy_model else model, name, self.device, self.dtype)
        self._points: dict[str, Any] = self._bridge.hook_dict
        self._hooks: dict[str, Hook] = {}
        self._widths: dict[Hook, int] = {}

    def width(self, hook: str) -> int:
        """Return the size of the last axis at `hook`."""
        place = self._hook(hook)
        if place not in self._widths:
            tokens = torch.zeros(1, 1, dtype=torch.int64, device=self.device)
            self._widths[place] = self._record(tokens, [place], "selftest")[place].shape[-1]
        return self._widths[place]

    def canonical_name(self, hook: str) -> str:
        """Return the name that all names of the same place share."""
        return canonical_name(self._hook(hook))

    def capture(self, tokens: Tensor, attention_mask: Tensor, hooks: Sequence[str]) -> Capture:
        """Return the activations `[batch, seq, d]` at `hooks`; no block behind the deepest of them runs."""
        places = {name: self._hook(name) for name in hooks}
        tokens, mask = self._batch(tokens, attention_mask)
        found = self._record(tokens, list(dict.fromkeys(places.values())), "prefix")
        return Capture(tokens, mask, {name: found[place] for name, place in places.items()})

    def splice(self, tokens: Tensor, attention_mask: Tensor, replacements: Mapping[str, Tensor]) -> Tensor:
        """Return logits `[batch, seq, vocab_size]` with the activation at each hook replaced."""
        edits = [edit for name, x in replacements.items() for edit in self._edits(self._hook(name), x)]
        tokens, _ = self._batch(tokens, attention_mask)
        return self._run(tokens, edits, None, "full")[..., : self.vocab_size]

    def resume(self, capture: Capture, hook: str, activation: Tensor) -> Tensor:
        """Return the logits when `hook` carries `activation`: a full splice, see the module's docstring."""
        return self.splice(capture.tokens, capture.attention_mask, {hook: activation})

    def can_resume(self, hook: str) -> bool:
        """Return False, after a check of the name."""
        self._hook(hook)
        return False

    def is_bottleneck(self, hook: str) -> bool:
        """Return False: every pass begins at the tokens."""
        return self.can_resume(hook)

    def continuation(self, capture: Capture, hook: str) -> None:
        """Return None: the bridge offers no keys and values."""

    def selftests(self, hook: str) -> tuple[str, ...]:
        """Return what the self-tests found at `hook`, a sentence each; ModelError for a hook point that fails one."""
        self._hook(hook)
        return self._says[hook]

    def watch(self, places: Sequence[Hook]) -> dict[Hook, list[Tensor]]:
        """Return what passed at `places` in one whole pass over the tokens of the self-tests, a tensor for each run.

        A place for which the bridge has no hook point is left out.
        """
        passed: dict[Hook, list[Tensor]] = {}
        edits: list[_Edit] = []
        for place in places:
            try:
                point = self._point(place)
            except ModelError:
                continue
            passed[place] = []
            edits.append((point, partial(_keep_all, passed[place])))
        self._run(self._tokens, edits, None, "selftest")
        return passed

    def put(self, hook: Hook, new: Tensor) -> Tensor:
        """Return the logits of a self-test's pass in which `hook` carries `new`."""
        return self._run(self._tokens, self._edits(hook, new), None, "selftest")[..., : self.vocab_size]

    def captured(self, hook: Hook, passed: Tensor) -> Tensor:
        """Return what capturing at `hook` gives where `passed` went through its hook point."""
        x = passed if hook.scale == 1 or hook.residual_mid else passed * hook.scale
        return centre(x) if hook.centered else x

    def _record(self, tokens: Tensor, hooks: list[Hook], count: str) -> dict[Hook, Tensor]:
        found: dict[Hook, Tensor] = {}

        def keep(place: Hook, x: Tensor, hook: Any) -> None:
            found.setdefault(place, self.captured(place, x.flatten(2).to(self.dtype, copy=True)))

        if hooks:
            deepest = max(-1 if hook.layer is None else hook.layer for hook in hooks)
            stop = deepest + 1 if deepest + 1 < self.n_layers else None
            self._run(tokens, [(self._point(place), partial(keep, place)) for place in hooks], stop, count)
        if missing := [hook.name for hook in hooks if hook not in found]:
            raise ModelError(f"hook point {missing[0]!r} never fired in TransformerLens; use the backend hf")
        return found

    def _run(self, tokens: Tensor, edits: Sequence[_Edit], stop: int | None, count: str) -> Tensor:
        self.counters[count] += tokens.shape[0]
        with torch.no_grad(), _quiet():
            # an explicit mask of ones: real tokens cannot see the padding behind them, and the bridge is not to guess
            logits: Tensor = self._bridge.run_with_hooks(
                tokens, fwd_hooks=list(edits), stop_at_layer=stop, attention_mask=torch.ones_like(tokens)
            )
        return logits

    def _edits(self, hook: Hook, new: Tensor) -> list[_Edit]:
        """Return the hook functions that make `hook` carry `new`."""

        def put(x: Tensor) -> Tensor:
            return written(new, x.flatten(2), hook).reshape(x.shape)

        if not hook.residual_mid:
            return [_on(self._point(hook), scaled(put, hook.scale))]
        edits, block = ResidualMid(put, hook), f"blocks.{hook.layer}"
        return [
            _on(f"{block}.hook_resid_pre", edits.block_input),
            _on(f"{block}.ln1.hook_in", edits.norm_input),
            _on(f"{block}.hook_attn_out", edits.branch_output),
            _on(self._point(hook), edits.verify),
        ]

    def _point(self, hook: Hook) -> str:
        """Return the bridge's hook point; `hook_mlp_in` is off there by default, and the norm's input is the same."""
        point = hook.name.removesuffix(":centered")
        if hook.io == "in" and (point.endswith(".hook_mlp_in") or hook.residual_mid):
            point = f"blocks.{hook.layer}.ln2.hook_in"
        if point not in self._points:
            raise ModelError(
                f"hook point {hook.name!r} has no TransformerLens name in this model; use the backend hf, or one of "
                "blocks.L.hook_resid_pre, hook_resid_post, hook_attn_out, hook_mlp_out"
            )
        return point

    def _hook(self, name: str) -> Hook:
        if name not in self._hooks:
            found = self._found(name)
            self._hooks[name], self._says[name] = found.hook, found.says
        return self._hooks[name]

    def _found(self, name: str) -> Found:
        hook = parsed(self, name, self._skeleton)
        if hook.call is not None:
            raise ModelError(f"hook point {name!r} chooses a run of a module, which the backend hf alone can do")
        hook = check_scale(hook.name, hook, self._embed_scale)
        self._point(hook)
        found = settle(self, hook.name, hook, self._skeleton)
        check_centering(self, found.hook)
        return found

    def _batch(self, tokens: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        check_batch(tokens, attention_mask, self.vocab_size, self.context_length)
        return onto(tokens.to(torch.int64), self.device), onto(attention_mask.to(torch.bool), self.device)


def _keep_all(into: list[Tensor], x: Tensor, hook: Any) -> None:
    into.append(x.flatten(2).clone())


def _on(point: str, edit: Edit) -> _Edit:
    return point, lambda x, hook: edit(x)


def _boot(model: nn.Module, name: str, device: torch.device, dtype: torch.dtype) -> Any:
    """Wrap `model` in place; ModelError where TransformerLens is missing or does not know the architecture."""
    with _quiet():
        try:
            from transformer_lens.model_bridge import TransformerBridge
        except ImportError as error:
            raise ModelError(
                f"the backend tl needs transformer-lens >= 3.9 ({said(error)}); install it or use the backend hf"
            ) from error
        try:
            bridge = TransformerBridge.boot_transformers(
                "local-model", hf_model=model, tokenizer=_placeholder_tokenizer(), device=str(device), dtype=dtype
            )
        except (ValueError, KeyError, RuntimeError, AttributeError, TypeError, NotImplementedError) as error:
            raise ModelError(
                f"TransformerLens cannot wrap model {name!r} ({type(model).__name__}): {said(error)}; "
                "use the backend hf"
            ) from error
    return bridge.eval()


def _placeholder_tokenizer() -> Any:
    """Return a tokenizer of one token: the bridge asks for one, fetches one without, and is only ever given ids."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<pad>": 0}, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<pad>", pad_token="<pad>", unk_token="<pad>")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep TransformerLens' remarks off standard output, and its warnings about edited norms out of sight."""
    with remarks_on_stderr(), without_warnings():
        yield
