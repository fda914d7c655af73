"""The built-in suite of probe sets: its entries, the hub, the sets made of a corpus, the demo."""

import base64
import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest

from sae_bench import demo
from sae_bench.data.labelled import LabelledOptions, LabelledSet, Suite, hub, load_suite, offline
from sae_bench.data.labelled import suite as suite_module
from sae_bench.data.labelled.entries import HubSet, UnavailableSet, collect, read_family, suite_entries, suite_folder
from sae_bench.data.labelled.rules import Labelled, labelled
from sae_bench.data.sources import Document
from sae_bench.errors import DataError, TaskError, UsageError
from tests.builders.labelled_texts import VOCABULARY, WORDS, texts_of

PARTS = ("train", "test")


def load(texts: Iterator[Document] | None = None, **options: Any) -> Suite:
    is_demo, vocab_size = options.pop("demo", False), options.pop("vocab_size", VOCABULARY)
    return load_suite(
        probe_data=None,
        demo=is_demo,
        corpus=texts,
        corpus_name="the corpus",
        tokenizer=WORDS,
        vocab_size=vocab_size,
        options=LabelledOptions(**({"context": 64, "prepend_bos": True, "names": "*"} | options)),
    )


# ---------------------------------------------------------------- entries


def test_the_families_have_the_sets_that_the_papers_name() -> None:
    families = {file.stem: read_family(file) for file in suite_folder().glob("*.toml")}
    scaling = families["scaling_61"]
    assert sum(not entry.uncertain for entry in scaling) == 61
    uncertain = {"csqa", "wikidata_political_party", "ai_human_text"}
    assert {entry.name for entry in scaling if entry.uncertain} == uncertain
    for prefix, number in (("ethics_", 5), ("wikidata_", 9), ("phrase_", 21), ("ag_news_", 4), ("europarl_", 9)):
        assert sum(entry.name.startswith(prefix) for entry in scaling) == number
    names = [entry.name for entry in families["saebench"]]
    assert sum(name.startswith("bias_in_bios_") for name in names) == 15
    assert sum(name.startswith("amazon_") for name in names) == 6
    assert tuple(entry.name for entry in families["demo"]) == demo.ATTRIBUTES
    assert len(suite_entries()) == sum(map(len, families.values()))
    assert list(suite_entries()) == sorted(suite_entries())


def test_every_entry_names_a_licence_and_no_invented_revision() -> None:
    for entry in suite_entries().values():
        assert entry.licence
        assert entry.source
        if isinstance(entry, HubSet):
            assert entry.revision in ("main", "refs/convert/parquet") or re.fullmatch("[0-9a-f]{40}", entry.revision)
            assert all(config == "-".join(sorted(config.split("-"))) for config in entry.configs if "-" in config)
        if isinstance(entry, UnavailableSet):
            assert not entry.reason.endswith(".")


ENTRY = """
[[set]]
name = "one"
kind = "hub"
dataset = "org/name"
train = "train"
test = "test"
label = { form = "values", column = "label", positive = [1], negative = [0] }
source = "a paper"
licence = "MIT"
"""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("[[set]]", "[set"), "is not valid TOML"),
        (("[[set]]", "[[sets]]"), r"must hold tables \[\[set\]\] and nothing else, got sets"),
        (('licence = "MIT"', ""), r"set 'one': 'hub\.licence': Field required"),
        (('"MIT"', '"MIT"\nrow = 5'), r"set 'one': 'hub\.row': Extra inputs"),
        (('"hub"', '"web"'), "set 'one': .* does not match any of the expected tags"),
        (('"values"', '"guess"'), "set 'one': .* does not match any of the expected tags"),
        (("positive", "positives"), r"hub\.label\.values\.positive"),
        (('"one"', '"a/b"'), "String should match pattern"),
        (('test = "test"', ""), "give either train and test, or split"),
        (('test = "test"', 'test = "test"\ntext = "{candidate}"'), "exactly where the label rule has candidates"),
        (("\n[[set]]", ENTRY + "\n[[set]]"), "the set 'one' is there already"),
    ],
)
def test_a_malformed_entry_is_one_sentence(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    file = tmp_path / "family.toml"
    file.write_text(ENTRY)
    assert list(collect([file])) == ["one"]
    file.write_text(ENTRY.replace(*change))
    with pytest.raises(TaskError, match=message) as caught:
        collect([file])
    assert "family.toml" in str(caught.value)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="cannot be read"):
        read_family(tmp_path / "none.toml")


# ---------------------------------------------------------------- label rules


def entry_of(label: str, text: str = "{text}", **fields: Any) -> HubSet:
    content = tomllib.loads(f"label = {{ {label} }}")
    base = {"kind": "hub", "name": "one", "dataset": "d", "split": "train", "source": "p", "licence": "MIT"}
    return HubSet.model_validate(base | {"text": text} | content | fields)


def pairs(entry: HubSet, row: dict[str, Any]) -> list[tuple[str, bool]]:
    return [(example.text, example.label) for example in labelled(entry, row)]


def test_values_and_templates() -> None:
    entry = entry_of('form = "values", column = "meta.kind", positive = ["a", 3], negative = ["b"]', "{x}: {meta.y} ")
    assert pairs(entry, {"x": " one", "meta": {"kind": "a", "y": "{x} two "}}) == [("one: {x} two", True)]
    assert pairs(entry, {"x": "one", "meta": {"kind": 3, "y": "two"}}) == [("one: two", True)]
    assert pairs(entry, {"x": "one", "meta": {"kind": "b", "y": "two"}}) == [("one: two", False)]
    for row in ({"kind": "c", "y": "two"}, {"kind": None, "y": "two"}, {"kind": "a", "y": None}):
        assert pairs(entry, {"x": "one", "meta": row}) == []
    booleans = entry_of('form = "values", column = "l", positive = [1], negative = [0]')
    assert pairs(booleans, {"text": "t", "l": True}) == [("t", True)]


def test_thresholds_leave_out_what_is_between() -> None:
    entry = entry_of('form = "threshold", column = "stars", at_least = 4, below = 2.5')
    found = {stars: pairs(entry, {"text": "t", "stars": stars}) for stars in (5, 4.0, 3, 2.5, 2, None)}
    assert [stars for stars, found_ in found.items() if found_ == [("t", True)]] == [5, 4.0]
    assert [stars for stars, found_ in found.items() if found_ == [("t", False)]] == [2]


def test_answers_from_columns_and_lists() -> None:
    entry = entry_of('form = "answers", correct = ["right"], wrong = ["w1", "w2", "more"]', "{q} {candidate}")
    row = {"q": "why?", "right": "so", "w1": "no", "w2": " ", "more": ["never", "so", None]}
    (right, yes), (wrong, no) = pairs(entry, row)
    assert (right, yes, no) == ("why? so", True, False)
    assert wrong in ("why? no", "why? never")
    drawn = {pairs(entry, row | {"q": f"why {i}?"})[1][0].split()[-1] for i in range(30)}
    assert drawn == {"no", "never"}
    assert pairs(entry, row) == pairs(entry, dict(reversed(row.items())))
    assert pairs(entry, row | {"w1": "so", "more": []}) == []
    assert pairs(entry, row | {"right": None}) == []
    assert {example.group for example in labelled(entry, row)} == {"why?"}
    languages = entry_of('form = "answers", correct = ["t.de"], wrong = ["t.en", "t.fr"]', "{candidate}")
    assert list(labelled(languages, {"t": {"de": "ja", "fr": "oui"}})) == [
        Labelled("ja", True, "ja"),
        Labelled("oui", False, "ja"),
    ]


@pytest.mark.parametrize(
    ("label", "row"),
    [
        ('choices = ["a", "b"], answer = "l"', {"a": "wrong", "b": "right", "l": 1}),
        ('choices = ["a", "b"], answer = "l", keys = ["1", "2"]', {"a": "wrong", "b": "right", "l": "2"}),
        ('choices = "c", answer = "l"', {"c": ["wrong", "", "right"], "l": 2}),
        (
            'choices = "c.text", keys = "c.label", answer = "l"',
            {"c": {"text": ["right", "wrong"], "label": ["A", "B"]}, "l": "A"},
        ),
    ],
)
def test_choices_by_index_and_by_key(label: str, row: dict[str, Any]) -> None:
    entry = entry_of(f'form = "choices", {label}', "{q} {candidate}")
    assert pairs(entry, {"q": "q:"} | row) == [("q: right", True), ("q: wrong", False)]
    for unknown in ("Z", 9, -1, None):
        assert pairs(entry, {"q": "q:"} | row | {"l": unknown}) == []


@pytest.mark.parametrize(
    ("entry", "row", "message"),
    [
        (
            entry_of('form = "values", column = "l", positive = [1], negative = [0]'),
            {"l": 1},
            r"'text' is missing \(fo",
        ),
        (
            entry_of('form = "values", column = "a.b", positive = [1], negative = [0]'),
            {"a": 1},
            "'a.b' is missing .*int",
        ),
        (entry_of('form = "values", column = "l", positive = [1], negative = [0]'), {"l": 1, "text": 2}, "hold text"),
        (entry_of('form = "threshold", column = "l", at_least = 1, below = 1'), {"l": "1"}, "hold numbers, got str"),
        (entry_of('form = "choices", choices = "c", answer = "l"', "{candidate}"), {"c": [1], "l": 0}, "hold texts"),
        (entry_of('form = "answers", correct = ["c"], wrong = ["w"]', "{candidate}"), {"c": "x"}, "'w' is missing"),
    ],
)
def test_a_column_that_does_not_fit_is_a_reason(entry: HubSet, row: dict[str, Any], message: str) -> None:
    with pytest.raises(hub.Unusable, match=message):
        list(labelled(entry, row))


# ---------------------------------------------------------------- the hub, as local folders


def words(number: int, kind: str = "text") -> list[str]:
    return [f"{kind} number {i} of many" for i in range(number)]


def save(folder: Path, **splits: dict[str, list[Any]]) -> Path:
    for split, columns in splits.items():
        datasets.Dataset.from_dict(columns).to_parquet(str(folder / split / "0000.parquet"))
    return folder


def use(monkeypatch: pytest.MonkeyPatch, *entries: HubSet) -> None:
    monkeypatch.setattr(suite_module, "suite_entries", lambda: {entry.name: entry for entry in entries})


LABEL = 'form = "values", column = "label", positive = [1], negative = [0]'
SPLITS: dict[str, Any] = {"split": None, "train": "train", "test": "test"}


def plain(number: int, kind: str) -> dict[str, list[Any]]:
    return {"text": words(number, kind), "label": [i % 2 for i in range(number)]}


def test_a_data_set_with_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = plain(40, "train"), plain(20, "test")
    train["text"] += ["test number 4 of many", "twice", "twice", "train number 0 of many", " "]
    train["label"] += [0, 0, 1, 0, 1]
    folder = save(tmp_path / "data", train=train, test=test)
    use(monkeypatch, entry_of(LABEL, dataset=str(folder), note="a note", uncertain=True, **SPLITS))
    suite = load()
    one = suite.sets[0]
    expected = {(text, i % 2 == 1) for i, text in enumerate(words(40, "train"))}
    assert texts_of(suite, one) == expected
    assert texts_of(suite, one, "test") == {(text, i % 2 == 1) for i, text in enumerate(words(20, "test"))}
    notes = one.notes["train"]
    assert notes["texts_of_the_test_part_left_out"] == 1
    assert notes["texts_with_both_labels_left_out"] == 1
    assert (notes["duplicates_left_out"], notes["bad_texts_left_out"], notes["read"]) == (2, 1, 45)
    assert (one.notes["licence"], one.notes["note"], one.notes["uncertain"]) == ("MIT", "a note", True)
    assert suite.name == "suite"
    json.dumps(suite.details())
    limited = load(train_limit=10, test_limit=4).sets[0]
    assert (len(limited.train.texts), limited.train.labels.sum(), limited.test.labels.sum()) == (10, 5, 2)


def test_one_split_is_divided_by_the_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    questions = words(200, "question")
    columns = {"q": questions, "good": ["yes"] * 200, "bad": [["no", "never"]] * 200}
    folder = save(tmp_path / "data", validation=columns)
    rule = 'form = "answers", correct = ["good"], wrong = ["bad"]'
    use(monkeypatch, entry_of(rule, "{q} {candidate}", dataset=str(folder), split="validation"))
    suite = load()
    train, test = ({text.rsplit(" ", 1)[0] for text, _ in texts_of(suite, suite.sets[0], part)} for part in PARTS)
    assert train | test == set(questions)
    assert not train & test
    assert 30 <= len(test) <= 70
    assert suite.sets[0].train.labels.mean() == suite.sets[0].test.labels.mean() == 0.5
    assert load(seed=3).sets[0].digest == suite.sets[0].digest


def test_several_configurations_are_read_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "data"
    for other in ("en", "fr"):
        rows = [{"de": f"deutsch {i}", other: f"{other} {i}"} for i in range(200)]
        datasets.Dataset.from_dict({"translation": rows}).to_parquet(str(folder / f"de-{other}" / "train.parquet"))
    (folder / "README.md").write_text(
        "---\nconfigs:\n"
        + "".join(f"- config_name: de-{o}\n  data_files: de-{o}/train.parquet\n" for o in ("en", "fr"))
        + "---\n"
    )
    rule = 'form = "answers", correct = ["translation.de"], wrong = ["translation.en", "translation.fr"]'
    fields = {"dataset": str(folder), "configs": ("de-en", "de-fr"), "rows": 120, "balanced": True}
    use(monkeypatch, entry_of(rule, "{candidate}", **fields))
    suite = load()
    one = suite.sets[0]
    found = texts_of(suite, one) | texts_of(suite, one, "test")
    assert {text for text, label in found if label} == {f"deutsch {i}" for i in range(60)}
    assert {text.split()[0] for text, label in found if not label} == {"en", "fr"}
    assert one.train.labels.mean() == 0.5
    assert one.source == f"hub: {folder} (de-en, de-fr) at main"


def test_a_folder_of_a_converted_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("justice", "virtue"):
        save(tmp_path / "data" / name, train=plain(40, name), test=plain(20, f"{name} test"))
    fields = {"dataset": str(tmp_path / "data"), "revision": "refs/convert/parquet"} | SPLITS
    use(monkeypatch, entry_of(LABEL, folder="virtue", **fields))
    suite = load()
    assert {text.split()[0] for text, _ in texts_of(suite, suite.sets[0])} == {"virtue"}


def test_sets_of_one_source_are_read_once_and_only_the_first_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save(tmp_path / "data", train=plain(400, "train"), test=plain(400, "test"))
    opened = []
    plainly = hub.open_rows
    monkeypatch.setattr(hub, "open_rows", lambda *a: [opened.append(a[2]), plainly(*a)][1])
    other = 'form = "values", column = "label", positive = [0], negative = [1]'
    fields = {"dataset": str(folder), "rows": 100} | SPLITS
    use(monkeypatch, entry_of(LABEL, **fields), entry_of(other, name="two", **fields))
    suite = load()
    assert opened == ["train", "test"]
    assert [one.notes["train"]["read"] for one in suite.sets] == [100, 100]
    assert suite.sets[0].digest != suite.sets[1].digest
    assert suite.groups() == [[0, 1]]
    assert load(names="two").sets[0].digest == suite.sets[1].digest


def test_what_cannot_be_used_is_skipped_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = save(tmp_path / "good", train=plain(40, "a"), test=plain(20, "b"))
    few = save(tmp_path / "few", train=plain(40, "a"), test=plain(3, "b"))
    use(
        monkeypatch,
        entry_of(LABEL, name="fine", dataset=str(good), **SPLITS),
        entry_of(LABEL, name="few", dataset=str(few), **SPLITS),
        entry_of(LABEL, name="no_split", dataset=str(good), split="validation"),
        entry_of(LABEL, name="no_config", dataset=str(good), configs=("x",), **SPLITS),
        entry_of(LABEL, "{body}", name="no_column", dataset=str(good), **SPLITS),
        entry_of(LABEL, name="nowhere", dataset=str(tmp_path / "nowhere"), **SPLITS),
    )
    suite = load()
    assert [one.name for one in suite.sets] == ["fine"]
    assert list(suite.skipped) == ["few", "no_column", "no_config", "no_split", "nowhere"]
    for name, message in {
        "few": "the test part has 1 positive and 2 negative texts, and each class needs at least 2",
        "no_column": r"the column 'body' is missing \(found: 'text', 'label'\)",
        "no_config": "could not be loaded",
        "no_split": "could not be loaded",
        "nowhere": "could not be loaded",
    }.items():
        assert re.search(message, suite.skipped[name])
        assert suite.skipped[name].endswith(".")
        assert "\n" not in suite.skipped[name]
    assert suite.details()["coverage"] == "1 of 6"
    nothing = load(names="no*")
    assert (nothing.sets, nothing.tokens.n_units, nothing.groups()) == ((), 0, [])


def test_a_tokenizer_that_does_not_fit_is_an_error_not_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save(tmp_path / "data", train=plain(40, "a"), test=plain(20, "b"))
    use(monkeypatch, entry_of(LABEL, dataset=str(folder), **SPLITS))
    with pytest.raises(DataError, match="below the vocabulary size 2"):
        load(vocab_size=2)


class Hub:
    """A hub of five data sets that answers as it is told, and remembers who asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **answers: Exception | None) -> None:
        self.asked: list[str] = []
        self.answers = answers
        monkeypatch.setattr(hub, "open_rows", self.open_rows)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        use(monkeypatch, *(entry_of(LABEL, name=name, dataset=name, split="train") for name in answers))

    def open_rows(self, entry: HubSet, config: str | None, split: str) -> Iterator[dict[str, Any]]:
        self.asked.append(entry.name)
        answer = self.answers[entry.name]
        if answer is not None:
            raise answer
        return iter([{"text": text, "label": i % 2} for i, text in enumerate(words(100))])


DOWN = ConnectionError("Couldn't reach 'a' on the Hub\nmore")


def test_when_the_hub_does_not_answer_the_others_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    there = Hub(monkeypatch, a=DOWN, b=None, c=None)
    suite = load()
    assert there.asked == ["a"]
    assert suite.skipped == {
        "a": "The Hugging Face hub cannot be reached (ConnectionError: Couldn't reach 'a' on the Hub).",
        "b": "b was not tried, since the Hugging Face hub did not answer before.",
        "c": "c was not tried, since the Hugging Face hub did not answer before.",
    }


def test_in_offline_mode_every_set_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    there = Hub(monkeypatch, a=DOWN, b=None, c=DOWN, d=None)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    assert [one.name for one in load().sets] == ["b", "d"]
    assert there.asked == ["a", "b", "c", "d"]


def test_a_connection_lost_once_does_not_stop_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    late = RuntimeError("no luck")
    late.__cause__ = TimeoutError("too slow")
    there = Hub(monkeypatch, a=None, b=DOWN, c=None, d=late, e=None)
    assert [one.name for one in load().sets] == ["a", "c"]
    assert there.asked == ["a", "b", "c", "d"]


def test_a_gated_set_does_not_stop_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    gated = datasets.exceptions.DatasetNotFoundError("Dataset 'a' is a gated dataset on the Hub. Ask.")
    there = Hub(monkeypatch, a=gated, b=None)
    suite = load()
    assert there.asked == ["a", "b"]
    said = "DatasetNotFoundError: Dataset 'a' is a gated dataset on the Hub. Ask"
    assert suite.skipped == {"a": f"a could not be loaded ({said})."}


def test_without_a_network_a_real_entry_is_skipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    suite = load(names="cola,gpt2_disc")
    assert suite.skipped["cola"].startswith("The Hugging Face hub cannot be reached (ConnectionError: Couldn't reach")
    assert suite.skipped["gpt2_disc"] == suite_entries()["gpt2_disc"].reason + "."


# ---------------------------------------------------------------- made of a corpus


def corpus(number: int, compound: str = "Social\n security") -> list[str]:
    """Documents of which every fourth has the compound, every fourth each of its words beside another."""
    middle = (compound, "antisocial security", "social housing", "neither")
    around = [" ".join(f"w{(7 * i + j) % 997}x{i}" for j in range(60)) for i in range(number)]
    return [f"{text} {middle[i % 4]} {text[::-1]}" for i, text in enumerate(around)]


def made(texts: list[str], names: str, **options: Any) -> Suite:
    return load(map(Document, texts), names=names, **options)


def test_phrases_end_with_the_compound_or_with_one_word_of_it_beside_another() -> None:
    suite = made(corpus(800), "phrase_social_security")
    one = suite.sets[0]
    for part in PARTS:
        found = texts_of(suite, one, part)
        ends = Counter((" ".join(text.split()[-2:]).lower(), label) for text, label in found)
        assert set(ends) == {("social security", True), ("antisocial security", False), ("social housing", False)}
        assert ends["antisocial security", False] == ends["social housing", False], "half of the negative texts each"
        assert ends["social security", True] == 2 * ends["social housing", False]
        assert {len(text.split()) for text, _ in found} == {22}
    assert one.notes["texts_looked_at"] == 800
    assert 180 <= len(one.train.texts) + len(one.test.texts) - 200 <= 200
    assert one.source == "windows before 'social security' of the corpus"


def test_a_phrase_that_is_too_long_keeps_its_end() -> None:
    """Cut at its start: what the label is about stands at the end."""
    suite = made(corpus(800), "phrase_social_security", context=6)
    found = texts_of(suite, suite.sets[0])
    assert {len(text.split()) for text, _ in found} == {5}
    assert {text.split()[-1].lower() for text, label in found if label} == {"security"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("He paid by credit card at once", [("He paid by credit card", "")]),
        ("the library card desk", [("the library card", "second")]),
        ("it got credit points for it", [("it got credit points", "first")]),
        ("Credit-card and CREDIT\ncards", [("Credit-card", "")]),
        ("one CREDIT\ncards", [("one CREDIT\ncards", "first")]),
        ("card", []),
        ("no credit", []),
        ("a credit. A card", [("a credit. A card", "second")]),
        ("42 card of 7 credit 9", []),
        ("a card index and a credit note", [("a card", "second")]),
        (f"a card index {'word ' * 20}credit note", [("a card", "second"), (f"{'word ' * 20}credit note", "first")]),
    ],
)
def test_windows_of_a_phrase(text: str, expected: list[tuple[str, str]]) -> None:
    """The second of two that overlap is left out, and a word alone is no pair."""
    windows = offline._Phrases({"one": "credit card"}).windows(text)
    assert [(window, kind) for _, window, kind in windows] == expected


def test_windows_are_those_of_the_field(shared: Path) -> None:
    """An oracle that was written from the specification: a negative window that holds the compound is left out."""
    oracle = json.loads((shared / "specs_oracles.json").read_text())["probe.phrase_cut"]
    windows = offline._Phrases({"one": oracle["inputs"]["phrase"]}).windows(oracle["inputs"]["text"])
    assert [window for _, window, _ in windows] == oracle["expected"]["kept"]


def test_pieces_of_one_document_are_on_one_side() -> None:
    texts = [f"d{i} d{i} d{i} " + " ".join(f"{t} d{i}" for t in text.split()) for i, text in enumerate(corpus(900))]
    suite = made(texts, "phrase_social_security,base64")
    for one in suite.sets:
        train, test = (
            {word for text, _ in texts_of(suite, one, part) for word in decoded(text).split() if word[0] == "d"}
            for part in PARTS
        )
        assert len(train - {"d"}) > 50
        assert len(test) > 20
        assert not {word for word in train & test if re.fullmatch(r"d\d+", word)}


def test_pieces_of_one_group_are_on_one_side() -> None:
    """What a source says in the train part it says again in the test part."""
    documents = [
        Document(" ".join(f"{t} d{i % 50}" for t in text.split()), str(i % 50)) for i, text in enumerate(corpus(900))
    ]
    suite = load(iter(documents), names="phrase_social_security,base64")
    for one in suite.sets:
        train, test = (
            {word for text, _ in texts_of(suite, one, part) for word in decoded(text).split() if word[0] == "d"}
            for part in PARTS
        )
        assert min(len(train), len(test)) > 5
        assert not {word for word in train & test if re.fullmatch(r"d\d+", word)}


def decoded(text: str) -> str:
    try:
        return base64.b64decode(text, validate=True).decode()
    except ValueError:
        return text


def test_base64_is_of_pieces_of_other_documents() -> None:
    texts = corpus(300)
    suite = made(texts, "base64", context=512)
    found = texts_of(suite, suite.sets[0]) | texts_of(suite, suite.sets[0], "test")
    sources: dict[bool, set[int]] = {True: set(), False: set()}
    joined = [" ".join(text.split()) for text in texts]
    for text, label in found:
        piece = base64.b64decode(text, validate=True).decode() if label else text
        sources[label].add(next(i for i, document in enumerate(joined) if piece in document))
    assert not sources[True] & sources[False]
    assert min(map(len, sources.values())) > 100
    assert max(len(text) for text, label in found if label) < max(len(text) for text, label in found if not label)


def test_a_corpus_with_too_little_is_a_reason_with_counts() -> None:
    suite = made(corpus(90), "phrase_social_security,phrase_high_school")
    counts = {
        "phrase_high_school": "0 positive and 0 negative",
        "phrase_social_security": "23 positive and 36 negative",
    }
    assert suite.skipped == {
        name: f"In the first 90 texts of the corpus, {count} pieces (as many with either word) were found, and 40 are "
        "needed."
        for name, count in counts.items()
    }
    assert set(load(None, names="base64,phrase_*").skipped.values()) == {
        "It is made of the corpus as text, and token ids were given."
    }


def test_the_corpus_is_read_once_and_not_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline, "MOST_TEXTS", 300)
    read: list[int] = []

    def texts() -> Iterator[Document]:
        for number, text in enumerate(corpus(600)):
            read.append(number)
            yield Document(text)

    names = "base64,phrase_*"
    suite = load(texts(), names=names)
    assert read == list(range(300))
    assert [one.name for one in suite.sets] == ["base64", "phrase_social_security"]
    alone = load(texts(), names="phrase_social_security")
    assert alone.sets[0].digest == suite.sets[1].digest
    with pytest.raises(UsageError, match="no probe set is named 'language_en'"):
        load(texts(), names="language_en")


# ---------------------------------------------------------------- the demo


@pytest.fixture(scope="module")
def demo_suite() -> Suite:
    return load(demo=True, train_limit=256, test_limit=128, context=256)


def by_name(suite: Suite) -> dict[str, LabelledSet]:
    return {one.name: one for one in suite.sets}


def test_the_demo_has_its_attributes_on_its_first_documents(demo_suite: Suite) -> None:
    assert set(by_name(demo_suite)) | set(demo_suite.skipped) == {*demo.ATTRIBUTES, "base64"}
    assert len(demo_suite.sets) >= 35
    for part, split, number in (("train", "train", 256), ("test", "eval", 128)):
        documents = demo.documents(number, split=split)  # type: ignore[arg-type]
        for name in ("language_de", "has_question", "past_tense"):
            expected = {(" ".join(d.text.split()), d.attributes[name]) for d in documents}
            assert texts_of(demo_suite, by_name(demo_suite)[name], part) == expected
    assert demo_suite.name == "demo"
    assert max(map(len, demo_suite.groups())) >= 35
    assert "same world" in by_name(demo_suite)["language_de"].notes["note"]


def test_the_demo_is_the_same_again_and_in_part(demo_suite: Suite) -> None:
    again = load(demo=True, train_limit=256, test_limit=128, context=256)
    assert again.sha256 == demo_suite.sha256
    assert again.tokens.sha256 == demo_suite.tokens.sha256
    part = load(demo=True, train_limit=256, test_limit=128, context=256, names="language_*,base64")
    assert {one.name: one.digest for one in part.sets} == {
        one.name: one.digest for one in demo_suite.sets if one.name == "base64" or one.name.startswith("language_")
    }
    with pytest.raises(UsageError, match="no probe set is named 'cola'"):
        load(demo=True, names="cola")


def test_an_attribute_that_is_too_rare_is_a_reason() -> None:
    suite = load(demo=True, train_limit=16, test_limit=16, context=256)
    assert re.fullmatch(
        r"In the first documents of the demo, the (train|test) part has \d+ positive and \d+ negative texts, and each "
        r"class needs at least 8\.",
        suite.skipped["language_es"],
    )
