"""Reference outputs of the real libraries, as assertions on a coder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from sae_bench.saes.conformance import check
from sae_bench.saes.protocol import SparseCoder

RTOL = 1e-5  # of the largest entry


def flat(array: np.ndarray) -> np.ndarray:
    """``[tokens, heads, d_head]`` as the coder sees it: ``[tokens, heads * d_head]``."""
    return array.reshape(len(array), -1)


def assert_close(ours: torch.Tensor, theirs: np.ndarray, rtol: float = RTOL) -> None:
    ours_np = ours.numpy()
    assert ours_np.shape == theirs.shape
    assert np.abs(ours_np - theirs).max() <= rtol * max(np.abs(theirs).max(), 1e-12)


def assert_matches_fixture(
    folder: Path, coder: SparseCoder, *, latents: str = "latents", reconstruction: str = "reconstruction"
) -> None:
    """Same active latents, same values, same reconstruction as the library; and the coder keeps the contract."""
    reference = np.load(folder / "reference.npz")
    x = torch.from_numpy(flat(reference["x"]).astype(np.float32))
    expected = reference[latents]
    codes = coder.encode(x)
    dense = codes.dense()
    assert np.array_equal(dense.numpy() != 0, expected != 0), "another set of latents is active"
    assert_close(dense, expected)
    assert_close(coder.decode(codes, x), flat(reference[reconstruction]))
    assert check(coder, x) == []
    assert float(x.abs().max()) > 0
    assert len(codes.indices) > 0
