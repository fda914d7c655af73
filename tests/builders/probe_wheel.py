"""A wheel in the form of the package sae-probes, with 40 texts a table, made here."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import zipfile
from collections.abc import Iterable
from dataclasses import replace
from itertools import count
from pathlib import Path

import pyarrow as pa
import pytest

from sae_bench.data.labelled import package, wheels
from sae_bench.data.labelled.encode import side_of
from sae_bench.data.labelled.entries import PackageSet, suite_entries
from sae_bench.data.labelled.wheels import SAE_PROBES, Wheel

ROWS = 40


def table(rows: list[tuple[str, str]], extra: bool = True) -> bytes:
    """A table as the package has it: everything in quotes, and the length of another tokenizer in between."""
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(["prompt", "prompt_len", "target"] if extra else ["prompt", "target"])
    for prompt, target in rows:
        writer.writerow([prompt, "999", target] if extra else [prompt, target])
    return text.getvalue().encode()


def packed(content: bytes) -> bytes:
    """The content as a Zstandard frame."""
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


def texts(entry: PackageSet, *, shifted: bool = False) -> list[tuple[str, str]]:
    """Half of the rows positive, a quarter of each half in the test part; with a space, a line end and quotes."""
    file = entry.shifted if shifted else entry.file
    found: list[tuple[str, str]] = []
    for word, target in (("yes", entry.label.positive[0]), ("no", entry.label.negative[0])):
        made = (f' {word} {file} number {i},\nsaid "{word}"' for i in count())
        left = {"train": ROWS // 2 - ROWS // 8, "test": ROWS // 8}
        while any(left.values()):
            text = next(made)
            if left[side_of(text)]:
                left[side_of(text)] -= 1
                found.append((text, str(target)))
    return found


def wheel_of(folder: Path, tables: dict[str, bytes], name: str = SAE_PROBES.file) -> Wheel:
    """A zip with these members, and the record that pins it."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in tables.items():
            archive.writestr(zipfile.ZipInfo(member), content)
    content = (folder / name).read_bytes()
    return replace(SAE_PROBES, size=len(content), sha256=hashlib.sha256(content).hexdigest())


def whole() -> dict[str, bytes]:
    """The members of a wheel with every table that an entry names."""
    inside = dict(SAE_PROBES.inside)
    found: dict[str, bytes] = {}
    for entry in suite_entries().values():
        if isinstance(entry, PackageSet):
            found[inside["set"].format(entry.file)] = packed(table(texts(entry)))
            if entry.shifted:
                content = table(texts(entry, shifted=True), extra=False)
                found[inside["shifted"].format(entry.shifted)] = packed(content)
    return found


def pin(monkeypatch: pytest.MonkeyPatch, wheel: Wheel, cache: Path) -> None:
    """Make this wheel the one that is wanted, and ``cache`` the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    for module in (package, wheels):
        monkeypatch.setattr(module, "WHEELS", {wheel.package: wheel})


def installed(monkeypatch: pytest.MonkeyPatch, folder: Path, members: dict[str, bytes] | None = None) -> Wheel:
    """A wheel with 40 texts a set, pinned and in the cache."""
    wheel = wheel_of(folder / "made", whole() if members is None else members)
    pin(monkeypatch, wheel, folder / "cache")
    wheels.fetch(wheel, folder / "made" / wheel.file)
    return wheel


def golden() -> dict[str, object]:
    """The digest of the texts of every set with their labels, and of its examples as ids of the demo's tokenizer."""
    from transformers import AutoTokenizer

    from sae_bench import demo
    from sae_bench.data.labelled import LabelledOptions, load_suite

    tokenizer = AutoTokenizer.from_pretrained(demo.MODEL_PATH)
    options = LabelledOptions(context=128, prepend_bos=True, shifted=True)
    suite = load_suite(
        probe_data=None, demo=False, corpus=None, corpus_name="", tokenizer=tokenizer, vocab_size=len(tokenizer),
        options=options,
    )  # fmt: skip
    found: dict[str, dict[str, object]] = {}
    with wheels.Tables(SAE_PROBES) as tables:
        for one in suite.sets:
            entry = suite_entries()[one.name]
            assert isinstance(entry, PackageSet)
            ids, notes = one.digest, one.notes
            found[one.name] = {"texts": _sha(package.examples(entry, tables)), "ids": ids}
            found[one.name]["base_rate"] = notes["test"]["base_rate"]
            found[one.name]["used"] = [notes[part]["used"] for part in ("train", "test")]
            if entry.shifted:
                found[one.name]["shifted"] = _sha(package.examples(entry, tables, shifted=True))
                found[one.name]["shifted_ids"] = notes["shifted_digest"]
    return {"wheel": SAE_PROBES.sha256, "skipped": suite.skipped, "sets": found}


def _sha(examples: Iterable[tuple[str, bool]]) -> str:
    """Of the different texts with their labels, in no order."""
    return hashlib.sha256(json.dumps(sorted(set(examples))).encode()).hexdigest()
