"""Figures of a tiny GPT-2 by plain torch hooks: one sequence at a time, masks written out, nothing of the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Written:
    """One sequence as the model is to see it: which positions count, and which may be predicted."""

    ids: list[int]
    kept: list[bool]
    target: list[bool]


def written(ids: Sequence[int], special: Sequence[int] = (), *, first: bool = False, last: bool = True) -> Written:
    """All but ``special`` ids count, position 0 only with ``first``; with ``last`` the last id may be predicted."""
    kept = [token not in special and (place > 0 or first) for place, token in enumerate(ids)]
    return Written([int(i) for i in ids], kept, [True] * (len(ids) - 1) + [last])


def figures(model: Any, texts: Sequence[Written], decoder: Tensor, k: int) -> dict[str, float]:
    """FVU, L0 and cross-entropies of a TopK SAE behind block 1, with ``decoder`` ``[latents, d]`` as both matrices."""
    block = model.transformer.h[1]

    def output(ids: list[int], edit: Callable[[Tensor], Tensor] | None = None) -> tuple[Tensor, Tensor]:
        seen = []

        def hook(_: Any, __: Any, out: Any) -> Any:
            x = out[0] if isinstance(out, tuple) else out
            seen.append(x[0].clone())
            if edit is None:
                return None
            return (edit(x[0])[None], *out[1:]) if isinstance(out, tuple) else edit(x[0])[None]

        handle = block.register_forward_hook(hook)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0]
        handle.remove()
        return seen[0], logits

    def coded(x: Tensor) -> tuple[Tensor, Tensor]:
        z = (x @ decoder.T).relu()
        values, places = z.topk(k)
        codes = torch.zeros_like(z).scatter(1, places, values)
        return codes, codes @ decoder

    xs, errors, active, losses, n = [], [], [], {"ce_clean": 0.0, "ce_spliced": 0.0, "ce_zero": 0.0}, 0
    for text in texts:
        kept = torch.tensor(text.kept)
        x, _ = output(text.ids)
        codes, rebuilt = coded(x)
        xs.append(x[kept])
        errors.append((x - rebuilt)[kept].square().sum())
        active.append((codes[kept] != 0).sum())

        def spliced(x: Tensor, kept: Tensor = kept, rebuilt: Tensor = rebuilt) -> Tensor:
            return torch.where(kept[:, None], rebuilt, x)

        def zeroed(x: Tensor, kept: Tensor = kept) -> Tensor:
            return torch.where(kept[:, None], torch.zeros_like(x), x)

        scored = [p for p in range(len(text.ids) - 1) if text.kept[p] and text.target[p + 1]]
        n += len(scored)
        for name, edit in (("ce_clean", None), ("ce_spliced", spliced), ("ce_zero", zeroed)):
            logs = output(text.ids, edit)[1].log_softmax(1)
            losses[name] -= sum(float(logs[p, text.ids[p + 1]]) for p in scored)
    x = torch.cat(xs)
    variance = (x - x.mean(0)).square().sum()
    found = {"fvu": float(sum(errors) / variance), "l0": float(sum(active)) / len(x), "tokens": float(len(x))}
    return found | {name: loss / n for name, loss in losses.items()}
