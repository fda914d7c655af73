"""Firing against labels of tokens: planted faults are seen, figures are those of a plain loop, and laws hold."""

from __future__ import annotations

import json
import warnings
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve, precision_score, recall_score
from torch import Tensor

from sae_bench import Result, evaluate
from sae_bench.api import Session
from sae_bench.kernels import transfer
from sae_bench.saes.protocol import SparseCoder, codes_from_dense
from sae_bench.settings import Settings
from sae_bench.streams.token_codes import Firings, TokenCodes
from sae_bench.tasks.firing import PartTokens, choose
from sae_bench.verify import verify
from tests.builders.tiny_models import tiny_gpt2
from tests.builders.token_spans import HOOK, Fires, Located, Planted, row, settings, share, texts, write_set
from tests.builders.waiting import NoWaiting

LABEL = range(10, 20)
CHILD = range(10, 14)


def among(ids: Tensor, wanted: range) -> Tensor:
    return (ids >= wanted.start) & (ids < wanted.stop)


def columns(*latents: Tensor) -> Tensor:
    return torch.stack([latent.double() for latent in latents], 1)


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("sets"), "tens", LABEL)


def measured(fires: Fires | SparseCoder | list[Any], folder: Path, **changes: Any) -> Result:
    sae = Planted(fires) if callable(fires) else fires
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return evaluate(sae, **settings(folder, **changes))[0]


def values(result: Result) -> dict[str, float | None]:
    assert result.status == "ok", result.reason
    return {name.removeprefix("label_"): metric.value for name, metric in result.metrics.items()}


# ---------------------------------------------------------------- what is planted is seen


def perfect(ids: Tensor, places: Tensor) -> Tensor:
    return columns(among(ids, LABEL) * 2.0, among(ids, range(20, 30)), ids > 25)


def test_a_perfect_latent(folder: Path) -> None:
    found = values(measured(perfect, folder))
    assert found == {"f1": 1, "precision": 1, "recall": 1, "auprc": 1, "recall_p90": 1, "hierarchy_gap": None}


def test_a_split_latent_has_half_the_recall(folder: Path) -> None:
    def split(ids: Tensor, places: Tensor) -> Tensor:
        own, half = among(ids, LABEL), share(ids, places, 0.5)
        return columns(own & half, own & ~half)

    found = values(measured(split, folder))
    assert found["precision"] == 1
    assert found["recall"] == pytest.approx(0.5, abs=0.06)
    assert found["recall_p90"] == pytest.approx(found["recall"], rel=1e-12)


def test_false_firings_are_seen(folder: Path) -> None:
    """As large as true ones, they cost precision; small ones cost none at the threshold that is best."""

    def loud(ids: Tensor, places: Tensor) -> Tensor:
        return columns(among(ids, LABEL) | (among(ids, range(30, 40)) & share(ids, places, 0.5)))

    def faint(ids: Tensor, places: Tensor) -> Tensor:
        return columns(among(ids, LABEL) + 0.1 * (among(ids, range(30, 40)) & share(ids, places, 0.5)))

    of_loud, of_faint = values(measured(loud, folder)), values(measured(faint, folder))
    assert of_loud["recall"] == of_faint["recall"] == 1
    assert of_loud["precision"] == of_faint["precision"]
    assert of_loud["precision"] is not None
    assert of_loud["precision"] < 0.7
    assert (of_loud["recall_p90"], of_faint["recall_p90"]) == (0, 1)
    assert of_faint["auprc"] == 1
    assert of_loud["auprc"] == pytest.approx(of_loud["precision"])  # one tie


def test_missed_firings_cost_recall(folder: Path) -> None:
    found = values(measured(lambda ids, places: columns(among(ids, LABEL) & share(ids, places, 0.8)), folder))
    assert found["recall"] == pytest.approx(0.8, abs=0.05)
    assert found["precision"] == 1


def test_a_latent_that_is_not_chosen_has_no_say(folder: Path) -> None:
    """Choice is by the train part: a latent that finds the label in the test part alone is not seen."""
    train = {tuple(map(int, text.split())) for text in texts(80, 1)}
    assert train
    found = values(measured(lambda ids, places: columns(among(ids, range(40, 45)), among(ids, range(45, 50))), folder))
    assert found["f1"] == found["recall"] == 0
    assert found["precision"] is None
    assert found["auprc"] == pytest.approx(base_rate(folder))


def base_rate(folder: Path) -> float:
    rows = [json.loads(line) for line in (folder / "tens" / "test.jsonl").read_text().splitlines()]
    ids = [[0, *map(int, one["text"].split())] for one in rows]
    kept = [i for one in ids for place, i in enumerate(one) if place and i]  # BOS is special, also in a text
    return float(np.mean([10 <= i < 20 for i in kept]))


def test_negative_activations_are_no_firings(folder: Path) -> None:
    found = values(measured(lambda ids, places: columns(among(ids, LABEL) * 2.0 - 1.0), folder))
    assert found["precision"] == found["recall"] == found["auprc"] == 1


# ---------------------------------------------------------------- a plain loop


def gathered(coder: Any, folder: Path, name: str, part: str, context: int) -> tuple[Any, Any]:
    """Labels ``[tokens]`` and activations ``[tokens, n]``, by a hook on the model and nothing of the benchmark."""
    model = tiny_gpt2()
    carried: list[Tensor] = []
    handle = model.transformer.drop.register_forward_hook(lambda module, inputs, output: carried.append(output))
    labels, found = [], []
    for line in (folder / name / f"{part}.jsonl").read_text().splitlines():
        one = json.loads(line)
        words, at = one["text"].split(" "), 0
        ids, marks = [0], [False]
        for word in words:
            ids.append(int(word))
            marks.append(any(start < at + len(word) and at < end for start, end in one["spans"]))
            at += len(word) + 1
        ids, marks = ids[:context], marks[:context]
        with torch.no_grad():
            model(torch.tensor([ids]))
        activations = coder.encode(carried.pop()[0]).dense()
        for i, token in enumerate(ids):
            if i and token:
                labels.append(marks[i])
                found.append(activations[i].numpy())
    handle.remove()
    return np.array(labels), np.array(found)


def noisy(ids: Tensor, places: Tensor) -> Tensor:
    """Latents of several qualities, with activations of many sizes."""
    size = ((ids * 31 + places * 17) % 11 + 1).double() / 7
    own = among(ids, LABEL)
    return columns(
        size * (own & share(ids, places, 0.7) | among(ids, range(25, 28))),
        size * (own & share(ids + 1, places, 0.4)),
        (2 * own + size) * (own | among(ids, range(30, 36))),
        size * among(ids, range(5, 18)),
        size * (ids > 45),
    )


@pytest.mark.parametrize("context", [32, 12])
def test_the_figures_are_those_of_a_plain_loop(folder: Path, context: int) -> None:
    coder = Planted(noisy)
    result = measured(coder, folder, context=context)  # type: ignore[arg-type]
    labels, train = gathered(coder, folder, "tens", "train", context)
    best = int(np.argmax([f1_score(labels, train[:, j] > 0) for j in range(train.shape[1])]))
    assert result.details["sets"]["tens"]["latent"] == best
    assert result.details["sets"]["tens"]["train_tokens"] == len(labels)
    labels, test = gathered(coder, folder, "tens", "test", context)
    fires, scores = test[:, best] > 0, test[:, best]
    precision, recall, _ = precision_recall_curve(labels, scores)
    wanted = {
        "f1": f1_score(labels, fires),
        "precision": precision_score(labels, fires),
        "recall": recall_score(labels, fires),
        "auprc": average_precision_score(labels, scores),
        "recall_p90": recall[precision >= 0.9].max(),
    }
    found = values(result)
    assert {name: found[name] for name in wanted} == {n: pytest.approx(v, abs=1e-9) for n, v in wanted.items()}
    assert all(
        m.low is not None and m.low <= m.value <= m.high for n, m in result.metrics.items() if n != "hierarchy_gap"
    )


# ---------------------------------------------------------------- laws


def permuted(ids: Tensor, places: Tensor) -> Tensor:
    return noisy(ids, places)[:, [3, 0, 4, 2, 1]]


def scaled(ids: Tensor, places: Tensor) -> Tensor:
    return noisy(ids, places) * torch.tensor([0.5, 2.0, 8.0, 1.0, 0.25], dtype=torch.float64)


def with_dead(ids: Tensor, places: Tensor) -> Tensor:
    dead = torch.zeros(len(ids), 3, dtype=torch.float64)
    return torch.cat([dead[:, :1], noisy(ids, places), dead], 1)


def duplicated(ids: Tensor, places: Tensor) -> Tensor:
    return torch.cat([noisy(ids, places), noisy(ids, places)], 1)


@pytest.fixture(name="plain", scope="module")
def _plain(folder: Path) -> Result:
    return measured(noisy, folder)


def same(a: Result, b: Result) -> None:
    for name, metric in a.metrics.items():
        other = b.metrics[name]
        for end in ("value", "low", "high"):
            assert getattr(other, end) == pytest.approx(getattr(metric, end), abs=1e-9), (name, end)


@pytest.mark.parametrize("other", [permuted, scaled, with_dead, duplicated])
def test_latents_in_another_form_change_nothing(folder: Path, plain: Result, other: Fires) -> None:
    same(plain, measured(other, folder))


def test_the_size_of_a_batch_changes_nothing(folder: Path, plain: Result) -> None:
    same(plain, measured(noisy, folder, batch_tokens=40))


def test_the_order_of_texts_changes_nothing(folder: Path, plain: Result, tmp_path: Path) -> None:
    (tmp_path / "tens").mkdir()
    for part in ("train", "test"):
        lines = (folder / "tens" / f"{part}.jsonl").read_text().splitlines()
        (tmp_path / "tens" / f"{part}.jsonl").write_text("\n".join(reversed(lines)))
    other = measured(noisy, tmp_path)
    same(plain, other)
    assert other.provenance.protocol.data_sha256 == plain.provenance.protocol.data_sha256


def test_ties_are_settled_by_what_latents_are_and_not_by_their_place(tmp_path: Path) -> None:
    """Two latents with the same counts on the train part: the one whose activations rank it better, wherever it is."""

    def good(ids: Tensor) -> Tensor:
        return among(ids, LABEL) * 2.0 + among(ids, range(30, 34))

    def bad(ids: Tensor) -> Tensor:
        return among(ids, LABEL) * 1.0 + among(ids, range(30, 34)) * 2.0

    write_set(tmp_path, "tens", LABEL)
    a = measured(lambda ids, places: columns(good(ids), bad(ids)), tmp_path)
    b = measured(lambda ids, places: columns(bad(ids), good(ids)), tmp_path)
    assert values(a)["auprc"] == values(b)["auprc"] == 1


class Lists:
    """Codes of a few tokens, dense."""

    def __init__(self, dense: list[list[float]]) -> None:
        self.dense = np.array(dense)
        self.n_latents = self.dense.shape[1]

    def counts(self, tokens: Any) -> Any:
        return (self.dense[tokens] > 0).sum(0)

    def firings(self, tokens: Any, latents: Any) -> Any:
        places, columns_ = np.nonzero(self.dense[tokens][:, latents] > 0)
        return Firings(places, columns_, self.dense[tokens][:, latents][places, columns_])


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_equal_f1_of_other_counts_between_those_of_equal_ones_ends_and_stays_in_order(order: tuple[int, ...]) -> None:
    """With 4 labelled tokens, 1 hit of 2 and 2 of 8 firings both have an F1 of 1/3: they may come in any order."""
    labels = np.arange(16) < 4
    weak, strong, wide, high = (np.zeros(16) for _ in range(4))
    weak[[0, 15]], strong[[1, 14]], wide[[0, 1, *range(8, 14)]], high[[2, 13]] = (1, 2), (2, 1), 1, (3, 1)
    latents = [weak, strong, wide, high]
    codes = Lists(np.stack([latents[i] for i in order], 1).tolist())
    part = PartTokens(np.arange(16), np.arange(16) // 4, labels, np.arange(16), 4)
    every = np.arange(16)
    found = choose(codes, part, labels | True, labels, codes.counts(every[labels]), codes.counts(every))
    assert sorted(found.latents.tolist()) == [0, 1, 2, 3]
    ranked = [order[i] for i in found.latents.tolist()]
    two = [i for i in ranked if i != 2]
    assert two[2] == 0, "the one that is stronger outside the label comes behind those of its counts"
    assert found.f1 == pytest.approx(1 / 3)
    assert found.fired.sum(0).tolist() == [8 if i == 2 else 2 for i in ranked]


# ---------------------------------------------------------------- masks, sets without spans, other tasks


def test_what_is_masked_never_counts(folder: Path) -> None:
    """A latent that fires on BOS is perfect where BOS is masked, and not where it counts."""

    def on_bos(ids: Tensor, places: Tensor) -> Tensor:
        return columns(among(ids, LABEL) | (ids == 0))

    assert values(measured(on_bos, folder))["precision"] == 1
    assert values(measured(on_bos, folder, mask="none"))["precision"] != 1


def test_a_set_without_spans_does_not_take_part(folder: Path, tmp_path: Path) -> None:
    write_set(tmp_path, "tens", LABEL)
    write_set(tmp_path, "bare", range(20, 30))
    for part in ("train", "test"):
        file = tmp_path / "bare" / f"{part}.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text("\n".join(json.dumps({k: one[k] for k in ("text", "label")}) for one in rows))
    result = measured(noisy, tmp_path)
    assert list(result.details["sets"]) == ["tens"]
    same(measured(noisy, folder), result)


def test_without_spans_the_task_is_skipped_with_a_sentence(tmp_path: Path) -> None:
    write_set(tmp_path, "bare", LABEL)
    for part in ("train", "test"):
        file = tmp_path / "bare" / f"{part}.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text("\n".join(json.dumps({k: one[k] for k in ("text", "label")}) for one in rows))
    result = measured(noisy, tmp_path)
    assert result.status == "skipped"
    assert "a column spans" in str(result.reason)


def test_without_offsets_the_task_is_skipped_with_a_sentence(folder: Path) -> None:
    class Slow(Located):
        is_fast = False

    result = measured(noisy, folder, tokenizer=Slow())
    assert result.status == "skipped"
    assert "does not say which characters" in str(result.reason)


def test_a_label_that_is_cut_off_is_skipped_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "late").mkdir()
    for part, n, seed in (("train", 20, 1), ("test", 20, 2)):
        early = [row(f"{' '.join(text.split()[:8])}", []) for text in texts(n, seed)]
        late = [row(f"21 22 23 24 {i} {seed} 25 26 10", [10]) for i in range(1, 8)]
        (tmp_path / "late" / f"{part}.jsonl").write_text("\n".join(map(json.dumps, early + late)))
    result = measured(noisy, tmp_path, context=8)
    assert result.status == "skipped"
    assert "0 texts of its train part have a token with the label" in str(result.reason)


def test_other_labelled_tasks_share_the_pass_and_keep_their_figures(folder: Path) -> None:
    alone = {"tasks": "probe_recovery", "parameters": {"probe_recovery.folds": 2}}
    coder = Planted(noisy)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        probes = evaluate(coder, **settings(folder, **alone))[0]
        both = evaluate(Planted(noisy), **settings(folder, **alone | {"tasks": "probe_recovery,token_labels"}))
    of = {result.task: result for result in both}
    assert of["probe_recovery"].metrics == probes.metrics
    same(measured(noisy, folder), of["token_labels"])
    for counter in ("labelled_prefix", "labelled_encode"):
        assert of["token_labels"].provenance.counters[counter] == probes.provenance.counters[counter]


# ---------------------------------------------------------------- the hierarchy gap


@pytest.fixture(name="nested_folder", scope="module")
def _nested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_set(tmp_path_factory.mktemp("nested"), "parent", LABEL)
    write_set(folder, "child", CHILD)
    return write_set(folder, "other", range(40, 44))


def absorbing(rate: float) -> Fires:
    """On so much of the child's tokens the parent's latent is silent, and a latent of the child fires."""

    def fires(ids: Tensor, places: Tensor) -> Tensor:
        taken = among(ids, CHILD) & share(ids, places, rate)
        return columns(among(ids, LABEL) & ~taken, among(ids, CHILD), ids > 30)

    return fires


def test_the_gap_follows_planted_absorption(nested_folder: Path) -> None:
    found = [measured(absorbing(rate), nested_folder).metrics["hierarchy_gap"] for rate in (0, 0.25, 0.5, 0.75, 1)]
    gaps = [one.value for one in found if one.value is not None]
    assert len(gaps) == 5
    assert gaps[0] == 0
    assert all(b - a > 0.15 for a, b in pairwise(gaps))
    assert gaps[-1] > 0.9
    assert all(one.low is not None and one.low <= one.value <= one.high for one in found)


def test_details_say_what_lies_inside_what(nested_folder: Path) -> None:
    sets = measured(absorbing(1.0), nested_folder).details["sets"]
    assert {name: one["parent"] for name, one in sets.items()} == {"child": "parent", "parent": None, "other": None}
    assert sets["child"]["parent_latent"] == 0
    assert (sets["child"]["recall_outside"], sets["child"]["recall_inside"]) == (1, 0)
    assert sets["parent"]["recall_outside"] is None


def test_missing_everywhere_alike_is_no_absorption(nested_folder: Path) -> None:
    """The recall of a parent may be bad without any gap."""
    result = measured(lambda ids, places: columns(among(ids, LABEL) & share(ids, places, 0.5)), nested_folder)
    assert result.metrics["hierarchy_gap"].value == pytest.approx(0, abs=0.12)


def test_kinds_of_tokens_that_are_missed_at_random_are_no_absorption(nested_folder: Path) -> None:
    """A latent of half of the kinds of tokens: random sets of kinds have such gaps too, which are taken off."""
    sets = measured(lambda ids, places: columns(among(ids, LABEL) & (ids % 2 == 0)), nested_folder).details["sets"]
    assert (
        abs(sets["child"]["recall_outside"] - sets["child"]["recall_inside"] - sets["child"]["gap_of_random_sets"])
        < 0.2
    )


def test_a_parent_without_a_latent_has_no_gap(nested_folder: Path) -> None:
    result = measured(lambda ids, places: columns(ids > 45), nested_folder)
    assert result.metrics["hierarchy_gap"].value is None
    assert "inside another one" in str(result.metrics["hierarchy_gap"].reason)


# ---------------------------------------------------------------- where codes are kept


def test_keeping_codes_lets_no_host_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device that nobody may wait for, a batch is read when the next one comes, and says the same."""
    batches = [codes_from_dense(torch.rand(6, 5, generator=torch.Generator().manual_seed(i)).round()) for i in range(3)]
    numbers = [np.array([0, 1, -1, 2, 3, -1]) + (4 * i) * (np.array([0, 1, -1, 2, 3, -1]) >= 0) for i in range(3)]
    waiting, never = (TokenCodes(5, 12, torch.float32, waits=waits) for waits in (True, False))
    monkeypatch.setattr(transfer, "_array", lambda tensor: np.asarray(tensor.detach().tolist()))
    for codes, places in zip(batches, numbers, strict=True):
        waiting.add(codes, places)
    fetched: list[Any] = []
    monkeypatch.setattr(TokenCodes, "_write", lambda self, fetch, places: fetched.append((fetch, places)))
    with NoWaiting():
        for codes, places in zip(batches, numbers, strict=True):
            never.add(codes, places)
    assert len(fetched) == 2  # the last one is still on its way
    monkeypatch.undo()
    for fetch, places in fetched:
        never._write(fetch, places)
    everything = np.arange(12)
    assert waiting.counts(everything).tolist() == never.counts(everything).tolist()
    dense = torch.cat([codes.dense()[[0, 1, 3, 4]] for codes in batches])
    assert waiting.counts(everything).tolist() == (dense > 0).sum(0).tolist()
    waiting.close()
    never.close()


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_activations_are_found_in_chunks_of_any_size(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr("sae_bench.streams.token_codes.CHUNK", chunk)
    dense = torch.rand(40, 8, generator=torch.Generator().manual_seed(3))
    dense = dense * (dense > 0.6)
    codes = TokenCodes(8, 40, torch.float32, waits=True)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(4))
    for some in order.split(9):
        codes.add(codes_from_dense(dense[some]), some.numpy())
    for tokens in (np.arange(40), np.array([3, 17, 4])):
        assert codes.counts(tokens).tolist() == (dense[tokens] > 0).sum(0).tolist()
        found = codes.firings(tokens, np.array([6, 1]))
        again = torch.zeros(len(tokens), 2, dtype=torch.float64)
        again[found.tokens, found.latents] = torch.from_numpy(found.values)
        assert again.tolist() == dense[tokens][:, [6, 1]].double().tolist()
    codes.close()


def test_the_planted_coder_knows_every_token() -> None:
    """What the tests above rest on."""
    coder = Planted(lambda ids, places: torch.stack([ids.double(), places.double()], 1))
    model = tiny_gpt2()
    ids = torch.arange(1, 30)[None]
    x = model.transformer.wte(ids) + model.transformer.wpe(torch.arange(29))
    assert coder.encode(x[0]).dense()[:, 0].tolist() == ids[0].tolist()
    assert coder.info.hooks_in == (HOOK,)


# ---------------------------------------------------------------- around a run


@pytest.fixture(name="written", scope="module")
def _written(nested_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a result that was measured beside another labelled task, and of which a set is not its own."""
    out = tmp_path_factory.mktemp("out")
    write_set(nested_folder, "a_bare_one", range(20, 24))
    for part in ("train", "test"):
        file = nested_folder / "a_bare_one" / f"{part}.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text("\n".join(json.dumps({k: one[k] for k in ("text", "label")}) for one in rows))
    quick = {"tasks": "sparse_probing,token_labels", "out": str(out), "name": "planted"}
    quick |= {"parameters": {"sparse_probing.folds": 2, "sparse_probing.strengths": [0.1]}}
    measured(absorbing(0.5), nested_folder, **quick)
    (file,) = out.rglob("token_labels@*.json")
    return file


@pytest.mark.parametrize(("share", "seed"), [(1, 0), (0.34, 0), (0.34, 1), (0.34, 2)])
def test_a_part_is_measured_again_with_what_it_lies_inside(
    written: Path, nested_folder: Path, share: float, seed: int
) -> None:
    """A child alone would have no gap, and its result would be called wrong."""
    given = {name: settings(nested_folder)[name] for name in ("model", "tokenizer", "data", "probe_data")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = verify(written, Planted(absorbing(0.5)), share=share, seed=seed, **given)
    assert report.wrong == []
    assert report.rows > 0


def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    """Groups of sets that were measured are not measured again, and nothing half-written is left."""
    sets = write_set(tmp_path / "sets", "a_first", LABEL, n=80)
    for part in ("train", "test"):  # other texts than those of the first, so that it is a group of its own
        (sets / "b_second").mkdir(exist_ok=True)
        rows = [row(text, LABEL) for text in texts(80 if part == "train" else 40, 7 + (part == "test"))]
        (sets / "b_second" / f"{part}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    steps: list[tuple[int, int]] = []

    def told(what: str, done: int, total: int) -> None:
        if "sets" in what:
            steps.append((done, total))

    def interrupt(what: str, done: int, total: int) -> None:
        told(what, done, total)
        if steps and done == 1:
            raise KeyboardInterrupt

    given: dict[str, Any] = {"checkpoint_seconds": 0, "tasks": "token_labels,probe_recovery"}
    given["parameters"] = {"probe_recovery.folds": 2, "probe_recovery.ceiling_strengths": [0.1]}
    saes = [Planted(perfect, "one"), Planted(absorbing(0.5), "two")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluate(saes, **settings(sets, out=tmp_path / "whole", **given))
        with pytest.raises(KeyboardInterrupt):
            evaluate(saes, progress=interrupt, **settings(sets, out=tmp_path / "half", **given))
        assert not list((tmp_path / "half").rglob("token_labels*"))
        steps.clear()
        evaluate(saes, progress=told, **settings(sets, out=tmp_path / "half", **given))
    assert steps[0] == (1, 2)
    whole, half = (
        {f.relative_to(out): f.read_bytes() for f in out.rglob("*") if f.is_file()}
        for out in (tmp_path / "whole", tmp_path / "half")
    )
    assert len(whole) == 2 * (2 * 2 + 1)
    assert half == whole


def test_the_cost_is_said_before_a_run(nested_folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        session = Session(Planted(perfect), Settings(**settings(nested_folder)))
    told = session.forecast()
    assert told["sets with labels of tokens"] == 3
    assert told["sets that lie inside another"] == 1
    assert told["texts with labels of tokens"] > 200
    assert "sets with labels of tokens: 3" in told["cost of token_labels"]
