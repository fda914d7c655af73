"""Any module with dense ``encode`` and ``decode`` as a coder."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sae_bench.errors import CoderError, named
from sae_bench.modules import as_declared, evaluating, wrapped_in
from sae_bench.saes.declared import d_in_of, hook_of, trained_as
from sae_bench.saes.decoding import decode
from sae_bench.saes.inference import beside_arrays, of_arrays
from sae_bench.saes.protocol import CoderInfo, Codes, SparseCoder, codes_from_dense
from sae_bench.schema import INFERENCE

_PROBE_LATENTS = 64
_PROBE_SIZES = (0.01, 1.0, 100.0)


class DenseCoder:
    """Wraps ``module.encode(x) -> [tokens, n_latents]`` and ``module.decode(latents) -> [tokens, d_out]``.

    Dense latents cost ``tokens * n_latents`` numbers, so tokens are taken in small groups. Decoder directions are
    ``decode(e_i) - decode(0)``, which assumes that ``decode`` is affine (the conformance test checks it).
    """

    def __init__(self, module: Any, info: CoderInfo, *, tokens_at_once: int = 1024) -> None:
        self.info = info
        self.module = module
        self._step = max(1, min(tokens_at_once, (1 << 24) // max(info.n_latents, 1)))
        self._dtype, self._device = _parameter_type(module)
        self.checks = False

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._device

    @of_arrays
    def encode(self, x: Tensor) -> Codes:
        """Latent activations of ``x`` ``[tokens, d_in]``."""
        parts = []
        for rows in torch.split(x, self._step) if len(x) else ():
            with evaluating(self.module):
                latents = self.module.encode(rows.to(self._device, self._dtype))
            if not isinstance(latents, Tensor) or latents.shape != (len(rows), self.info.n_latents):
                shape = list(latents.shape) if isinstance(latents, Tensor) else type(latents).__name__
                raise CoderError(
                    f"{self.info.name}: encode of x {list(rows.shape)} must return a tensor of shape "
                    f"{[len(rows), self.info.n_latents]}, but it returned {shape}"
                )
            parts.append(codes_from_dense(latents.to(x.device)))
        if not parts:
            return codes_from_dense(x.new_zeros(0, self.info.n_latents, dtype=self._dtype))
        offsets = torch.tensor([0, *(len(part.indices) for part in parts[:-1])], device=x.device).cumsum(0)
        indptr = torch.cat([part.indptr[:-1] + start for part, start in zip(parts, offsets, strict=True)])
        return Codes(
            torch.cat([indptr, (offsets[-1:] + len(parts[-1].indices))]),
            torch.cat([part.indices for part in parts]),
            torch.cat([part.values for part in parts]),
            self.info.n_latents,
        )

    @beside_arrays
    def decode(self, codes: Codes, x: Tensor | None = None) -> Tensor:
        """Reconstruction ``[tokens, d_out]``."""
        entries = codes.token_of_entry()
        out = []
        for start in range(0, codes.n_tokens, self._step):
            stop = min(start + self._step, codes.n_tokens)
            part = slice(int(codes.indptr[start]), int(codes.indptr[stop]))
            dense = torch.zeros(stop - start, codes.n_latents, dtype=self._dtype, device=self._device)
            where = ((entries[part] - start).to(self._device), codes.indices[part].to(self._device))
            dense.index_put_(where, codes.values[part].to(self._device, self._dtype), accumulate=True)
            out.append(self._decode_dense(dense).to(codes.values.device))
        return torch.cat(out) if out else codes.values.new_zeros(0, self.info.d_out)

    def decoder_rows(self, latents: Tensor) -> Tensor:
        """Decoder directions ``[len(latents), d_out]``."""
        rows = []
        for part in torch.split(latents, self._step) if len(latents) else ():
            unit = torch.zeros(len(part) + 1, self.info.n_latents, dtype=self._dtype, device=self._device)
            unit[torch.arange(len(part), device=self._device), part.to(self._device)] = 1
            out = self._decode_dense(unit)
            rows.append((out[:-1] - out[-1:]).to(latents.device))
        return torch.cat(rows) if rows else torch.zeros(0, self.info.d_out, dtype=self._dtype, device=latents.device)

    def _decode_dense(self, latents: Tensor) -> Tensor:
        with evaluating(self.module):
            out = self.module.decode(latents)
        if not isinstance(out, Tensor) or out.shape != (len(latents), self.info.d_out):
            raise CoderError(
                f"{self.info.name}: decode must return a tensor of shape {[len(latents), self.info.d_out]}, "
                f"but it returned {list(out.shape) if isinstance(out, Tensor) else type(out).__name__}"
            )
        return out


@dataclass(frozen=True)
class Unsized:
    """A dense module that does not say how wide its input is: the language model's width at its hook point settles it.

    ``info`` holds 0 for what is not known yet: ``n_latents``, ``d_in`` and ``d_out``. ``hook_out`` is the hook point
    that the module was told to predict, None where it predicts what it reads.
    """

    module: Any
    info: CoderInfo
    hook_out: str | None = None

    def of_width(self, d_in: int, model: str | None = None) -> DenseCoder:
        """The coder that reads ``d_in`` numbers a token, which ``model`` has there. Raises CoderError."""
        name, hook = self.info.name, self.info.hooks_in[0]
        latents, out = _probe(self.module, name, d_in, f", as wide as {hook} of {model}" if model else "")
        if self.hook_out is None and out.shape[1] != d_in:
            raise CoderError(
                f"{name} turns {d_in} numbers into {out.shape[1]}: if it predicts another hook point than it reads, "
                "give hook_out=... (or --hook-out)"
            )
        warnings.warn(
            f"{name} is wrapped: its dense latents cost memory and time that sparse codes do not", stacklevel=3
        )
        provenance = {**self.info.provenance, **({"width_of": f"{hook} of {model}"} if model else {})}
        n, d_out = latents.shape[1], out.shape[1]
        info = dataclasses.replace(self.info, n_latents=n, d_in=d_in, d_out=d_out, provenance=provenance)
        return DenseCoder(self.module, info)

    def no_width(self) -> CoderError:
        """What to say where there is neither a width nor a language model that would settle it."""
        return CoderError(
            f"{self.info.name} does not say how wide its input is: give a language model (--model), whose width at "
            f"{self.info.hooks_in[0]} it then takes, or d_in=... from Python, or its object an attribute d_in"
        )


def class_name(thing: Any) -> str:
    """What an object is called that has no name of its own: ``module.Class``."""
    return f"{type(thing).__module__}.{type(thing).__qualname__}".replace(".<locals>", "")


def as_coder(
    sae: Any, *, name: str | None = None, d_in: int | None = None, hook: str | None = None, hook_out: str | None = None
) -> SparseCoder:
    """``sae`` itself if it conforms to the protocol, else a wrapper around its dense ``encode`` and ``decode``.

    For a dense module ``hook`` is needed; ``d_in`` is read from its decoder or configuration if it is not given, and
    ``name`` is ``module.Class`` by default. Raises CoderError.
    """
    found = coder_or_unsized(sae, name=name, d_in=d_in, hook=hook, hook_out=hook_out)
    if isinstance(found, Unsized):
        raise found.no_width()
    return found


def coder_or_unsized(
    sae: Any, *, name: str | None = None, d_in: int | None = None, hook: str | None = None, hook_out: str | None = None
) -> SparseCoder | Unsized:
    """As :func:`as_coder`, but a dense module whose width nobody says waits for a language model. Raises CoderError."""
    kind = type(sae).__name__
    if (wrapped := wrapped_in(sae)) is not None:
        raise CoderError(f"the SAE is {wrapped}")
    if isinstance(sae, SparseCoder) and not isinstance(sae, type):
        if not isinstance(sae.info, CoderInfo):
            raise CoderError(f"{kind}.info must be a sae_bench.CoderInfo, but it is a {type(sae.info).__name__}")
        return sae
    if isinstance(sae, type) or not (callable(getattr(sae, "encode", None)) and callable(getattr(sae, "decode", None))):
        what = f"the class {sae.__name__} is no object" if isinstance(sae, type) else f"{kind} has not"
        raise CoderError(f"an SAE must be an object with encode and decode methods, but {what}")
    name = name or class_name(sae)
    hook = hook or hook_of(sae)
    if hook is None:
        raise CoderError(f"{name} does not say where it reads the model: give hook_in=... (--hook-in)")
    trained = trained_as(sae)
    info = CoderInfo(
        name=name,
        n_latents=0,
        d_in=0,
        d_out=0,
        hooks_in=(hook,),
        hooks_out=(hook_out or hook,),
        architecture=trained or kind,
        signed=True,  # unknown, so nothing may assume that latents are positive
        format="dense module",
        provenance={"class": class_name(sae), **({INFERENCE: kind} if trained else {})},
    )
    unsized = Unsized(sae, info, hook_out)
    said = d_in if d_in is not None else d_in_of(sae)
    if said is not None:
        return unsized.of_width(said)
    decoder = getattr(sae, "W_dec", None)
    if isinstance(decoder, Tensor) and decoder.ndim == 2:
        # A hint and no word of the module: some keep the decoder as [d_out, n_latents], for which the model decides.
        with contextlib.suppress(CoderError):
            return unsized.of_width(decoder.shape[1])
    return unsized


def _probe(sae: Any, name: str, d_in: int, why: str) -> tuple[Tensor, Tensor]:
    """Latents and reconstruction of two tokens of zeros, of plausible shapes. Raises CoderError.

    ``why`` says where the width ``d_in`` comes from.
    """
    dtype, device = _parameter_type(sae)
    if device.type == "meta":
        raise CoderError(f"the parameters of {name} are on the meta device, without values: load its weights first")
    try:
        with evaluating(sae):
            latents = sae.encode(torch.zeros(2, d_in, dtype=dtype, device=device))
            out = sae.decode(latents) if isinstance(latents, Tensor) else None
    except Exception as error:
        raise CoderError(f"{name} fails on two tokens of {d_in} zeros{why}: {named(error)}") from error
    if not (_is_pair(latents) and isinstance(out, Tensor) and _is_pair(out)):
        raise CoderError(
            f"{name}: encode must turn [tokens, {d_in}] into [tokens, n_latents] and decode must turn that into "
            "[tokens, d_out]"
        )
    return latents, out


def _is_pair(tensor: Any) -> bool:
    return isinstance(tensor, Tensor) and tensor.ndim == 2 and len(tensor) == 2


@as_declared()
def content_sha256(coder: SparseCoder) -> str:
    """Digest of an SAE that has no files: of its tensors and numbers, and of what it does with a fixed probe.

    The probe alone would miss a latent that does not fire on it, and tensors and numbers alone what code does with
    them; it comes in several sizes, since a threshold decides nothing about what is far from it. Of the probe only sums
    count, to four digits: its last bits depend on threads and on where memory begins. A number that the SAE
    itself changes while it runs (a counter) names another SAE each time, unless its name begins with an underscore.
    """
    info = coder.info
    digest = hashlib.sha256(repr((info.n_latents, info.d_in, info.d_out, info.hooks_in, info.hooks_out)).encode())
    for name, value in _state(coder):
        digest.update(f"{name} {[value.dtype, *value.shape] if isinstance(value, Tensor) else value}\n".encode())
        if isinstance(value, Tensor):
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    drawn: dict[str, Any] = {"generator": torch.Generator().manual_seed(0), "device": "cpu"}  # whatever the default is
    probe = torch.randn(_PROBE_LATENTS, info.d_in, dtype=torch.float32, **drawn)
    latents = torch.randint(max(info.n_latents, 1), (_PROBE_LATENTS if info.n_latents else 0,), **drawn)
    with evaluating(coder):
        rows = coder.decoder_rows(latents)
    weight = 1 + torch.rand(max(info.n_latents, info.d_in, info.d_out), dtype=torch.float64, **drawn)
    digest.update(_summary(rows, weight[: info.d_out]))
    x = torch.cat([probe * size for size in _PROBE_SIZES]).to(rows.device)
    with evaluating(coder):
        codes = coder.encode(x)
    of_size = codes.token_of_entry() // _PROBE_LATENTS
    for i, out in enumerate(decode(coder, codes, x).tensor_split(len(_PROBE_SIZES))):
        own = of_size == i
        digest.update(_summary(codes.values[own], weight[codes.indices[own].cpu()]))
        digest.update(_summary(out, weight[: info.d_out]))
    return digest.hexdigest()


def _summary(values: Tensor, weight: Tensor) -> bytes:
    """Weighted sums of the positive and of the negative ones of ``values``, to four digits."""
    sums = values.detach().cpu().double() * weight
    return f"{float(sums.clamp(min=0).sum()):.4g} {float(sums.clamp(max=0).sum()):.4g}\n".encode()


def _state(coder: SparseCoder) -> Iterator[tuple[str, Any]]:
    """Tensors and plain numbers by name: of modules, of records, and the tensors among an object's attributes."""
    whole = isinstance(coder, torch.nn.Module)
    yield from _values("", coder) if whole else ()
    for name, value in sorted(getattr(coder, "__dict__", {}).items()) if not whole else ():
        if isinstance(value, Tensor):
            yield name, value
        elif not name.startswith("_") and name != "info":
            yield from _values(f"{name}.", value)


def _values(prefix: str, owner: Any) -> Iterator[tuple[str, Any]]:
    """What a module or a record holds; nothing of other objects, which may count or keep what they have done."""
    found: dict[str, Any] = {}
    if isinstance(owner, torch.nn.Module):
        found |= owner.state_dict()
        found |= {f"{path}.{name}": v for path, module in owner.named_modules() for name, v in vars(module).items()}
    elif dataclasses.is_dataclass(owner) and not isinstance(owner, type):
        found |= vars(owner)
    for name, value in sorted(found.items()):
        last = name.rpartition(".")[2]
        if isinstance(value, Tensor | bool | int | float) and not last.startswith("_") and last != "training":
            yield prefix + name, value


def _parameter_type(module: Any) -> tuple[torch.dtype, torch.device]:
    tensors = itertools.chain(module.parameters(), module.buffers()) if isinstance(module, torch.nn.Module) else ()
    first = next((t for t in tensors if t.is_floating_point()), None)
    return (torch.float32, torch.device("cpu")) if first is None else (first.dtype, first.device)
