"""A folder whose files are of several splits is asked about; one of plain shards is read whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from sae_bench.cli.main import main
from sae_bench.data.readers import open_source
from sae_bench.data.sources import TextSource
from sae_bench.errors import DataError, UsageError
from sae_bench.resolve import corpus
from sae_bench.settings import Settings


def folder(path: Path, *names: str) -> Path:
    """Files of one document each, which is their name."""
    for name in names:
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".parquet"):
            Dataset.from_dict({"text": [name]}).to_parquet(str(file))
        else:
            file.write_text(json.dumps({"text": name}) + "\n")
    return path


def texts(source: Any, split: str | None = None) -> list[str]:
    opened = open_source(source, "text", split)
    assert isinstance(opened, TextSource)
    return list(opened.texts)


SEVERAL = {
    "files": ("test.jsonl", "train.jsonl", "validation.jsonl"),
    "shards of the hub": (
        "train-00000-of-00002.parquet",
        "train-00001-of-00002.parquet",
        "test-00000-of-00001.parquet",
    ),
    "shards in data": ("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"),
    "folders": ("test/0000.parquet", "train/0000.parquet"),
    "folders in data": ("data/test/0.jsonl", "data/train/0.jsonl", "data/train/1.jsonl"),
    "words inside names": ("c4-test.00000.jsonl", "c4-train.00000.jsonl"),
    "short words": ("dev.jsonl", "train.jsonl"),
    "capitals": ("Test.jsonl", "Train.jsonl"),
    "names of the hub's own": ("data/german-00000-of-00001.parquet", "data/train-00000-of-00001.parquet"),
    "no known word": ("de-00000-of-00001.parquet", "en-00000-of-00001.parquet"),
    "a folder that is named like one": ("test_set/test.jsonl", "test_set/train.jsonl"),
    "a number after the word": ("test1.jsonl", "train1.jsonl", "train2.jsonl"),
    "evaluation": ("eval.jsonl", "test.jsonl"),
}


@pytest.mark.parametrize("kind", SEVERAL)
def test_several_splits_are_asked_about_and_one_of_them_is_read_alone(kind: str, tmp_path: Path) -> None:
    names = SEVERAL[kind]
    with pytest.raises(DataError, match=r"has the splits .*: choose its split; set `split` to one of them") as caught:
        texts(folder(tmp_path, *names))
    assert "\n" not in str(caught.value)
    said = [word.strip("' ") for word in str(caught.value).partition("the splits ")[2].partition(":")[0].split(",")]
    assert len(said) > 1
    read = [texts(tmp_path, split) for split in said]
    assert sorted(name for part in read for name in part) == sorted(names), "every file is of exactly one"
    for split, part in zip(said, read, strict=True):
        assert part
        assert all(split in name.lower() for name in part)
    with pytest.raises(DataError, match="it has no split 'other'"):
        texts(tmp_path, "other")


WHOLE = {
    "plain files": ("a.jsonl", "b.jsonl"),
    "numbered shards": ("part-00000-of-00003.parquet", "part-00001-of-00003.parquet", "part-00002-of-00003.parquet"),
    "shards of one split": ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet"),
    "folders by language": ("de/0.jsonl", "en/0.jsonl"),
    "folders by day": ("2024-01-01/0.parquet", "2024-01-02/0.parquet"),
    "words that only begin alike": ("testimony.jsonl", "trainspotting.jsonl", "validity.jsonl"),
    "one split in folders": ("train/a/0.jsonl", "train/b/0.jsonl"),
    "a title in the only split": ("train/a.jsonl", "train/test-of-time.jsonl"),
    "two spellings": ("val/0.jsonl", "validation/0.jsonl"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", sorted(set(WHOLE) - {"a title in the only split"}))
def test_what_is_one_thing_is_read_whole_in_the_order_of_its_names(kind: str, tmp_path: Path) -> None:
    assert texts(folder(tmp_path, *WHOLE[kind])) == sorted(WHOLE[kind])


def test_a_split_beside_other_files_is_read_whole_with_a_warning(tmp_path: Path) -> None:
    folder(tmp_path, "extra.jsonl", "train.jsonl")
    with pytest.warns(UserWarning, match=r"files of the split 'train', and others such as extra\.jsonl; --split train"):
        assert texts(tmp_path) == ["extra.jsonl", "train.jsonl"]
    assert texts(tmp_path, "train") == ["train.jsonl"]


def test_a_saved_data_set_is_asked_about_like_its_files(tmp_path: Path) -> None:
    parts = {name: Dataset.from_dict({"text": [name]}) for name in ("train", "test", "validation")}
    DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    for name, part in parts.items():
        part.to_parquet(str(tmp_path / "files" / f"{name}-00000-of-00001.parquet"))
    for place in ("saved", "files"):
        with pytest.raises(DataError, match=r"has the splits 'train', .*choose its split"):
            texts(tmp_path / place)
        assert texts(tmp_path / place, "test") == ["test"]


def test_run_asks_with_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder(tmp_path / "data", "test.jsonl", "train.jsonl")
    argv = ["run", "--sae", "demo", "--model", "demo", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    assert main([*argv, "--tasks", "sparsity", "--controls", "none"]) == 2
    assert "has the splits 'train', 'test': choose its split" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "saved"])
def test_a_split_of_what_has_none_is_refused(name: str, tmp_path: Path) -> None:
    from sae_bench import demo
    from sae_bench.models.loading import load_subject

    if name == "saved":
        Dataset.from_dict({"text": ["one", "two"]}).save_to_disk(str(tmp_path / name))
    else:
        (tmp_path / name).write_text('{"text": "one two"}\n\n{"text": "three four"}\n')
    subject, tokenizer = load_subject(demo.MODEL_PATH)
    with pytest.raises(UsageError, match=r"--split train cannot act on .*, which has no splits"):
        corpus(Settings(split="train"), [], subject, tokenizer, tmp_path / name)
    if name == "a.txt":
        with pytest.raises(UsageError, match=r"--text-field body cannot act on .*, whose texts have no fields"):
            corpus(Settings(text_field="body"), [], subject, tokenizer, tmp_path / name)
