"""Random dictionaries on disk, the same file for every contender, and activations that they explain.

Directions are random unit vectors, the encoder is the decoder transposed. An activation is the sum of ``ACTIVE`` of
them with log-normal sizes, and noise: so there is a right answer, and pre-activations of all other latents are the bulk
that a selection has to pass over. Written in pieces: one million latents need no memory of their own.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
from harness import Clock

HOOK = "blocks.0.hook_resid_post"
ACTIVE = 32  # latents in an activation, and k
SIZE = 0.8  # mean of the logarithm of their sizes
PIECE = 8192


def make(folder: str, activation: str, latents: int, width: int, tokens: int, seed: int = 0) -> dict[str, Any]:
    """Below ``folder``: weights, both layouts' configurations, and ``activations.npy`` ``[tokens, width]``."""
    clock = Clock()
    with clock("write"):
        root = Path(folder)
        ours, theirs = root / "ours", root / "theirs"
        ours.mkdir(parents=True)
        theirs.mkdir()
        generator = np.random.default_rng([seed, latents, width])
        b_dec = generator.normal(0, 0.1, width).astype(np.float32)
        vectors = {"b_dec": b_dec, "b_enc": generator.normal(0, 0.02, latents).astype(np.float32)}
        x = b_dec + generator.normal(0, 0.05, (tokens, width)).astype(np.float32)
        if activation == "jumprelu":  # about four standard deviations of what latents get that are not in x
            bulk = math.exp(SIZE) * math.sqrt(ACTIVE / width)
            vectors["threshold"] = (bulk * generator.uniform(3.9, 4.4, latents)).astype(np.float32)
        shapes = {"W_enc": (width, latents), "W_dec": (latents, width)} | {k: v.shape for k, v in vectors.items()}
        file = _mapped(ours / "weights.safetensors", shapes)
        for name, vector in vectors.items():
            file[name][:] = vector
        chosen = generator.integers(latents, size=(tokens, ACTIVE))
        sizes = generator.lognormal(SIZE, 0.3, chosen.shape).astype(np.float32)
        for start in range(0, latents, PIECE):
            piece = generator.standard_normal((min(PIECE, latents - start), width), dtype=np.float32)
            piece /= np.linalg.norm(piece, axis=1, keepdims=True)
            file["W_dec"][start : start + len(piece)] = piece
            file["W_enc"][:, start : start + len(piece)] = piece.T
            token, place = np.nonzero((chosen >= start) & (chosen < start + len(piece)))
            np.add.at(x, token, piece[chosen[token, place] - start] * sizes[token, place, None])
        for tensor in file.values():
            tensor.flush()
        np.save(root / "activations.npy", x)
        (theirs / "sae_weights.safetensors").symlink_to(ours / "weights.safetensors")
        _configurations(ours, theirs, activation, latents, width)
    return {"parts": clock.parts}


def _mapped(path: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.memmap[Any, np.dtype[np.float32]]]:
    """An empty safetensors file of float32 tensors, mapped for writing."""
    header: dict[str, Any] = {}
    offset = 0
    for name, shape in shapes.items():
        size = 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        stream.truncate(8 + len(text) + offset)
    start = 8 + len(text)
    return {
        name: np.memmap(path, np.float32, "r+", start + header[name]["data_offsets"][0], shape)
        for name, shape in shapes.items()
    }


def _configurations(ours: Path, theirs: Path, activation: str, latents: int, width: int) -> None:
    topk = activation == "topk"
    native = {
        "format": "sae-bench",
        "format_version": 1,
        "activation": activation,
        **({"k": ACTIVE} if topk else {}),
        "apply_b_dec_to_input": topk,
        "d_in": width,
        "n_latents": latents,
        "hook_in": HOOK,
    }
    saelens = {
        "architecture": activation,
        **({"k": ACTIVE, "rescale_acts_by_decoder_norm": False} if topk else {}),
        "d_in": width,
        "d_sae": latents,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": topk,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"hook_name": HOOK, "model_name": "none"},
    }
    (ours / "sae_bench.json").write_text(json.dumps(native))
    (theirs / "cfg.json").write_text(json.dumps(saelens))
