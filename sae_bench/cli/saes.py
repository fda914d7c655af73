"""What verbs that read an SAE have in common: help, flags that say what its files do not, and how warnings look."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sae_bench.registry import BACKENDS

SAE_HELP = (
    "folder or file of an SAE, demo, demo/NAME, 'demo/*', hf:OWNER/REPO[/PATH][@REVISION], saelens:RELEASE/ID or "
    "module:factory; '#16' behind it: the nested dictionary of 16 latents, '#*': all of them"
)

# without entry points, which --help need not look for
BACKEND_HELP = f"{', '.join(f'{e.name} ({e.description})' for e in BACKENDS)}, or another (see: sae-bench ls backends)"


def add_told(group: Any) -> None:
    """Flags for what the files of an SAE leave open; they also override what the files say."""
    group.add_argument("--format", metavar="NAME", help="layout, where it cannot be told (see: sae-bench ls formats)")
    group.add_argument("--hook-in", metavar="HOOK", help="hook point that the SAE reads, such as "
                       "blocks.8.hook_resid_post or model.layers.8.mlp:in")  # fmt: skip
    group.add_argument("--hook-out", metavar="HOOK", help="hook point that the SAE predicts (transcoders)")
    group.add_argument("--layer", type=int, metavar="N", help="block, where the files name a site but no layer")
    group.add_argument("--threshold", type=float, metavar="X",
                       help="activation threshold of all latents, where none is stored (BatchTopK)")  # fmt: skip
    group.add_argument("--norm-factor", type=float, metavar="X", help="what activations are multiplied with before "
                       "the encoder; the reconstruction is divided by it")  # fmt: skip
    group.add_argument("--k", type=int, metavar="N", help="latents kept of a token, where it is not stored (TopK)")


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Warnings as single lines on standard error, each once."""
    from sae_bench.show.text import line

    said: set[str] = set()

    def show(message: Warning | str, *rest: Any, **more: Any) -> None:
        if str(message) not in said:
            said.add(str(message))
            print(line(f"sae-bench: {message}"), file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield
