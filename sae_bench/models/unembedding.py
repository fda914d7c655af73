"""The direct path from a direction of the residual stream to the logits: the output head alone."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from sae_bench.models.subject import SubjectModel

# Hook points whose channels are those of the residual stream; elsewhere an equal width would be chance.
_RESIDUAL = re.compile(r"(hook_embed|blocks\.\d+\.(hook_resid_(pre|mid|post)|hook_mlp_out|hook_attn_out))$")


def direct_logits(subject: SubjectModel, hook: str, directions: Tensor, vocabulary: int) -> Tensor | None:
    """``d W_U`` of each direction ``[n, d_model]``, less its mean over the vocabulary, float64 ``[n, vocabulary]``.

    What a direction would add to the logits if neither the blocks behind it nor the final norm were there. None where
    the hook point does not carry the residual stream, or the model has no linear output head.
    """
    get_head = getattr(subject.model, "get_output_embeddings", None)
    weight = getattr(get_head() if callable(get_head) else None, "weight", None)
    if not _RESIDUAL.match(hook) or not isinstance(weight, Tensor) or weight.shape[1] != directions.shape[1]:
        return None
    head = weight[:vocabulary].detach()
    with torch.no_grad():
        logits = (directions.to(head.device, torch.float32) @ head.float().T).double()
    return logits - logits.mean(1, keepdim=True)
