"""How concentrated the downstream effects of an intervention are over the (token, logit) pairs that it can reach.

Gao et al. 2024, "Scaling and evaluating sparse autoencoders", section 4.5: the differences ``D`` of the logits with and
without one latent, at the ablated position and the tokens behind it, give ``(sum |D|)^2 / (entries * sum D^2)``, which
runs from 1/entries (one logit of one token moves) to 1 (all move by the same amount). Logits are only defined up to a
constant per token, so the median over the vocabulary is taken off first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Floats = npt.NDArray[np.floating]
Centre = Literal["median", "lower_median", "none"]

CHUNK_ELEMENTS = 1 << 17  # 1 MiB in float64: stays in a core's cache
ACCELERATOR_CHUNK_ELEMENTS = 1 << 24


@dataclass(frozen=True)
class Effects:
    """Sums over the logit differences of each ablation, float64.

    token_l1, token_l2_squared: ``[ablations, tokens]``, sums of ``|D|`` and ``D^2`` over the vocabulary, 0 for tokens
    that are not valid; tokens: ``[ablations]``, valid tokens; vocabulary: logits per token.
    """

    token_l1: Tensor
    token_l2_squared: Tensor
    tokens: Tensor
    vocabulary: int

    @property
    def l1(self) -> Tensor:
        """``sum |D|`` over tokens and vocabulary, ``[ablations]``."""
        return self.token_l1.sum(1)

    @property
    def l2_squared(self) -> Tensor:
        """``sum D^2`` over tokens and vocabulary, ``[ablations]``."""
        return self.token_l2_squared.sum(1)

    @property
    def entries(self) -> Tensor:
        """Number of (token, logit) pairs, ``[ablations]``."""
        return self.tokens * self.vocabulary

    @property
    def sparsity(self) -> Tensor:
        """Effective fraction of (token, logit) pairs that are affected, ``[ablations]``, lower is sparser.

        From 1/entries to 1; 2/pi for independent Gaussian differences. NaN without any effect: 0/0.
        """
        return self.l1.square() / (self.l2_squared * self.entries)


def effect_sparsity(diff: Tensor, valid: Tensor | None = None, *, centre: Centre = "median") -> Effects:
    """Sum up logit differences ``[ablations, tokens, vocabulary]``, float32 or float64.

    valid: bool ``[ablations, tokens]``, False where a sequence has no such token; None counts all. centre: what is
    subtracted from each token's differences. "median" is the mean of the two middle values where the vocabulary is
    even, so that an effect and its opposite score the same, which is not so with the "lower_median" that
    ``torch.median`` gives. Raises ValueError for other shapes and dtypes: in half precision the rounding of the logits
    is itself a dense difference.
    """
    if diff.ndim != 3 or diff.dtype not in (torch.float32, torch.float64) or 0 in diff.shape[1:]:
        raise ValueError(
            "logit differences must be float32 or float64 [ablations, tokens, vocabulary] with a token and a logit, "
            f"not {diff.dtype} {list(diff.shape)}"
        )
    if centre not in ("median", "lower_median", "none"):
        raise ValueError(f"centre must be 'median', 'lower_median' or 'none', not {centre!r}")
    n, n_tokens, vocabulary = diff.shape
    if valid is None:
        valid = torch.ones(n, n_tokens, dtype=torch.bool, device=diff.device)
    if valid.shape != (n, n_tokens) or valid.dtype != torch.bool:
        raise ValueError(f"valid must be bool {[n, n_tokens]}, not {valid.dtype} {list(valid.shape)}")
    flat = diff.detach().reshape(-1, vocabulary)
    kept = valid.to(diff.device).flatten().nonzero().squeeze(1)
    sums = torch.zeros(2, len(flat), dtype=torch.float64, device=diff.device)
    on_cpu = diff.device.type == "cpu"
    step = max(1, (CHUNK_ELEMENTS if on_cpu else ACCELERATOR_CHUNK_ELEMENTS) // vocabulary)
    for rows in torch.split(kept, step):
        if on_cpu:
            sums[:, rows] = torch.from_numpy(_sums_on_cpu(flat.numpy()[rows.numpy()], centre))
        else:
            sums[:, rows] = _sums_on_accelerator(flat[rows], centre)
    token_l1, token_l2_squared = sums.reshape(2, n, n_tokens)
    return Effects(token_l1, token_l2_squared, valid.sum(1).to(sums), vocabulary)


def centred(logits: Tensor, centre: Centre = "median") -> Tensor:
    """Rows ``[n, vocabulary]`` less what ``centre`` says, float64: as :func:`effect_sparsity` sees them."""
    if logits.device.type == "cpu":
        return torch.from_numpy(_centred_on_cpu(logits.detach().numpy(), centre))
    return _centred_on_accelerator(logits.detach(), centre)


def _sums_on_cpu(x: Floats, centre: Centre) -> Floats:
    """Return ``sum |D|`` and ``sum D^2`` of each row, ``[2, rows]``."""
    d = _centred_on_cpu(x, centre)
    np.abs(d, out=d)
    return np.stack([d.sum(axis=1), np.einsum("rc,rc->r", d, d)])


def _centred_on_cpu(x: Floats, centre: Centre) -> Floats:
    """Return the rows less their centre.

    In NumPy: its selection is vectorised, some 12 times faster than ``torch.median`` over 50,000 columns, and one
    thread does not stall on a machine that other work keeps busy.
    """
    d = x.astype(np.float64)
    if centre != "none":
        middle = x.shape[1] // 2
        # one pivot only: a partition around both middle values takes a slow path
        parted = np.partition(x, middle, axis=1)
        median = parted[:, middle].astype(np.float64)
        if x.shape[1] % 2 == 0:
            below = parted[:, :middle].max(axis=1)
            median = below if centre == "lower_median" else (below + median) / 2
        d -= median[:, None]
    return d


def _sums_on_accelerator(x: Tensor, centre: Centre) -> Tensor:
    """Return the same as `_sums_on_cpu` with operations that every device has."""
    d = _centred_on_accelerator(x, centre)
    return torch.stack([d.abs().sum(1), d.square().sum(1)])


def _centred_on_accelerator(x: Tensor, centre: Centre) -> Tensor:
    d = x.double()
    if centre != "none":
        middle = x.shape[1] // 2
        median = x.kthvalue(middle + 1, dim=1).values.double()
        if x.shape[1] % 2 == 0:
            below = x.kthvalue(middle, dim=1).values.double()
            median = below if centre == "lower_median" else (below + median) / 2
        d = d - median[:, None]
    return d
