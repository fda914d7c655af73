"""The residual channels at a hook point as if they were a coder: what sets floor and ceiling of other tasks."""

from __future__ import annotations

import torch

from sae_bench.engine.workspace import Entry, Workspace
from sae_bench.saes.control_coders import ChannelCoder
from sae_bench.saes.protocol import CoderInfo


def channels_key(hook: str) -> str:
    """The key under which the residual channels at a hook point are measured."""
    return f"@{hook}/channels"


def channels_entry(work: Workspace, hook: str) -> Entry:
    """All residual channels, as deviations from their mean, as a coder."""
    mean = work.moments[hook].mean
    width = len(mean)
    info = CoderInfo(f"channels of {hook}", width, width, width, (hook,), (hook,), signed=True)
    dtype = torch.float64 if work.subject.dtype == torch.float64 else torch.float32
    return Entry(channels_key(hook), "channels", ChannelCoder(info, mean.to(dtype), width))


def is_identity(entry: Entry) -> bool:
    """Whether a coder gives back what it reads: its latents are the channels."""
    return entry.copies
