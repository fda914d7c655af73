"""Faults of evaluation, planted into healthy SAEs: a preflight names them, and raises no alarm without one."""

from __future__ import annotations

import copy
import dataclasses
import sys
import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from sae_bench import demo
from sae_bench.data.documents import DataOptions, load_corpus
from sae_bench.engine.workspace import Entry
from sae_bench.models.loading import load_subject
from sae_bench.models.subject import SubjectModel
from sae_bench.preflight import Activations, Preflight, Text, preflight, sample
from sae_bench.preflight.measure import threshold_for
from sae_bench.saes.linear import LinearCoder
from sae_bench.saes.load import load_sae
from tests.builders.marks import slow_but
from tests.builders.planted import Planted, matters, planted
from tests.builders.planted_saes import Healthy, changed, train

TOKENS = 160
OF_LM = ("gated_b1_2048", "jumprelu_b1_2048", "topk32_b2_2048")
EVERYTHING = ("transcoder", "BatchTopK", "signed")  # of the variants: those that get faults that all SAEs can have too
FAULTS_OF_LM = (
    *("b_dec not subtracted", "norm factor ignored", "scaled in, not out", "hidden state off by one"),
    *("BOS before texts, or not", "position 0 counted", "threshold unset", "SAE of another model"),
)


def read(subject: SubjectModel, tokenizer: object, data: str | Path, n_tokens: int, *, skip: int = 0) -> Activations:
    """The first tokens behind ``skip`` documents, with BOS."""
    options = DataOptions(context=128, limit=128, prepend_bos=False, mean_from_evaluation=True)
    corpus = load_corpus(data, tokenizer=tokenizer, vocab_size=subject.vocab_size, options=options)
    tokens = corpus.evaluation
    sequences = sample([tokens[i] for i in range(skip, len(tokens))], n_tokens, 0, 128)
    return Activations(subject, Text(tuple(sequences), begins_with_bos=True, bos=0, special=frozenset({0})))


def look(coder: LinearCoder, activations: Activations) -> Preflight:
    """A preflight of a coder in memory."""
    return preflight(Entry(coder.info.name, coder.info.name, coder), activations)


@pytest.fixture(scope="module")
def world() -> tuple[SubjectModel, object]:
    return load_subject(demo.MODEL_PATH)


@pytest.fixture(scope="module")
def activations(world: tuple[SubjectModel, object]) -> Activations:
    return read(*world, "demo", TOKENS)


@pytest.fixture(scope="module")
def demos(activations: Activations) -> list[Healthy]:
    return [Healthy(name, load_sae(f"demo/{name}"), activations) for name in demo.SAE_NAMES]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def variants(world: tuple[SubjectModel, object], activations: Activations) -> list[Healthy]:
    """SAEs of other sites and kinds, each trained for a second."""
    many = read(*world, "demo", 3000, skip=12)

    def made(hook: str, out: str | None = None, **options: object) -> LinearCoder:
        return train(many.at(hook), None if out is None else many.at(out), hooks=(hook, out or hook), **options)

    block = "blocks.1."
    coders = {
        "MLP output": made(block + "hook_mlp_out"),
        "heads": made(block + "attn.hook_z"),
        "transcoder": made(block + "mlp.hook_in", block + "hook_mlp_out"),
        "last block": made("blocks.3.hook_resid_post"),
        "signed": made(block + "hook_resid_post", activation="abstopk"),
        "free norms": made(block + "hook_resid_post", free_norms=True),
        "BatchTopK": as_batch_topk(made("blocks.2.hook_resid_post", free_norms=True), many),
        "normalised": made("blocks.2.hook_resid_post", normalise="layer_norm"),
        "rescaled": made(block + "hook_mlp_out", normalise="constant_norm_rescale"),
    }
    return [Healthy(name, coder, activations) for name, coder in coders.items()]


def as_batch_topk(coder: LinearCoder, many: Activations) -> LinearCoder:
    """With the one threshold that keeps as many latents as training kept."""
    k = coder.rule.k
    assert k is not None
    level = threshold_for(coder, many.at(coder.info.hooks_in[0]), k)
    assert level is not None
    rule = {"activation": "jumprelu", "k": None}
    info = {"architecture": "BatchTopKSAE", "provenance": {"declared_l0": k}}
    return changed(coder, rule=rule, info=info, threshold=torch.tensor(level))


@pytest.fixture(scope="module")
def off_centre(world: tuple[SubjectModel, object]) -> list[Healthy]:
    """A demo SAE with centred activations, of the same language model with a mean over the width in its residual."""
    subject, tokenizer = world
    model = copy.deepcopy(subject.model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        positions = model.transformer.wpe.weight
        positions += 1.5 * torch.randn(len(positions), 1, generator=generator) + 1.0
    moved, _ = load_subject(model)
    coder = load_sae("demo/topk_k32")
    assert isinstance(coder, LinearCoder)
    centred = changed(coder, info={"hooks_in": (demo.HOOK + ":centered",), "hooks_out": (demo.HOOK + ":centered",)})
    return [Healthy("centred", centred, read(moved, tokenizer, "demo", TOKENS))]


@pytest.fixture(scope="module")
def of_lm(shared: Path) -> list[Healthy]:
    subject, tokenizer = load_subject(shared / "lm" / "model")
    own = read(subject, tokenizer, shared / "lm" / "corpus" / "corpus_val.jsonl.gz", TOKENS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on tokens that training left out
        return [Healthy(name, load_sae(str(shared / "lm" / "saes" / name)), own) for name in OF_LM]  # type: ignore[arg-type]


def diagnose(plants: Sequence[Planted]) -> list[tuple[Planted, bool, Preflight]]:
    """Every plant that matters, whether its cause was found, and the whole report."""
    found = []
    for plant in plants:
        if matters(plant):
            report = look(plant.coder, plant.activations or plant.healthy.activations)
            right = any(f.cause in plant.causes and plant.needle in f.says for f in report.findings)
            found.append((plant, right, report))
    return found


def table(found: list[tuple[Planted, bool, Preflight]]) -> str:
    """A row for every fault: how often its cause was found where it matters; then what was missed."""
    rows: dict[str, list[bool]] = defaultdict(list)
    missed = []
    for plant, right, report in found:
        rows[plant.fault].append(right)
        rows["all"].append(right)
        if not right:
            instead = "; ".join(f"{finding.cause}: {finding.says}" for finding in report.findings) or "nothing"
            missed.append(f"missed: {plant.fault}, {plant.healthy.name}; found {instead}")
    rows["all"] = rows.pop("all")
    return "\n".join([f"{fault:<52} {sum(cells):>3} of {len(cells):>3}" for fault, cells in rows.items()] + missed)


def test_faults_planted_into_one_sae_are_named(demos: list[Healthy]) -> None:
    """A part of the next test that takes seconds."""
    (healthy,) = (h for h in demos if h.name == "topk_k32")
    found = diagnose(list(planted(healthy))[::2])
    assert len(found) > 5
    assert sum(right for _, right, _ in found) >= 0.9 * len(found), table(found)


@pytest.mark.slow
def test_nine_of_ten_planted_faults_are_named(
    demos: list[Healthy], variants: list[Healthy], off_centre: list[Healthy]
) -> None:
    saes = [*((h, True) for h in demos), *((h, h.name in EVERYTHING) for h in (*variants, *off_centre))]
    found = diagnose([plant for healthy, common in saes for plant in planted(healthy, common=common)])
    sys.stdout.write("\n" + table(found) + "\n")
    assert len(found) > 150
    assert sum(right for _, right, _ in found) >= 0.9 * len(found)


@pytest.mark.slow
def test_nine_of_ten_planted_faults_are_named_in_an_ordinary_language_model(of_lm: list[Healthy]) -> None:
    found = diagnose([plant for healthy in of_lm for plant in planted(healthy) if plant.fault in FAULTS_OF_LM])
    sys.stdout.write("\n" + table(found) + "\n")
    assert len(found) > 20
    assert sum(right for _, right, _ in found) >= 0.9 * len(found)


def alarms(healthy: Sequence[Healthy]) -> dict[str, list[str]]:
    """Findings about healthy SAEs."""
    reports = {h.name: look(h.coder, h.activations) for h in healthy}
    return {
        name: [f.says for f in r.findings] + list(r.broken) for name, r in reports.items() if r.findings or r.broken
    }


def test_healthy_saes_raise_no_alarm(demos: list[Healthy], off_centre: list[Healthy]) -> None:
    assert alarms([*demos, *off_centre]) == {}


@pytest.mark.slow
def test_healthy_saes_of_other_sites_and_kinds_raise_no_alarm(variants: list[Healthy]) -> None:
    assert alarms(variants) == {}


@pytest.mark.slow
def test_healthy_saes_raise_no_alarm_in_an_ordinary_language_model(of_lm: list[Healthy]) -> None:
    assert alarms(of_lm) == {}


@pytest.mark.parametrize("storage", slow_but(0, [torch.bfloat16, torch.float16]))
def test_weights_of_16_bits_raise_no_alarm(demos: list[Healthy], storage: torch.dtype) -> None:
    rounded = []
    for h in demos:
        tensors = {name: t.to(storage).to(t.dtype) for name, t in h.coder.weights.items()}
        rounded.append(dataclasses.replace(h, coder=changed(h.coder, **tensors)))
    assert alarms(rounded) == {}


@pytest.mark.parametrize(("n_tokens", "skip"), slow_but(0, [(100, 0), (200, 30), (200, 60), (1000, 0)]))
def test_other_documents_and_more_of_them_raise_no_alarm(
    demos: list[Healthy], world: tuple[SubjectModel, object], n_tokens: int, skip: int
) -> None:
    other = read(*world, "demo", n_tokens, skip=skip)
    assert alarms([dataclasses.replace(h, activations=other) for h in demos]) == {}


@pytest.mark.filterwarnings("ignore:random_topk32")
def test_an_untrained_sae_is_called_that(of_lm: list[Healthy], shared: Path) -> None:
    coder = load_sae(str(shared / "lm" / "saes" / "random_topk32_b1_2048"))
    assert isinstance(coder, LinearCoder)
    report = look(coder, of_lm[0].activations)
    assert [finding.cause for finding in report.findings] == ["nothing_helps"]
