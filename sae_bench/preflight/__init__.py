"""Before a run: is this SAE evaluated as it was trained?

A wrong hook point, scale, bias, threshold or token policy gives finite, plausible, wrong numbers, and some of them look
better than the right ones. A preflight measures FVU and L0 on a few hundred tokens as the SAE says, and again as if
each of the usual mistakes had been made (:mod:`sae_bench.preflight.hypotheses`). It reports the one or two that explain
the SAE clearly better (:mod:`sae_bench.preflight.verdict`), and changes nothing.
"""

from sae_bench.preflight.report import Preflight, lines, preflight
from sae_bench.preflight.text import Activations, Text, sample
from sae_bench.preflight.verdict import Finding

__all__ = ["Activations", "Finding", "Preflight", "Text", "lines", "preflight", "sample"]
