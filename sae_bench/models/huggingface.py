"""The subject model on Hugging Face `transformers`: forward hooks, early stop, and resuming from the middle.

Everything attached to the model lives for one call: it is registered on an `ExitStack` and gone afterwards, also when
the forward pass fails. `torch.no_grad` and not `inference_mode`: tensors that a module caches during a forward pass
stay usable in the owner's training, and what is returned here may be fed to autograd or changed in place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sae_bench.errors import ModelError, said
from sae_bench.kernels.transfer import onto
from sae_bench.models.checks import check_centering, check_scale, embedding_scale, parsed
from sae_bench.models.edits import Later, close
from sae_bench.models.hooks import Hook, canonical_name
from sae_bench.models.huggingface_head import Head, Reached, find_head
from sae_bench.models.huggingface_masks import masks_are_full
from sae_bench.models.huggingface_modules import Modules
from sae_bench.models.huggingface_suffix import KeysAndValues
from sae_bench.models.selftests import Found, random_tokens, settle
from sae_bench.models.subject import Capture, check_batch
from sae_bench.modules import evaluating


class _Stop(Exception):
    """Raised at the deepest hook point: the rest of the forward pass is not needed."""


class HuggingFaceSubject:
    """A `transformers` causal language model; see `SubjectModel` for the members.

    `copy_model` makes no difference: nothing stays on the model, whoever else holds it. `waits`: whether a pass may
    make the host wait for the device.
    """

    backend = "hf"
    waits = True

    def __init__(self, model: nn.Module, name: str, *, copy_model: bool = False) -> None:
        self.name = name
        self.model = model
        self.device = model.get_input_embeddings().weight.device  # type: ignore[operator]
        self.dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
        text = model.config.get_text_config()  # type: ignore[operator, union-attr]
        self.vocab_size = int(text.vocab_size)
        self.n_layers = int(text.num_hidden_layers)
        longest = getattr(text, "max_position_embeddings", None)
        self.context_length: int | None = longest if longest and longest > 0 else None  # some say -1 for no limit
        self.counters = {"prefix": 0, "suffix": 0, "full": 0, "selftest": 0}
        self._hooks: dict[str, Hook] = {}
        self._widths: dict[Hook, int] = {}
        self._resumable: dict[Hook, tuple[bool, bool]] = {}  # and whether tokens play no part in it
        self._says: dict[str, tuple[str, ...]] = {}
        self._modules = Modules(model)
        self._heads: list[Head | None] = []  # one, once it was looked for
        self._check_model()
        self._tokens = random_tokens(self.vocab_size, self.context_length, self.device)
        self.plain = self._plain()
        self.embed_scale = embedding_scale(self, model)

    def width(self, hook: str) -> int:
        """Return the size of the last axis at `hook`."""
        place = self._hook(hook)
        if place not in self._widths:
            tokens = torch.zeros(1, 1, dtype=torch.int64, device=self.device)
            self._widths[place] = self._record(tokens, [place], "selftest")[0][place].shape[-1]
        return self._widths[place]

    def selftests(self, hook: str) -> tuple[str, ...]:
        """Return what the self-tests found at `hook`, a sentence each; ModelError for a hook point that fails one."""
        self._hook(hook)
        resumed = "not possible, so a replaced activation takes a whole pass"
        if self.can_resume(hook):
            resumed = "the logits of a whole pass" + (", whatever the tokens are" if self.is_bottleneck(hook) else "")
        return (*self._says[hook], f"a pass that begins behind it: {resumed}")

    def canonical_name(self, hook: str) -> str:
        """Return the name that all names of the same place share."""
        return canonical_name(self._hook(hook))

    def capture(self, tokens: Tensor, attention_mask: Tensor, hooks: Sequence[str]) -> Capture:
        """Return the activations `[batch, seq, d]` at `hooks`; the model runs up to the deepest of them only."""
        places = {name: self._hook(name) for name in hooks}
        tokens, mask = self._batch(tokens, attention_mask)
        found, carry = self._record(tokens, list(dict.fromkeys(places.values())), "prefix")
        return Capture(tokens, mask, {name: found[place] for name, place in places.items()}, carry)

    def splice(self, tokens: Tensor, attention_mask: Tensor, replacements: Mapping[str, Tensor]) -> Tensor:
        """Return logits `[batch, seq, vocab_size]` with the activation at each hook replaced."""
        places = {self._hook(name): x for name, x in replacements.items()}
        tokens, _ = self._batch(tokens, attention_mask)
        return self._splice(tokens, places, "full")

    def resume(self, capture: Capture, hook: str, activation: Tensor) -> Tensor:
        """Return the logits when `hook` carries `activation`, running only the rest of the model where exact."""
        place = self._hook(hook)
        if not self.can_resume(hook):
            return self._splice(capture.tokens, {place: activation}, "full")
        if self._modules.needs_carry(place) and place.layer not in capture.carry:
            raise ModelError(f"resuming at {hook!r} needs a capture of that hook point; add it to the captured hooks")
        return self._resume(capture.tokens, capture.carry, place, activation, "suffix")

    @property
    def head(self) -> Head | None:
        """The product with the unembedding apart from a pass; None where a self-test finds more behind it."""
        if not self._heads:
            self._heads = [find_head(self.model, self.vocab_size, lambda: self._forward(self._tokens, "selftest"))]
        return self._heads[0]

    def hidden(self, capture: Capture, hook: str, activation: Tensor) -> Tensor:
        """Return what `resume` would, before the head; only where there is one and `can_resume`."""
        assert self.head is not None
        try:
            with self.head.ends_pass():
                self.resume(capture, hook, activation)
        except Reached as reached:
            return reached.hidden
        raise ModelError("a pass does not come to the model's unembedding, though it did in the self-test")

    def can_resume(self, hook: str) -> bool:
        """Whether resuming at `hook` gives the logits of a full splice, by one test on random tokens."""
        return self._tested(self._hook(hook))[0]

    def is_bottleneck(self, hook: str) -> bool:
        """Whether logits follow from the activation at `hook` alone, by the same test with other tokens."""
        return self._tested(self._hook(hook))[1]

    def continuation(self, capture: Capture, hook: str) -> KeysAndValues | None:
        """Return what runs behind one position with the keys and values of the clean run; None where not resumable."""
        if not self.can_resume(hook):
            return None
        return KeysAndValues(self, self._modules, capture, hook, self._hook(hook))

    @contextmanager
    def checked_later(self, later: Later) -> Iterator[None]:
        """Hand checks of what passes over to `later` until the context ends, instead of waiting for their outcome."""
        self._modules.later = later
        try:
            yield
        finally:
            self._modules.later = None

    # --- the three kinds of forward pass -----------------------------------------------------------------------------

    def _record(self, tokens: Tensor, hooks: list[Hook], count: str) -> tuple[dict[Hook, Tensor], dict[int, Tensor]]:
        """Run up to the deepest of `hooks`; return what passed there, and the inputs of the blocks to resume in."""
        found: dict[Hook, Tensor] = {}
        carry: dict[int, Tensor] = {}
        layers = {hook.layer for hook in hooks if hook.layer is not None and self._modules.needs_carry(hook)}
        left = len(hooks) + len(layers)

        def keep(target: dict[Any, Tensor], key: Any, x: Tensor) -> None:
            nonlocal left
            if key in target:
                return
            target[key] = x
            left -= 1
            if left == 0:
                raise _Stop

        with ExitStack() as stack:
            for layer in layers:
                self._modules.observe_input(stack, layer, partial(keep, carry, layer))
            for hook in hooks:
                self._modules.observe(stack, hook, partial(keep, found, hook))
            try:
                if hooks:
                    self._forward(tokens, count)
            except _Stop:
                return found, carry
        if missing := [hook.name for hook in hooks if hook not in found]:
            raise ModelError(f"hook point {missing[0]!r} is never reached: the forward pass does not use its module")
        return found, carry

    def _splice(self, tokens: Tensor, replacements: Mapping[Hook, Tensor], count: str) -> Tensor:
        with ExitStack() as stack:
            used = [self._modules.replace(stack, hook, x) for hook, x in replacements.items()]
            logits = self._forward(tokens, count)
        for hook, times in zip(replacements, used, strict=True):
            if len(times) != 1:
                raise ModelError(
                    f"hook point {hook.name!r} was reached {len(times)} times in a pass, but once in the self-test; "
                    "the forward pass depends on its input in a way that cannot be measured here"
                )
        return logits

    def _resume(self, tokens: Tensor, carry: Mapping[int, Tensor], hook: Hook, x: Tensor, count: str) -> Tensor:
        with ExitStack() as stack:
            self._modules.enter(stack, hook, x, carry)
            return self._forward(tokens, count)

    def _forward(self, tokens: Tensor, count: str) -> Tensor:
        """Run the model; count its sequences.

        No padding mask: padding stands behind the real tokens, a causal model cannot look there, and without a mask
        every batch uses the same attention kernel, so a sequence's numbers do not depend on its neighbours.
        """
        self.counters[count] += tokens.shape[0]
        with evaluating(self.model), nullcontext() if self.waits else masks_are_full():
            out = self.model(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False)
        logits: Tensor = out.logits
        return logits[..., : self.vocab_size]

    # --- self-tests --------------------------------------------------------------------------------------------------

    def _check_model(self) -> None:
        """One pass over two sequences that differ in the last token: finite, causal, and what the blocks return."""
        tokens = random_tokens(self.vocab_size, min(4, self.context_length or 4), self.device)
        tokens[1] = tokens[0]
        tokens[1, -1] = (tokens[0, -1] + 1) % self.vocab_size
        with ExitStack() as stack:
            self._modules.learn_outputs(stack)
            try:
                logits = self._forward(tokens, "selftest")
            except (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError) as error:
                raise ModelError(f"model {self.name!r} cannot run on token ids: {said(error)}") from error
        self.vocab_size = min(self.vocab_size, logits.shape[-1])
        if not bool(torch.isfinite(logits).all()):
            raise ModelError(f"model {self.name!r} gives logits that are not finite; its weights are damaged")
        if not close(logits[0, :-1], logits[1, :-1]):
            raise ModelError(f"model {self.name!r} is not causal: a token changes the logits at earlier positions")

    def _plain(self) -> Tensor:
        """Return the logits of the model as its owner would call it, without a mask and with nothing attached."""
        self.counters["selftest"] += len(self._tokens)
        with evaluating(self.model):
            logits: Tensor = self.model(input_ids=self._tokens, use_cache=False).logits
        return logits[..., : self.vocab_size]

    def watch(self, places: Sequence[Hook]) -> dict[Hook, list[Tensor]]:
        """Return what passed at `places` in one whole pass over the tokens of the self-tests, a tensor for each run."""
        passed: dict[Hook, list[Tensor]] = {place: [] for place in places}
        with ExitStack() as stack:
            for place in places:
                self._modules.watch(stack, place, passed[place].append)
            self._forward(self._tokens, "selftest")
        return passed

    def put(self, hook: Hook, new: Tensor) -> Tensor:
        """Return the logits of a self-test's pass in which `hook` carries `new`."""
        return self._splice(self._tokens, {hook: new}, "selftest")

    def captured(self, hook: Hook, passed: Tensor) -> Tensor:
        """Return what capturing at `hook` gives where `passed` went through its module."""
        return self._modules.seen(hook, passed)

    def _tested(self, hook: Hook) -> tuple[bool, bool]:
        if hook not in self._resumable:
            within = hook.layer is not None and hook.call is None
            self._resumable[hook] = self._test_resume(hook) if within else (False, False)
        return self._resumable[hook]

    def _test_resume(self, hook: Hook) -> tuple[bool, bool]:
        """Compare resuming with the full splice on a randomly perturbed activation, after these tokens and others."""
        tokens, others = self._tokens, self._other_tokens()
        found, carry = self._record(tokens, [hook], "selftest")
        x = found[hook]
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(x)
        perturbed = x + noise * x.std()
        expected = self._splice(tokens, {hook: perturbed}, "selftest")
        self._forward(others, "selftest")  # no module still holds the state that we expect
        try:
            resumed = self._resume(tokens, carry, hook, perturbed, "selftest")
            if not close(resumed, expected):
                return False, False
            if self._modules.needs_carry(hook):
                return True, False
            # to the bit: the operations are the same, and a small part that tokens play would hide in a tolerance
            return True, torch.equal(self._resume(others, {}, hook, perturbed, "selftest"), resumed)
        except (RuntimeError, TypeError, ValueError, AttributeError, KeyError, IndexError, ModelError):
            return False, False  # the rest of the model needs something of the prefix that is not carried

    def _other_tokens(self) -> Tensor:
        """Return tokens that differ from those of the self-tests everywhere, with the special ones among them."""
        others = (self._tokens + 1) % self.vocab_size
        named = [getattr(self.model.config, f"{name}_token_id", None) for name in ("bos", "eos", "pad")]
        listed = {
            i for one in named for i in (one if isinstance(one, list | tuple) else [one])
        }  # several may end a text
        special = sorted(i for i in listed if isinstance(i, int) and 0 <= i < self.vocab_size)
        for place, token in enumerate(special[: others.shape[1]]):
            others[0, place] = token
        return others

    # --- small things ------------------------------------------------------------------------------------------------

    def _batch(self, tokens: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        check_batch(tokens, attention_mask, self.vocab_size, self.context_length)
        return onto(tokens.to(torch.int64), self.device), onto(attention_mask.to(torch.bool), self.device)

    def _hook(self, name: str) -> Hook:
        if name not in self._hooks:
            found = self._found(name)
            self._hooks[name], self._says[name] = found.hook, found.says
        return self._hooks[name]

    def _found(self, name: str) -> Found:
        hook = parsed(self, name, self.model)
        found = settle(self, name, check_scale(name, hook, self.embed_scale), self.model)
        check_centering(self, found.hook)
        return found
