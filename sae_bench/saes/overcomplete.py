"""SAEs of the library overcomplete (Fel et al. 2025), which saves pickled objects.

sae-bench opens no pickled objects, so the object comes from a factory of the user's own::

    # my_sae.py, for --sae my_sae:sae
    import torch
    from sae_bench.saes.overcomplete import wrap

    def sae():
        return wrap(torch.load("sae.pth", weights_only=False), hook="blocks.8.hook_resid_post", name="my-sae")
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sae_bench.errors import CoderError, named
from sae_bench.kernels.decode import sparse_decode
from sae_bench.saes.conformance import check
from sae_bench.saes.protocol import CoderInfo, Codes
from sae_bench.saes.wrap import DenseCoder, class_name

_TOKENS = 16


class _Encoder(nn.Module):
    """The object with ``encode`` as :class:`DenseCoder` calls it: of (pre_codes, codes) only the codes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def encode(self, x: Tensor) -> Any:
        """Codes ``[tokens, n_latents]``."""
        encoded: Any = self.model.encode(x)  # type: ignore[operator]
        return encoded[1] if isinstance(encoded, tuple) and len(encoded) == 2 else encoded

    def decode(self, codes: Tensor) -> Any:
        """Reconstruction ``[tokens, d_out]``."""
        return self.model.decode(codes)  # type: ignore[operator]


class OvercompleteCoder(DenseCoder):
    """A :class:`~sae_bench.saes.protocol.SparseCoder` around an object of overcomplete; see :func:`wrap`."""

    def __init__(self, model: nn.Module, info: CoderInfo, dictionary: Tensor) -> None:
        super().__init__(_Encoder(model), info)
        self.dictionary = dictionary

    @torch.no_grad()
    def decode(self, codes: Codes, x: Tensor | None = None) -> Tensor:
        """Reconstruction ``[tokens, d_out]``: codes times dictionary, and no bias."""
        device = self.dictionary.device
        values = codes.values.to(device, self.dictionary.dtype)
        out = sparse_decode(codes.indptr.to(device), codes.indices.to(device), values, self.dictionary)
        return out.to(codes.values.device)

    @torch.no_grad()
    def decoder_rows(self, latents: Tensor) -> Tensor:
        """Decoder directions ``[len(latents), d_out]``."""
        return self.dictionary[latents.to(self.dictionary.device)].to(latents.device)


def wrap(model: Any, *, hook: str, name: str | None = None) -> OvercompleteCoder:
    """An SAE of overcomplete as a coder that reads and explains ``hook``. Raises CoderError.

    Without ``name`` it is called ``module.factory`` where a factory returns it, else ``module.Class``.
    ``model`` is put into evaluation mode: in training, BatchNorm and BatchTopK depend on the other tokens of a batch,
    and the dictionary is normalised anew. ``top_k`` of its BatchTopK is the number of latents of a whole batch, so it
    says nothing about a token; ``running_threshold`` decides. The dictionary is read once, here.
    """
    kind = type(model).__name__
    missing = [
        member for member in ("encode", "decode", "get_dictionary") if not callable(getattr(model, member, None))
    ]
    if missing or not isinstance(model, nn.Module):
        raise CoderError(
            f"{kind} is no SAE of overcomplete: it lacks {', '.join(missing) or 'the base torch.nn.Module'}"
        )
    if hasattr(model, "running_threshold") and model.running_threshold is None:
        raise CoderError(
            f"{kind} has no running_threshold, which only training sets and its state_dict() does not hold; set it "
            "first: without one, latents depend on the batch"
        )
    dictionary = _dictionary(model, kind)
    info = CoderInfo(
        name=name or class_name(model),
        n_latents=dictionary.shape[0],
        d_in=dictionary.shape[1],
        d_out=dictionary.shape[1],
        hooks_in=(hook,),
        hooks_out=(hook,),
        architecture=kind,
        signed=not _ends_in_relu(model),
        format="overcomplete",
        provenance={"class": class_name(model), **_settings(model)},
    )
    coder = OvercompleteCoder(model, info, dictionary)
    _check(coder)
    return coder


def _dictionary(model: nn.Module, kind: str) -> Tensor:
    """The dictionary ``[n_latents, d_out]`` in evaluation mode, fused anew. Raises CoderError."""
    try:
        model.train().eval()  # an object in evaluation mode keeps the dictionary of the weights that it had then
        with torch.no_grad():
            dictionary = model.get_dictionary()  # type: ignore[operator]
    except Exception as error:
        raise CoderError(f"{kind}: its dictionary cannot be read: {named(error)}") from error
    if not isinstance(dictionary, Tensor) or dictionary.ndim != 2 or not dictionary.is_floating_point():
        raise CoderError(f"{kind}: get_dictionary() must return a matrix [n_latents, d_out]")
    if not bool(dictionary.isfinite().all()):
        raise CoderError(f"{kind}: its dictionary holds NaN or infinite numbers")
    return dictionary.detach().contiguous()


def _ends_in_relu(model: nn.Module) -> bool:
    """Whether codes cannot be negative, as far as the library's own classes show."""
    kind = type(model).__name__.removeprefix("RA")
    last = getattr(getattr(model, "encoder", None), "final_activation", None)
    return kind in ("JumpSAE", "QSAE") or (kind in ("SAE", "TopKSAE", "BatchTopKSAE") and isinstance(last, nn.ReLU))


def _settings(model: nn.Module) -> dict[str, Any]:
    """What the object keeps outside its state_dict and its latents depend on."""
    threshold, top_k = getattr(model, "running_threshold", None), getattr(model, "top_k", None)
    found = {"running_threshold": float(threshold)} if isinstance(threshold, int | float | Tensor) else {}
    return {**found, **({"top_k": top_k} if isinstance(top_k, int) else {})}


def _check(coder: OvercompleteCoder) -> None:
    """The contract, and that the object decodes with its dictionary, on random activations. Raises CoderError."""
    info, dictionary = coder.info, coder.dictionary
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(_TOKENS, info.d_in, generator=generator).to(dictionary)
    try:
        codes = coder.encode(x)
        problems = check(coder, x)
        theirs = coder.module.decode(codes.dense())
    except CoderError:
        raise
    except Exception as error:
        raise CoderError(f"{info.name} fails on {_TOKENS} tokens of {info.d_in} numbers: {named(error)}") from error
    ours = coder.decode(codes)
    if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5 * float(ours.abs().max())):
        problems.append("decode is not the product of codes and dictionary")
    if problems:
        raise CoderError(f"{info.name} cannot be evaluated: {'; '.join(problems)}")
