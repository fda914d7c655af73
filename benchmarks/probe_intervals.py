"""Do the intervals of the probe tasks say how far their figures move? Fresh draws of the demo's labelled texts.

``python benchmarks/probe_intervals.py`` measures two SAEs on ``--draws`` draws of texts, all with the same attributes,
and prints a Markdown table a row a figure: the spread of the figure over draws, and the standard error that one draw
prints for it; by itself and as a paired difference. Their quotient should be 1. Beside it stands what the error would
be of the test part alone, and with sets drawn too. With 40 draws a spread is known to 11 %, with 8 to 26 %.

The tasks run as in a run of sae-bench, without floor and ceiling, on texts that go through the demo model once a draw.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from sae_bench import demo
from sae_bench.kernels.pool import Entries, pool, pool_scores
from sae_bench.kernels.probes import Columns, columns
from sae_bench.registry import load, tasks
from sae_bench.saes.load import load_sae
from sae_bench.streams.labelled_tables import refit_rows
from sae_bench.streams.pooled import TrainWeights
from sae_bench.tasks.labelled import LabelledTask
from sae_bench.units import Units, nested
from sae_bench.units.bootstrap import Metric, quotient

FIGURES = {
    "probe_recovery": ("probe_r", "probe_loss", "probe_auroc", "probe_write", "probe_features"),
    "sparse_probing": ("auroc_k1", "auroc_k16"),
}
PARTS = ("train", "test")
FEWEST = 8  # examples of each class in each part
Errors = dict[str, float]


@dataclass
class View:
    """One labelled set as one SAE sees it: what a task on labelled texts reads."""

    set_name: str
    y: dict[str, Tensor]
    pooled: dict[str, Columns]
    weights: Tensor
    along: Tensor  # what the test texts say along the direction of each latent
    n_latents: int
    seed: int = 0
    dense: bool = False
    memo: dict[Any, Any] = field(default_factory=dict)

    def labels(self, part: str) -> Tensor:
        return self.y[part]

    def columns(self, part: str, pooling: str) -> Columns:
        assert pooling == "max"
        return self.pooled[part]

    def written(self, latents: Tensor, pooling: str) -> Tensor:
        assert pooling == "max"
        return self.along[:, latents]

    def density(self, latents: Tensor) -> Tensor:
        return torch.zeros(len(latents), dtype=torch.float64)

    def train_weights(self, count: int) -> Tensor:
        assert count == len(self.weights)
        return self.weights


@torch.no_grad()
def pooled_codes(texts: list[str], saes: list[Any], model: Any, tokenizer: Any) -> list[tuple[Tensor, Tensor]]:
    """Codes ``[texts, latents]`` of every SAE and what texts say along its directions, both the largest over tokens."""
    layer = int(demo.HOOK.split(".")[1]) + 1
    longest = model.config.n_positions
    rows = [[tokenizer.bos_token_id, *ids] for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    rows = [ids[:longest] for ids in rows]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    shapes = [(len(texts), sae.info.n_latents) for sae in saes]
    found = [(torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)) for shape in shapes]
    rows_of = [sae.decoder_rows(torch.arange(sae.info.n_latents)).double() for sae in saes]
    for start in range(0, len(order), 64):
        some = order[start : start + 64]
        width = max(len(rows[i]) for i in some)
        ids, keep = torch.zeros(len(some), width, dtype=torch.long), torch.zeros(len(some), width, dtype=torch.bool)
        for place, i in enumerate(some):
            ids[place, : len(rows[i])] = torch.tensor(rows[i])
            keep[place, 1 : len(rows[i])] = True
        x = model(ids, output_hidden_states=True).hidden_states[layer][keep]
        size = keep.sum(1)
        text = torch.arange(len(some)).repeat_interleave(size)
        for sae, directions, (out, along) in zip(saes, rows_of, found, strict=True):
            along[torch.tensor(some)] = pool_scores(x.double() @ directions.T, size, "max", signed=False)
            codes = sae.encode(x)
            entries = Entries(text[codes.token_of_entry()], codes.indices, codes.values)
            own = pool(entries, "max", sae.info.n_latents, size)
            out[torch.tensor(some)[own.texts.long()], own.latents.long()] = own.values.double()
    return found


def sparse(z: Tensor) -> Columns:
    rows, latents = z.nonzero(as_tuple=True)
    return columns(rows, latents, z[rows, latents], len(z))


def table(task: LabelledTask, views: list[View], texts: list[str]) -> Units:
    """The examples of all sets, and the rows of their refits."""
    ids: list[str] = []
    parts: list[dict[str, Any]] = []
    for view in views:
        rows = {name: column.numpy() for name, column in task.examples(view)[0].items()}
        refits = {name: column.numpy() for name, column in (task.refits(view) or {}).items()}
        ids += [f"{view.set_name}@d:{text}" for text in texts]
        ids += [f"{view.set_name}@d:{nested.refit_name(r)}" for r in range(task.n_refits)]
        parts += [rows, refit_rows(refits, rows, task.n_refits)]
    return Units(tuple(ids), {name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def measured(options: argparse.Namespace, made: list[LabelledTask]) -> Iterator[list[list[nested.Draws]]]:
    """For each draw of texts, what the figures of each SAE and task are made of."""
    saes = [load_sae(name) for name in options.saes]
    model = AutoModelForCausalLM.from_pretrained(demo.MODEL_PATH, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(demo.MODEL_PATH)
    attributes = list(demo.ATTRIBUTES)[: options.sets]
    n = options.train + options.test
    for number in range(options.draws):
        texts = list({d.text: d for d in demo.documents(2 * n, seed=options.seed + number)}.values())[:n]
        codes = pooled_codes([d.text for d in texts], saes, model, tokenizer)
        side = {"train": slice(options.train), "test": slice(options.train, n)}
        ids = tuple(f"{number}-{i}" for i in range(n))
        weights = torch.from_numpy(TrainWeights(ids[: options.train], 0).of(made[0].n_refits))
        labels = {a: torch.tensor([bool(d.attributes[a]) for d in texts]) for a in attributes}
        sets = {
            a: {part: y[side[part]] for part in PARTS}
            for a, y in labels.items()
            if all(FEWEST <= int(y[s].sum()) <= int(s.stop or n) - (s.start or 0) - FEWEST for s in side.values())
        }
        found = []
        for (z, along), sae in zip(codes, saes, strict=True):
            own = {part: sparse(z[side[part]]) for part in PARTS}
            views = [View(a, y, own, weights, along[side["test"]], sae.info.n_latents) for a, y in sets.items()]
            tables = [table(task, views, list(ids[options.train :])) for task in made]
            found.append([nested.draw(t, seed=0, resamples=options.resamples) for t in tables])
        yield found


def drawn(draws: nested.Draws, metric: Metric, kind: str) -> tuple[float, np.ndarray[Any, np.dtype[np.float64]]]:
    """The figure and its replicates: as printed, or with the sets drawn too."""
    points = [metric(sums) for sums in draws.points]
    value = nested.mean_over_sets(points, np.ones((1, len(points))))
    weights = draws.of_sets if kind == "over sets" else draws.weights
    return float(quotient(value)[0]), quotient(nested.replicates_of(draws, metric, points, weights))


def error(replicates: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    return float(replicates[np.isfinite(replicates)].std(ddof=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--saes", nargs=2, default=["demo/topk_k32", "demo/jumprelu"])
    parser.add_argument("--draws", type=int, default=40)
    parser.add_argument("--sets", type=int, default=len(demo.ATTRIBUTES), help="the first so many attributes")
    parser.add_argument("--train", type=int, default=350)
    parser.add_argument("--test", type=int, default=250)
    parser.add_argument("--resamples", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    made: list[LabelledTask] = [load(tasks()[name].code)(tasks()[name]) for name in FIGURES]
    rows: dict[tuple[str, str], list[tuple[float, Errors]]] = {}
    begun = time.process_time()
    for number, found in enumerate(measured(options, made), 1):
        for i, (task, figures) in enumerate(zip(made, FIGURES.values(), strict=True)):
            for name in figures:
                one, other = (
                    {kind: drawn(own[i], task.metrics[name], kind) for kind in ("printed", "over sets")}
                    for own in found
                )
                single = {kind: error(replicates) for kind, (_, replicates) in one.items()}
                pair = {kind: error(other[kind][1] - one[kind][1]) for kind in one}
                rows.setdefault((name, "one SAE"), []).append((one["printed"][0], single))
                rows.setdefault((name, "pair"), []).append((other["printed"][0] - one["printed"][0], pair))
        if number % 10 == 0 or number == options.draws:
            print(f"{number} draws, {time.process_time() - begun:.0f} s of CPU\n")
            print_table(rows)


def print_table(rows: dict[tuple[str, str], list[tuple[float, Errors]]]) -> None:
    print("| figure | of | value | spread over draws | printed error | spread / printed | with sets drawn |")
    print("|---|---|---|---|---|---|---|")
    for (name, of), values in rows.items():
        spread = float(np.std([value for value, _ in values], ddof=1))
        printed, wide = (
            float(np.mean([errors[kind] ** 2 for _, errors in values]) ** 0.5) for kind in ("printed", "over sets")
        )
        mean = float(np.mean([value for value, _ in values]))
        print(f"| `{name}` | {of} | {mean:.4f} | {spread:.4f} | {printed:.4f} | {spread / printed:.2f} | {wide:.4f} |")
    print(flush=True)


if __name__ == "__main__":
    main()
