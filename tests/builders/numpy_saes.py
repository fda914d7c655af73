"""The arithmetic of SAEs once more, in plain numpy and float64, and random weights for files of any layout."""

from __future__ import annotations

import numpy as np
import torch

from sae_bench.saes.conformance import check
from sae_bench.saes.protocol import SparseCoder

Arrays = dict[str, np.ndarray]
D, M = 6, 20
TOKENS = 40


def arrays(seed: int = 0, *, d_in: int = D, n_latents: int = M, d_out: int | None = None) -> Arrays:
    """float32; decoder rows of unequal norms, biases that are not zero, thresholds that some latents reach."""
    rng = np.random.default_rng(seed)
    d_out = d_in if d_out is None else d_out
    made = {
        "W_enc": rng.normal(size=(d_in, n_latents)) / np.sqrt(d_in),
        "W_dec": rng.normal(size=(n_latents, d_out)) * rng.uniform(0.4, 1.6, size=(n_latents, 1)),
        "b_enc": rng.normal(size=n_latents) * 0.2,
        "b_dec": rng.normal(size=d_out) * 0.4,
        "threshold": rng.uniform(0.2, 0.9, size=n_latents),
        "W_skip": rng.normal(size=(d_out, d_in)),
    }
    return {name: array.astype(np.float32) for name, array in made.items()}


def tokens(seed: int = 7, d_in: int = D) -> np.ndarray:
    """Activations ``[tokens, d_in]`` with a mean, float32."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(TOKENS, d_in)) * 1.5 + rng.normal(size=d_in)).astype(np.float32)


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def jump(pre: np.ndarray, threshold: np.ndarray | float) -> np.ndarray:
    """0 or 1: what a JumpReLU lets pass."""
    return (pre > threshold) & (pre > 0)


def largest(scores: np.ndarray, k: int) -> np.ndarray:
    """0 or 1: the k largest of every row."""
    kept = np.zeros_like(scores)
    np.put_along_axis(kept, np.argsort(-scores, axis=1)[:, :k], 1, axis=1)
    return kept


def assert_codes(coder: SparseCoder, x: np.ndarray, latents: np.ndarray, reconstruction: np.ndarray) -> None:
    """The coder gives these latents and this reconstruction, and keeps its contract."""
    given = torch.from_numpy(x)
    codes = coder.encode(given)
    dense = codes.dense().numpy()
    assert np.array_equal(dense != 0, latents != 0), "another set of latents is active"
    assert 0 < (latents != 0).mean() < 1, "the test's weights let nothing or everything fire"
    np.testing.assert_allclose(dense, latents, rtol=1e-5, atol=1e-5 * np.abs(latents).max())
    decoded = coder.decode(codes, given).numpy()
    np.testing.assert_allclose(decoded, reconstruction, rtol=1e-5, atol=1e-5 * np.abs(reconstruction).max())
    assert check(coder, given) == []
