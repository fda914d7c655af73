"""Bad input is one line on standard error with exit code 2, and leaves nothing behind: a member of every kind."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from sae_bench.data.readers import open_source
from sae_bench.files import LINE
from tests.builders.boards import put
from tests.builders.marks import slow_but, slow_but_each
from tests.builders.tiny_models import LAYERS, tiny_gpt2, tiny_llama
from tests.conftest import Run

RESULTS = Path(__file__).parents[1] / "results"
SMALL = ("--limit", 8, "--resamples", 50, "--quiet", "--controls", "none", "--tasks", "reconstruction")
TEXTS = [f"the cat number {i} sat on the mat and looked at the moon" for i in range(40)]


def one_sentence(found: tuple[int, str, str]) -> str:
    """The one line on standard error of a command that was refused."""
    assert found[0] == 2, found
    assert not found[1]
    lines = found[2].splitlines()
    assert len(lines) == 1, found[2]
    assert lines[0].startswith("sae-bench: ")
    assert lines[0].isprintable()
    return lines[0]


def refused(cli: Run, folder: Path, *arguments: Any) -> str:
    """The sentence of a refused command that wrote nothing."""
    before = sorted(folder.rglob("*"))
    said = one_sentence(cli(*arguments))
    assert sorted(folder.rglob("*")) == before
    return said


# --- text ------------------------------------------------------------------------------------------------------------


def jsonl(*rows: Any) -> bytes:
    return b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)


def table(file: Path, values: Any, **options: Any) -> None:
    pq.write_table(pa.table({"text": values}), file, **options)


def saved(folder: Path, values: list[Any], change: Callable[[dict[str, Any]], None] = lambda state: None) -> None:
    """A folder of `datasets.save_to_disk`."""
    import datasets

    datasets.Dataset.from_dict({"text": values}).save_to_disk(str(folder))
    state = json.loads((folder / "state.json").read_text())
    change(state)
    (folder / "state.json").write_text(json.dumps(state))


GOOD = [{"text": text} for text in TEXTS]
TEXT: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "null, jsonl": ("a.jsonl", lambda f: f.write_bytes(jsonl(*GOOD[:5], {"text": None}, *GOOD)), "line 6"),
    "number, jsonl": ("a.jsonl", lambda f: f.write_bytes(jsonl(*GOOD[:5], {"text": 1.5}, *GOOD)), "line 6"),
    "no field in one row": ("a.jsonl", lambda f: f.write_bytes(jsonl(*GOOD[:5], {"txt": "a"}, *GOOD)), "line 6"),
    "key twice": ("a.jsonl", lambda f: f.write_bytes(jsonl(b'{"text": "a b", "text": "c d"}', *GOOD)), "stands twice"),
    "half a surrogate": ("a.jsonl", lambda f: f.write_bytes(jsonl(b'{"text": "a \\ud800 b"}', *GOOD)), "a.jsonl"),
    "nested": ("a.jsonl", lambda f: f.write_bytes(jsonl(b"[" * 100_000, *GOOD)), "line 1"),
    "null, parquet": ("a.parquet", lambda f: table(f, [*TEXTS, None]), "row 40"),
    "binary, parquet": ("a.parquet", lambda f: table(f, [b"\xff\x00 a"] * 40), "bytes"),
    "binary dictionary": ("a.parquet", lambda f: table(f, pa.array([b"\xff"] * 40).dictionary_encode()), "bytes"),
    "large binary": ("a.parquet", lambda f: table(f, pa.array([b"\xff"] * 40, pa.large_binary())), "bytes"),
    "lists, parquet": ("a.parquet", lambda f: table(f, [[1, 2]] * 40), "list"),
    "records, parquet": ("a.parquet", lambda f: table(f, [{"x": 1}] * 40), "dict"),
    "dates, parquet": ("a.parquet", lambda f: table(f, pa.array([10**18] * 40, pa.timestamp("ns"))), "row 0"),
    "null column": ("a.parquet", lambda f: table(f, pa.nulls(40)), "NoneType"),
    "bad bytes in a text column": (
        "a.parquet",
        lambda f: table(
            f, pa.StringArray.from_buffers(1, pa.py_buffer(np.array([0, 2], "i4")), pa.py_buffer(b"\xff\xfe"))
        ),
        "a.parquet",
    ),
    "null, saved": ("a", lambda f: saved(f, [*TEXTS[:3], None, *TEXTS]), "row 3"),
    "binary, saved": ("a", lambda f: saved(f, [b"\xff"] * 40), "bytes"),
    "saved, other folder": (
        "a",
        lambda f: saved(f, TEXTS, lambda state: state["_data_files"][0].update(filename="../b.arrow")),
        "not in its folder",
    ),
    "saved, absolute": (
        "a",
        lambda f: saved(f, TEXTS, lambda state: state["_data_files"][0].update(filename="/etc/passwd")),
        "not in its folder",
    ),
    "null in the second of two files": (
        "a",
        lambda f: (
            f.mkdir(),
            (f / "a.jsonl").write_bytes(jsonl(*GOOD[:2])),
            (f / "b.jsonl").write_bytes(jsonl({"text": None})),
        ),
        "b.jsonl line 1",
    ),
    "long line, jsonl": ("a.jsonl", lambda f: f.write_bytes(b'{"text": "' + b"a" * LINE + b'"}\n'), "line 1 is longer"),
    "long line, txt": ("a.txt", lambda f: f.write_bytes(b"a\n\n" + b"a" * (LINE + 2)), "line 3 is longer"),
    "long document, txt": ("a.txt", lambda f: f.write_bytes((b"a" * 999 + b"\n") * (LINE // 1000 + 2)), "longer"),
    "long document, marked": (
        "a.txt",
        lambda f: f.write_bytes(b"a b<|endoftext|>" + b"a" * (LINE + 2) + b"<|endoftext|>a"),
        "at byte 16 is longer",
    ),
    "bomb of one line": ("a.jsonl.gz", lambda f: f.write_bytes(gzip.compress(b"0" * (2 * LINE), 1)), "longer"),
    "bomb of many lines": ("a.jsonl.gz", lambda f: f.write_bytes(gzip.compress(b"\n" * 2_000_000, 9)), "unpacks"),
    "bomb of good lines": (
        "a.jsonl.gz",
        lambda f: f.write_bytes(gzip.compress(jsonl({"text": "a b", "pad": "0" * 20_000}) * 500, 9)),
        "unpacks",
    ),
    "bomb, parquet": (
        "a.parquet",
        lambda f: table(f, pa.array(["a" * (LINE + 9)]), compression="zstd", use_dictionary=False),
        "unpacks",
    ),
    "truncated gzip": (
        "a.jsonl.gz",
        lambda f: f.write_bytes(gzip.compress(jsonl(*GOOD))[:-20]),
        "check that it is whole",
    ),
}


@pytest.mark.parametrize(
    "case", slow_but(len(TEXT) - 2, sorted(TEXT, key=("bomb, parquet", "bomb of many lines").__contains__))
)
def test_text_with_a_fault(cli: Run, tmp_path: Path, case: str) -> None:
    name, write, mention = TEXT[case]
    write(tmp_path / name)
    arguments = ("--limit", 30, *SMALL[2:])
    assert mention in refused(cli, tmp_path, "run", "--sae", "demo", "--data", tmp_path / name, *arguments)


def test_rows_that_share_one_long_text_are_read_one_at_a_time(tmp_path: Path) -> None:
    """Of a dictionary a few bytes stand for any number of rows."""
    long = pa.DictionaryArray.from_arrays(pa.array([0] * 150, pa.int32()), pa.array(["a" * (20 << 20)]))
    pq.write_table(pa.table({"text": long}), tmp_path / "a.parquet")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert sum(1 for text in open_source(tmp_path / "a.parquet", "text", None).texts if text) == 150
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600 << 10, "KiB"


LABELLED: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "null": ("train.jsonl", lambda f: f.write_bytes(jsonl({"text": None, "label": 1})), "line 1"),
    "key twice": ("train.jsonl", lambda f: f.write_bytes(b'{"text": "a", "label": 0, "label": 1}\n'), "stands twice"),
    "long line": ("train.jsonl", lambda f: f.write_bytes(b"a" * (LINE + 2)), "line 1 is longer"),
    "binary": (
        "train.parquet",
        lambda f: pq.write_table(pa.table({"text": [b"\xff"], "label": [1]}), f),
        "bytes",
    ),
    "bomb": (
        "train.parquet",
        lambda f: pq.write_table(
            pa.table({"text": ["a" * (LINE + 9)], "label": [1]}), f, compression="zstd", use_dictionary=False
        ),
        "unpacks",
    ),
    "long field, csv": ("train.csv", lambda f: f.write_bytes(b"text,label\n" + b"a" * 10**6 + b",1\n"), "train.csv"),
}


@pytest.mark.parametrize("case", LABELLED)
def test_labelled_text_with_a_fault(cli: Run, tmp_path: Path, case: str) -> None:
    name, write, mention = LABELLED[case]
    (tmp_path / "sets" / "one").mkdir(parents=True)
    write(tmp_path / "sets" / "one" / name)
    (tmp_path / "sets" / "one" / "test.jsonl").write_bytes(
        jsonl({"text": "a b", "label": 1}, {"text": "c", "label": 0})
    )
    small = (*SMALL[:-1], "sparse_probing")
    assert mention in refused(cli, tmp_path, "run", "--sae", "demo", "--probe-data", tmp_path / "sets", *small)


# --- language models -------------------------------------------------------------------------------------------------


def edited(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def pickled(folder: Path) -> None:
    """The same weights as older releases wrote them."""
    model = tiny_gpt2()
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


def indexed(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder.parent / "other.safetensors")
    names = dict.fromkeys(tiny_gpt2().state_dict(), name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))


def headed(folder: Path, header: bytes, size: int | None = None) -> None:
    size = len(header) if size is None else size
    (folder / "model.safetensors").write_bytes(size.to_bytes(8, "little") + header + bytes(64))


MODEL: dict[str, tuple[Callable[[Path], Any], str]] = {
    **{f"n_head {n}": (lambda f, n=n: edited(f, n_head=n), "n_head") for n in (0, -2, 0.5, "4", None, [4])},
    **{f"n_layer {n}": (lambda f, n=n: edited(f, n_layer=n), "n_layer") for n in (0, -1, 10**7, 10**30, 1e9, "3")},
    **{f"n_embd {n}": (lambda f, n=n: edited(f, n_embd=n), "") for n in (0, -16, 10**12, 10**30)},
    **{f"vocab {n}": (lambda f, n=n: edited(f, vocab_size=n), "") for n in (0, -5, 10**10, 10**30)},
    "a width that heads do not divide": (lambda f: edited(f, n_head=3), "divisible"),
    "positions": (lambda f: edited(f, n_positions=10**11), "describes a model"),
    "inner": (lambda f: edited(f, n_inner=10**9), "describes a model"),
    "another type": (lambda f: edited(f, model_type="t5"), ""),
    "no type": (lambda f: edited(f, model_type=None), ""),
    "config is a list": (lambda f: (f / "config.json").write_text("[1]"), "config.json"),
    "config is cut": (lambda f: (f / "config.json").write_text('{"model_type"'), "config.json"),
    "config has a key twice": (
        lambda f: (f / "config.json").write_text((f / "config.json").read_text().replace("{", '{"n_head": 2, ', 1)),
        "stands twice",
    ),
    "pickled": (pickled, "save_pretrained"),
    "index above": (lambda f: indexed(f, "../other.safetensors"), "not in its folder"),
    "index absolute": (lambda f: indexed(f, str(f.parent / "other.safetensors")), "not in its folder"),
    "index of numbers": (lambda f: indexed(f, 3), "weight_map"),  # type: ignore[arg-type]
    "index of nothing": (lambda f: indexed(f, "other.safetensors"), "not there"),
    "weights named above": (lambda f: edited(f, transformers_weights="../x.safetensors"), "not in its folder"),
    "header claims more than there is": (lambda f: headed(f, b"{}", 2**62), "damaged"),
    "header is a list": (lambda f: headed(f, b"[1]"), "damaged"),
    "header without shapes": (lambda f: headed(f, b'{"a": 3}'), "damaged"),
    "header claims a matrix": (
        lambda f: headed(f, b'{"a": {"dtype": "F32", "shape": [1000000, 1000000], "data_offsets": [0, 8]}}'),
        "model",
    ),
    "empty weights": (lambda f: (f / "model.safetensors").write_bytes(b""), "damaged"),
}


@pytest.mark.parametrize("case", MODEL)
def test_a_model_that_cannot_be(cli: Run, tmp_path: Path, case: str) -> None:
    """Before anything is built: a few numbers in a file must not take the memory of the machine."""
    damage, mention = MODEL[case]
    tiny_gpt2().save_pretrained(tmp_path / "model")
    damage(tmp_path / "model")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    where = ("--hook-in", f"blocks.{LAYERS - 1}.hook_resid_post", "--data", "demo")
    said = refused(cli, tmp_path, "run", "--sae", "demo", "--model", tmp_path / "model", *where, *SMALL)
    assert mention in said
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10, "KiB"


@pytest.mark.parametrize("name", ["num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size"])
@pytest.mark.parametrize("value", [0, -1])
def test_sizes_of_another_layout(cli: Run, tmp_path: Path, name: str, value: int) -> None:
    tiny_llama().save_pretrained(tmp_path / "model")
    edited(tmp_path / "model", **{name: value})
    assert name in refused(
        cli, tmp_path, "run", "--sae", "demo", "--model", tmp_path / "model", "--data", "demo", *SMALL
    )


# --- paths and flags -------------------------------------------------------------------------------------------------

PLACES: dict[str, list[Any]] = {
    **{
        f"--{name}": ["run", "--sae", "demo", f"--{name}", "BAD", *SMALL]
        for name in ("out", "data", "model", "task-dir")
    },
    "--probe-data": ["run", "--sae", "demo", "--probe-data", "BAD", *SMALL[:-1], "sparse_probing"],
    "--sae": ["run", "--sae", "BAD", *SMALL],
    "inspect": ["inspect", "BAD"],
    "show": ["show", "BAD"],
    "ls": ["ls", "results", "--out", "BAD"],
    "board": ["board", "BAD"],
    "board --out": ["board", "GOOD", "--out", "BAD"],
    "board --columns": ["board", "GOOD", "--columns", "BAD"],
    "compare": ["compare", "GOOD", "BAD"],
    "check": ["check", "BAD"],
    "check --baseline": ["check", "GOOD", "--baseline", "BAD"],
    "check --gates": ["check", "GOOD", "--gates", "BAD"],
    "check --junit": ["check", "GOOD", "--junit", "BAD"],
    "verify": ["verify", "BAD", "--sae", "demo"],
    "submit": ["submit", "BAD"],
    "submit --to": ["submit", "GOOD", "--to", "BAD"],
    "judge": ["judge", "import", "BAD"],
}
NAMES = {
    "long": "x" * 300,
    "deep": "y/" * 3000 + "x",
    "zero byte": "a\0b",
    "below a file": "./file/x",
    "escape": "\x1b[31mx",
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("place", PLACES)
def test_a_name_that_no_file_has(cli: Run, tmp_path: Path, place: str, name: str) -> None:
    if name == "escape" and place in ("--out", "board --out", "check --junit", "submit --to"):
        pytest.skip("such a file may be written")
    (good,) = RESULTS.glob("demo__topk_k16/*/reconstruction@v*.json")
    (tmp_path / "file").write_text("")
    arguments = [{"GOOD": good, "BAD": NAMES[name]}.get(one, one) for one in PLACES[place]]
    refused(cli, tmp_path, *arguments)


FLAGS: dict[str, list[Any]] = {
    "no verb": [],
    "unknown verb": ["meassure"],
    "unknown flag": ["ls", "--nonsense"],
    "no number": ["run", "--sae", "demo", "--limit", "many"],
    "unknown choice": ["run", "--sae", "demo", "--tier", "huge"],
    "escape in a choice": ["ls", "\x1b[31m"],
    "line break in a flag": ["run", "--sae", "demo", "--limit", "1\n2"],
    "flag without value": ["run", "--sae"],
    "no sae": ["run"],
    "existing file as --out": ["run", "--sae", "demo", "--out", "file", *SMALL],
    "param": ["run", "--sae", "demo", "--param", "x", *SMALL],
    "param nested too deeply": ["run", "--sae", "demo", "--param", f"sparsity.x={'[' * 5000}", *SMALL],
}


@pytest.mark.parametrize("case", FLAGS)
def test_flags_that_say_nothing(cli: Run, tmp_path: Path, case: str) -> None:
    (tmp_path / "file").write_text("")
    refused(cli, tmp_path, *FLAGS[case])


# --- results ---------------------------------------------------------------------------------------------------------

JUNK: dict[str, Any] = {
    "list": [1, "a", None, [[]]],
    "number": 3,
    "huge number": 1e308,
    "text": "\x1b[31mred\x1b[0m \u202e \x9b31m",
    "null": None,
    "empty": {},
    "nested": {"a": {"b": [{"c": [[1, {"d": None}]]}]}},
    "bool": True,
    **{f"deep {n}": json.loads("[" * n + "]" * n) for n in (90, 300)},
}
PARTS = ("details", "sae.provenance", "provenance.data", "provenance.settings", "provenance.model", "details.cautions")
OF_TASKS = ("details.sets", "details.explanations", "details.rules", "details.density_histogram", "details.outputs")


@pytest.mark.parametrize(
    ("part", "junk"),
    slow_but_each(
        3, itertools.product([*PARTS, *OF_TASKS, "provenance.data.skipped", "provenance.data.coverage"], JUNK)
    ),
)
def test_what_a_result_holds_of_other_types(cli: Run, tmp_path: Path, part: str, junk: str) -> None:
    """Such parts have no schema, and files come from elsewhere: they are drawn as they stand, or refused."""
    for name in ("a", "b"):
        put(tmp_path / name, name, "sparsity", {"l0": 3.0})
    (file,) = (tmp_path / "a").rglob("*@v*.json")
    content = json.loads(file.read_text())
    *path, last = part.split(".")
    inner = content
    for name in path:
        inner = inner[name]
    inner[last] = JUNK[junk]
    file.write_text(json.dumps(content))
    for arguments in (
        ["show", file], ["show", file, "--json"], ["board", tmp_path], ["board", tmp_path, "--format", "json"],
        ["board", tmp_path, "--format", "csv"], ["ls", "results", "--out", tmp_path], ["ls", "results", "--json"],
        ["compare", tmp_path / "a", tmp_path / "b"], ["check", file], ["submit", file, "--check-only"],
    ):  # fmt: skip
        code, out, err = cli(*arguments)
        assert code in (0, 1, 2, 3), (arguments, err)
        assert "Traceback" not in err
        assert all(c.isprintable() or c in "\r\n\u200b" for c in out + err), arguments


@pytest.mark.parametrize(
    "name", ["\x1b[31mred", "=cmd|' /C calc'!A0", "  =1+1", "\uff1dcmd", "+1", "-1", "@x", "a\nb", "\x9b31m", "\u202ex"]
)
def test_no_name_acts_on_a_terminal_or_a_spreadsheet(cli: Run, tmp_path: Path, name: str) -> None:
    put(tmp_path, name, "reconstruction", {"fvu": 0.1}, architecture=name, model=name)
    code, out, _ = cli("board", tmp_path, "--format", "csv")
    assert code == 0
    assert all(c.isprintable() or c in "\r\n" for c in out)
    (row,) = [row for row in csv.DictReader(io.StringIO(out, newline="")) if not row["control"]]
    for field in ("sae", "model", "architecture"):
        assert row[field].lstrip()[0] not in "=+-@\uff1d", row[field]
    for arguments in (["board", tmp_path, "--format", "json"], ["show", tmp_path, "--json"]):
        code, out, _ = cli(*arguments)
        assert code == 0
        assert all(c.isprintable() or c == "\n" for c in out)
        assert repr(name)[1:-1] in repr(json.loads(out))


def test_a_name_in_json_is_whole(cli: Run, tmp_path: Path) -> None:
    put(tmp_path, "\x9b\u202e\U000e0001x", "reconstruction", {"fvu": 0.1})
    code, out, _ = cli("ls", "results", "--out", tmp_path, "--json")
    assert code == 0
    assert json.loads(out)[0]["sae"] == "\x9b\u202e\U000e0001x"


def test_the_demo_is_refused_nothing(cli: Run, tmp_path: Path) -> None:
    """The bounds above stop no run that is fine."""
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(jsonl(*GOOD)))
    table(tmp_path / "a.parquet", TEXTS)
    for name in ("a.jsonl.gz", "a.parquet"):
        code, _, err = cli("run", "--sae", "demo", "--data", tmp_path / name, "--out", tmp_path / f"{name}.out", *SMALL)
        assert code == 0, err
