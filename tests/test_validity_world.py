"""The world of tokens: what is true of it, twice; SAEs of known quality; and the tasks run on them."""

from __future__ import annotations

import csv
import importlib.util
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from sae_bench.errors import SaeBenchError, UsageError
from sae_bench.saes.conformance import check
from sae_bench.validity import known as known_saes
from sae_bench.validity import measure
from sae_bench.validity.ladder import Rung, ladder
from sae_bench.validity.numbers import Numbers
from sae_bench.validity.subject import model, tokenizer
from sae_bench.validity.trained import CHECKPOINTS, DATA, DRAWS, RIGHT_K
from sae_bench.validity.truth import matched, of_parts, truth
from sae_bench.validity.world import CHILDREN, FEATURES, FREE, LEADERS, LENGTH, MOST, PARENTS, TYPES, text, world
from tests.builders import known_truth
from tests.builders.marks import slow_but

SCRIPT = Path(__file__).parents[1] / "scripts" / "train_ladder.py"
SEED = 0
OF_STUDY = {  # what the study had of its own draw: both, within what another draw may differ
    "frozen_random": 0.08, "trained_4000": 0.49, "trained_k12": 0.46, "perfect": 1.0, "permuted": 0.11,
}  # fmt: skip


@pytest.fixture(scope="module")
def made() -> Any:
    return world(SEED)


@pytest.fixture(scope="module")
def rungs(made: Any) -> dict[str, Rung]:
    return ladder(made)


@pytest.fixture(scope="module")
def tables(made: Any) -> Any:
    return known_saes.tables(made)


@pytest.fixture(scope="module")
def texts(made: Any) -> Any:
    """The words of some documents, and the activations of a hook on the model there."""
    return known_truth.read(model(made), tokenizer(), text(made.ids(40, LENGTH, "witness")))


# the world


def test_numbers_are_those_of_every_machine() -> None:
    """Worlds are made anew on each machine, and trained SAEs of them are shipped: both must mean the same world."""
    assert Numbers(0, "x").uniform(2).tolist() == pytest.approx([0.9417583402185968, 0.7136208003075356], abs=1e-12)
    assert Numbers(0, "x").normal(2) == pytest.approx([1.56970688, 0.56399373], abs=1e-3)
    keys = [(0, "x"), (0, "y"), (1, "y"), (1, "xy")]
    assert len({float(Numbers(*key).uniform(1)[0]) for key in keys}) == len(keys)
    drawn = Numbers(0, "much").normal(100_000)
    assert abs(drawn.mean()) < 0.01
    assert abs(drawn.std() - 1) < 0.01


def test_activations_are_sums_of_features_of_the_word_alone(made: Any, texts: Any) -> None:
    """A hook on the model reads what loops over the words of the text add up, at every token."""
    features = known_truth.features_of(made)
    for words, activations in zip(*texts, strict=True):
        assert words[0] == "<s>"
        assert "<s>" not in words[1:]
        for word, found in zip(words, activations, strict=True):
            assert np.allclose(found.numpy(), known_truth.made_of(made, features[word]), atol=1e-5)


def test_the_text_is_what_the_model_predicts(made: Any) -> None:
    """So its loss is the least there is: what a spliced SAE costs is the SAE's alone."""
    words = torch.tensor([[0, 5], [0, 900], [0, 2047]])
    with torch.no_grad():
        predicted = model(made)(words).logits.double().softmax(2)
    for row, word in zip(predicted, words[:, 1].tolist(), strict=True):
        assert np.allclose(row[1].numpy(), made.chances[word], atol=1e-5)
        assert row[1, 0] < 1e-6
    ids = made.ids(20_000, 2, "pairs")
    for word in (0, int(np.bincount(ids[:, 0]).argmax())):
        behind = ids[:, 0] if word == 0 else ids[ids[:, 0] == word, 1]
        counts = np.bincount(behind, minlength=TYPES)
        often = made.chances[word] * len(behind) > 20
        expected = made.chances[word, often] * len(behind)
        assert often.sum() > 3
        assert ((counts[often] - expected) ** 2 / expected).mean() < 1.5  # chi-square over its degrees of freedom


def test_rates_are_those_of_text(made: Any) -> None:
    """Truth weighs tokens by them."""
    counts = np.bincount(made.ids(1000, LENGTH, "counted").ravel(), minlength=TYPES)
    assert math.isclose(made.rates.sum(), 1, rel_tol=1e-12)
    often = made.rates * counts.sum() > 20
    expected = made.rates[often] * counts.sum()
    assert counts[0] == 0 == made.rates[0]
    assert ((counts[often] - expected) ** 2 / expected).mean() < 1.5


@pytest.mark.parametrize("seed", range(DRAWS))
def test_features_are_of_the_kinds_that_are_said(seed: int) -> None:
    has = world(seed).strengths > 0
    counts = has.sum(1)
    assert counts[0] == 0
    assert counts[1:].min() >= 1
    assert counts.max() <= MOST
    assert has[:, :PARENTS].any(0).all()
    for parent in range(PARENTS):
        children = [has[:, PARENTS * (1 + i) + parent] for i in range(CHILDREN)]
        assert not (np.logical_or.reduce(children) & ~has[:, parent]).any()
        assert not np.logical_and.reduce(children).any()
    first = PARENTS * (1 + CHILDREN)
    leads, follows = has[:, first : first + LEADERS], has[:, first + LEADERS : first + 2 * LEADERS]
    assert 0.7 < follows[leads].mean() < 0.9
    assert follows[~leads].mean() < 0.03
    assert has.shape[1] == FEATURES == first + 2 * LEADERS + FREE


def test_every_draw_is_another_world() -> None:
    first, second = world(0), world(1)
    assert not np.allclose(first.directions, second.directions)
    assert (first.strengths > 0).tolist() != (second.strengths > 0).tolist()
    assert np.array_equal(world(1).follows, second.follows)


# truth


@pytest.mark.parametrize("shape", [(2, 3), (3, 3), (3, 2), (4, 2), (3, 4)])
def test_matching_is_the_best_of_all_ways(shape: tuple[int, int]) -> None:
    score = Numbers(*shape).uniform(*shape)
    assert matched(score) == pytest.approx(known_truth.best_by_trying(score.tolist()), abs=1e-12)
    assert matched(score) == pytest.approx(known_truth.auction(score.tolist()), abs=1e-5)


@pytest.mark.parametrize("name", slow_but(2, ["half_dead", "merged_2", "trained_4000", "false_firings_1", "perfect"]))
def test_truth_is_what_loops_over_the_text_find(made: Any, rungs: dict[str, Rung], texts: Any, name: str) -> None:
    """The text's own share of each word instead of what is expected: then both programs must give the same."""
    words, read = texts
    counts = np.zeros(TYPES)
    for own in words:
        for word in own[1:]:
            counts[int(word[1:])] += 1
    coder = rungs[name].coder
    fires = coder.encode(torch.from_numpy(made.activations).float()).dense().numpy() != 0
    rows = coder.decoder_rows(torch.arange(coder.info.n_latents)).double().numpy()
    found = of_parts(made.strengths > 0, made.directions, fires, rows, counts / counts.sum())
    theirs = known_truth.truths(made, coder, words, read)
    assert [found.both, found.encoder, found.decoder] == pytest.approx(theirs, abs=1e-5)
    assert abs(found.both - rungs[name].truth.both) < 0.05  # text is a sample of the language


def test_the_perfect_sae_is_all_true(rungs: dict[str, Rung]) -> None:
    perfect = rungs["perfect"].truth.as_dict()
    assert perfect == pytest.approx(dict.fromkeys(perfect, 1.0), abs=1e-6)


LAWS = {
    "another order of latents": lambda t, turn: replace(t, codes=t.codes[:, turn], decoder=t.decoder[turn]),
    "other units of latents": lambda t, turn: replace(
        t, codes=t.codes * (1 + turn), decoder=t.decoder / (1 + turn[:, None])
    ),
    "dead latents beside": lambda t, turn: known_saes.Table(
        np.hstack([t.codes, 0 * t.codes]), np.vstack([t.decoder, t.decoder[turn]])
    ),
    "directions turned round": lambda t, turn: replace(t, decoder=np.where(turn[:, None] % 2, 1, -1) * t.decoder),
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", ["perfect", "absorbed", "false_firings_4", "noisy_70"])
def test_truth_does_not_hang_on_how_an_sae_is_written(made: Any, tables: Any, name: str, law: str) -> None:
    find = known_saes.Finder(torch.from_numpy(made.activations).float())
    own, turn = tables[name], Numbers("turn").order(tables[name].codes.shape[1])
    other = LAWS[law](own, turn)
    before, after = (truth(known_saes.Known(name, one, made.mean, find), made) for one in (own, other))
    assert after.as_dict() == pytest.approx(before.as_dict(), abs=1e-6)


# the ladder


def test_rungs_are_as_good_as_they_are_made(rungs: dict[str, Rung]) -> None:
    """What can be said without a program of an SAE that is wrong in a known way."""
    both, encoder, decoder = (
        {name: getattr(rung.truth, kind) for name, rung in rungs.items()} for kind in ("both", "encoder", "decoder")
    )
    for name in ("rescaled", "duplicates"):
        assert both[name] == pytest.approx(1, abs=1e-6)
    for cosine in (90, 70, 50):
        assert decoder[f"noisy_{cosine}"] == pytest.approx(cosine / 100, abs=1e-3)
        assert encoder[f"noisy_{cosine}"] == pytest.approx(1, abs=1e-6)
    assert encoder["permuted"] == pytest.approx(1, abs=1e-6)
    assert decoder["permuted"] == pytest.approx(1, abs=1e-6)
    assert both["permuted"] < 0.2
    assert both["half_dead"] == pytest.approx(0.5, abs=1e-6)
    for kind in ("split", "merged", "false_firings", "missed"):
        worse = [both[name] for name in rungs if name.startswith(kind)]
        assert len(worse) == 2
        assert 1 > worse[0] > worse[1]
    assert 1 > both["absorbed_half"] > both["absorbed"]
    assert encoder["frozen_random"] == pytest.approx(encoder["random_fit"], abs=1e-6)  # the same latents fire
    assert decoder["frozen_random"] < decoder["random_fit"]


@pytest.mark.parametrize("seed", slow_but(1, range(DRAWS)))
def test_training_shows_in_truth(seed: int) -> None:
    """Rungs of one training in order; a wrong number of latents a token is worse. As many rungs as the study has."""
    rungs = ladder(world(seed))
    assert len(rungs) >= 26
    for kind in ("both", "encoder", "decoder"):
        steps = [getattr(rungs[name].truth, kind) for name in measure.CHECKPOINTS]
        assert steps[1:] == sorted(steps[1:])
        assert steps[-1] > steps[0]
    for name in ("trained_k12", "trained_k2"):
        assert rungs[name].truth.both < rungs["trained_4000"].truth.both
    for name, both in OF_STUDY.items():
        assert rungs[name].truth.both == pytest.approx(both, abs=0.08)


def test_saes_of_the_ladder_are_coders(made: Any, rungs: dict[str, Rung]) -> None:
    x = torch.from_numpy(made.activations).float()[[3, 0, 77, 2047, 5]]
    for name, rung in rungs.items():
        assert check(rung.coder, x) == [], name
        assert rung.name == name == rung.coder.info.name


def test_a_known_sae_takes_what_is_nearest(made: Any) -> None:
    """A language model in another precision, or a control, gives activations that are none of the world's own."""
    types = torch.from_numpy(made.activations).float()
    find = known_saes.Finder(types)
    assert find(types).tolist() == list(range(TYPES))
    x = types[::7] + 0.02 * torch.from_numpy(Numbers("noise").normal(*types[::7].shape)).float()
    assert find(x).tolist() == torch.cdist(x.double(), types.double()).argmin(1).tolist()
    assert find(types.half()).tolist() == list(range(TYPES))
    assert find(types[:0]).tolist() == []


def test_random_fit_is_the_best_decoder_of_random_codes(made: Any, rungs: dict[str, Rung]) -> None:
    """Its error is at right angles to every code, and to a constant."""
    x, coder = torch.from_numpy(made.activations).float(), rungs["random_fit"].coder
    codes = coder.encode(x)
    assert codes.indices.tolist() == rungs["frozen_random"].coder.encode(x).indices.tolist()
    error = (coder.decode(codes) - x).double().numpy() * made.rates[:, None]
    assert np.abs(codes.dense().double().numpy().T @ error).max() < 1e-5
    assert np.abs(error.sum(0)).max() < 1e-5


def test_shipped_weights_are_small_and_of_every_draw() -> None:
    assert sorted(file.name for file in DATA.glob("draw*")) == [f"draw{draw}.safetensors" for draw in range(DRAWS)]
    assert sum(file.stat().st_size for file in DATA.glob("draw*")) <= 2 << 20
    assert all(tensor.dtype == np.float16 for tensor in load_file(DATA / "draw0.safetensors").values())


@pytest.mark.skipif(not SCRIPT.is_file(), reason="needs the checkout")
@pytest.mark.parametrize("seed", slow_but(1, range(DRAWS)))
def test_shipped_weights_are_what_the_script_trains(seed: int) -> None:
    """Its first steps, as far as another machine's rounding leaves them alike."""
    spec = importlib.util.spec_from_file_location("train_ladder", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    shipped = load_file(DATA / f"draw{seed}.safetensors")
    for step, weights in script.train(world(seed), RIGHT_K, max(CHECKPOINTS), stop=20).items():
        for name, found in weights.items():
            assert np.allclose(found.numpy(), shipped[f"k{RIGHT_K}/{step}/{name}"], atol=2e-3)


def test_a_draw_that_was_not_trained_is_said() -> None:
    with pytest.raises(UsageError, match=r"draws 0 to 3 .* draw 4 was asked for; scripts/train_ladder\.py"):
        measure.measured(DRAWS)


# measuring


def test_labelled_sets_are_balanced_and_right(made: Any, tmp_path: Path) -> None:
    """The label of a text is whether a word of it has the feature, by the words alone."""
    size = replace(measure.QUICK, sets=3, examples=40)
    measure.labelled(made, tmp_path, size)
    features = known_truth.features_of(made)
    folders = sorted(tmp_path.iterdir())
    assert len(folders) == 3
    seen = set()
    for folder in folders:
        feature = int(folder.name[1:])
        for part in ("train", "test"):
            rows = list(csv.reader((folder / f"{part}.csv").read_text().splitlines()))[1:]
            assert [int(label) for _, label, _ in rows].count(1) == len(rows) / 2 == 20
            for words, label, spans in rows:
                there = [words[start:end] for start, end in json.loads(spans)]
                assert there == [word for word in words.split() if feature in features[word]]
                assert bool(there) == bool(int(label))
            assert not seen & {words for words, _, _ in rows}
            seen |= {words for words, _, _ in rows}


@pytest.fixture(scope="module")
def draw(made: Any, rungs: dict[str, Rung]) -> measure.Draw:
    """A few rungs, little text."""
    few = {name: rungs[name] for name in ("perfect", "permuted", "noisy_50", "frozen_random", "trained_4000")}
    data = text(made.ids(80, LENGTH, "text"))
    return measure.run(
        "tokens", SEED, few, model=model(made), tokenizer=tokenizer(), data=data, limit=40, resamples=200,
        tasks="reconstruction,loss_recovered",
    )  # fmt: skip


def test_figures_of_the_perfect_sae_are_known(draw: measure.Draw) -> None:
    """It reconstructs everything, so that the language model loses nothing; others lose what they should."""
    perfect = draw.figures["perfect"]
    assert perfect["reconstruction.fvu"].value == pytest.approx(0, abs=1e-9)
    assert perfect["loss_recovered.delta_ce"].value == pytest.approx(0, abs=1e-4)
    fvu = {name: own["reconstruction.fvu"].value for name, own in draw.figures.items()}
    assert fvu["trained_4000"] < fvu["frozen_random"] < fvu["noisy_50"] < fvu["permuted"]
    assert fvu["permuted"] == pytest.approx(2, abs=0.5)  # as much again as there is, in other directions


def test_loss_is_the_entropy_of_the_language(made: Any, draw: measure.Draw) -> None:
    chances = made.chances
    behind = -(chances * np.log(np.maximum(chances, 1e-300))).sum(1)
    clean = draw.figures["perfect"]["loss_recovered.ce_clean"].value
    assert clean == pytest.approx(made.rates @ behind, abs=0.1)


def test_a_draw_has_results_and_what_they_were_made_of(draw: measure.Draw) -> None:
    assert list(draw.results) == list(draw.figures) == list(draw.units) == list(draw.rungs)
    for name, own in draw.results.items():
        assert list(own) == ["reconstruction", "loss_recovered"]
        for task, result in own.items():
            assert result.sae.name == name
            assert len(draw.units[name][task]["document"]) == 40
            assert draw.figures[name][f"{task}.{next(iter(result.metrics))}"] == next(iter(result.metrics.values()))


def test_a_rung_that_cannot_be_measured_is_named(made: Any, rungs: dict[str, Rung]) -> None:
    class Broken(known_saes.Known):
        def encode(self, x: Any) -> Any:
            raise ArithmeticError("out of order")

    find = known_saes.Finder(torch.from_numpy(made.activations).float())
    table = known_saes.Table(made.strengths, made.directions)
    broken = Rung("broken", Broken("broken", table, made.mean, find), rungs["perfect"].truth)
    with pytest.raises(SaeBenchError, match=r"world tokens, draw 0: reconstruction of broken: .*out of order"):
        measure.run(
            "tokens", SEED, {"perfect": rungs["perfect"], "broken": broken}, model=model(made), tokenizer=tokenizer(),
            data=text(made.ids(16, LENGTH, "text")), limit=8, tasks="reconstruction",
        )  # fmt: skip


@pytest.mark.slow
def test_a_draw_is_the_same_again() -> None:
    first, second = (measure.measured(1, quick=True, tasks="reconstruction,probe_recovery") for _ in range(2))
    assert first.figures == second.figures
    assert {name: rung.truth for name, rung in first.rungs.items()} == {n: r.truth for n, r in second.rungs.items()}
