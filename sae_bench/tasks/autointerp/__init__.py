"""Autointerp: a language model explains latents, and tells by the explanations where they fire."""

from sae_bench.tasks.autointerp.task import Autointerp

__all__ = ["Autointerp"]
