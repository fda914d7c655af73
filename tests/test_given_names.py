"""Names of results: told, else of what an SAE is, and never of the order in which SAEs were given."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sae_bench
from sae_bench import demo, load_sae
from sae_bench.api import REPEAT, Session
from sae_bench.engine.workspace import Entry
from sae_bench.errors import CoderError, UsageError
from sae_bench.results import store
from sae_bench.saes.load import expand
from sae_bench.saes.overcomplete import wrap
from sae_bench.settings import Settings, Told
from sae_bench.verify import verify
from tests.builders.dense import QUICK, Dense, measured
from tests.builders.overcomplete_saes import TopKSAE
from tests.builders.tiny_models import WIDTH, tiny_gpt2
from tests.builders.tiny_saes import tiny_coder, write_native
from tests.builders.token_rows import HOOK, coder, token_rows
from tests.conftest import Run

pytestmark = pytest.mark.filterwarnings("ignore:.* is wrapped")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])


def names(results: list[Any]) -> list[str]:
    return [result.sae.name for result in results]


def test_a_told_name_changes_the_name_alone(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    (plain,), (told,) = measured(Dense()), measured(Dense(), name="lr=0.1", out=out)
    assert (plain.sae.name, told.sae.name) == ("tests.builders.dense.Dense", "lr=0.1")
    assert told.protocol == plain.protocol
    assert told.sae.weights_sha256 == plain.sae.weights_sha256
    assert told.metrics == plain.metrics
    assert "name" not in REPEAT
    assert "name" not in told.provenance.settings
    (file,) = store.find(out)
    assert file.parts[-3] == "lr__0.1"
    report = verify(str(file), Dense(), model=tiny_gpt2(), data=token_rows(), share=1)
    assert report.wrong == []
    assert report.rows > 0


def test_what_says_its_name_keeps_it_unless_told(tmp_path: Path) -> None:
    own = coder("mine")
    assert names(measured(own)) == ["mine"]
    assert names(measured(own, name="yours")) == ["yours"]
    assert own.info.name == "mine"
    assert wrap(TopKSAE(), hook=HOOK).info.name == "tests.builders.overcomplete_saes.TopKSAE"
    (tmp_path / "over.py").write_text(
        "from sae_bench.saes.overcomplete import wrap\nfrom tests.builders.overcomplete_saes import TopKSAE\n"
        f"def one():\n    return wrap(TopKSAE(), hook={HOOK!r})\n"
        f"def two():\n    return wrap(TopKSAE(), hook={HOOK!r}, name='x')\n"
    )
    assert [load_sae(f"over:{factory}").info.name for factory in ("one", "two")] == ["over.one", "x"]
    sys.modules.pop("over")


@pytest.mark.parametrize("name", ["", "  ", "\n", "a\nb", "...", 3, Path("x")])
def test_what_is_no_name_is_refused(name: Any) -> None:
    with pytest.raises(UsageError, match="the name of an SAE must be a line of text"):
        Settings(name=name)
    with pytest.raises(UsageError, match="the name of an SAE must be a line of text"):
        measured({name: Dense()})


def test_one_name_is_of_one_sae(cli: Run) -> None:
    code, _, err = cli("run", "--sae", "demo/topk*", "--name", "x", "--quiet")
    assert code == 2
    assert "the name x can be of one SAE only" in err.strip().splitlines()[-1]
    for sae, settings in (
        ([Dense(), Dense(1)], {"name": "x"}),
        ({"x": "demo/topk*"}, {"model": "demo", "data": "demo"}),
    ):
        with pytest.raises(UsageError, match="the name x can be of one SAE only"):
            measured(sae, **settings)
    with pytest.raises(UsageError, match="not both"):
        measured({"x": Dense()}, name="y")
    with pytest.raises(UsageError, match="at least one"):
        measured({})


def test_a_mapping_names_several() -> None:
    assert names(measured({"b": Dense(), "a": coder("mine"), "c": Dense()})) == ["b", "a", "c"]


def found(given: list[Any]) -> set[tuple[str, ...]]:
    """Name, digest and protocol of every SAE, and where its result is looked for."""
    session = Session(given, Settings(model=tiny_gpt2(), data=token_rows(), hook_in=HOOK, **QUICK))
    out = set()
    for work in session.work:
        (digest, protocol), record = work.protocols["reconstruction"], work.record
        file = store.path_of("runs", record, "reconstruction", protocol.version, digest)
        out.add((record.name, record.weights_sha256, digest, str(file)))
    assert len(out) == len(given)
    return out


def folders(root: Path) -> list[str]:
    """Files of equal names and some of equal weights: only their folders differ."""
    made = []
    for place, seed in (("lr1/sae", 0), ("lr2/sae", 1), ("old/lr1/sae", 0), ("other", 2)):
        coder_there = tiny_coder("topk", seed=seed, d_in=WIDTH, hook=HOOK)
        made.append(str(write_native(coder_there, root / place, name="sae" if place != "other" else None)))
    return made


def test_no_order_changes_a_name(tmp_path: Path) -> None:
    sources = folders(tmp_path)
    objects = [Dense(0), Dense(1), coder("sae", n=10)]
    for given in (sources, [*objects, sources[0]], [sources[0], sources[1], objects[2]]):
        orders = list(itertools.permutations(given))
        expected = found(given)
        assert all(found(list(order)) == expected for order in orders[1::5])
    assert {name for name, *_ in found(sources[:2])} == {"sae (lr1)", "sae (lr2)"}
    assert {name for name, *_ in found([sources[0], sources[2]])} == {f"sae ({tmp_path.name})", "sae (old)"}
    assert {name for name, *_ in found([sources[0], sources[3]])} == {"sae", "other"}
    dense = {name: digest for name, digest, *_ in found(objects[:2])}
    assert all(name == f"tests.builders.dense.Dense ({digest[:8]})" for name, digest in dense.items())


def test_the_same_thing_twice_is_one_sae_or_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (folder, *_) = folders(tmp_path)
    Path("link").symlink_to(folder)
    spellings = [folder, "lr1/sae", "./lr1/../lr1/sae/", "link", str(tmp_path / "link")]
    results = {tuple(expand(list(order))) for order in itertools.permutations(spellings)}
    assert results == {(str(tmp_path / "link"),)}
    assert len(measured(["lr1/sae", Path(folder)])) == 1
    same = Dense()
    for given in ([same, same], [same, Dense()], [folder, same, folder]):
        with pytest.raises(UsageError, match="tell them apart"):
            measured(given)


def test_a_second_run_finds_the_results_of_the_same_saes_in_another_order(tmp_path: Path) -> None:
    sources = folders(tmp_path)[:2]
    first = measured(sources, out=tmp_path / "runs")
    settings = Settings(model=tiny_gpt2(), data=token_rows(), hook_in=HOOK, out=tmp_path / "runs", **QUICK)
    session = Session(sources[::-1], settings)
    assert session.missing == []
    assert [r.metrics for r in session.run(lambda *_: None)] == [r.metrics for r in first[::-1]]


def test_names_of_the_demo_stay(cli: Run) -> None:
    session = Session(["demo/*", "demo"], Settings(**QUICK))
    assert sorted(work.record.name for work in session.work) == sorted(f"demo/{name}" for name in demo.SAE_NAMES)


# ------------------------------------------------------------------------------------------- what is told of objects


def test_a_hook_that_is_told_moves_a_coder_for_this_run_only(tmp_path: Path) -> None:
    own, other = coder("mine"), "blocks.0.hook_resid_post"
    (result,) = measured(own, hook_in=other)
    assert result.sae.hooks_in == (other,)
    assert own.info.hooks_in == (HOOK,)
    (tmp_path / "ready.py").write_text("from tests.builders.token_rows import coder\nsae = coder('mine')\n")
    assert load_sae("ready:sae", told=Told(hook_in=other)).info.hooks_in == (other,)
    assert load_sae("ready:sae").info.hooks_in == (HOOK,)
    sys.modules.pop("ready")
    with pytest.raises(CoderError, match="--k says nothing about code of your own"):
        measured(own, k=3)


def test_labels_are_keys() -> None:
    """Sentences about an SAE call it what its results are called."""
    session = Session({"x": Dense()}, Settings(model=tiny_gpt2(), data=token_rows(), hook_in=HOOK, **QUICK))
    entry: Entry = session.work[0].entry
    assert (entry.key, entry.label) == ("x", "x")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"tasks": ["sparsity"]}, "tasks must be a text or None, but it is \"['sparsity']\" (list)"),
        ({"suite": None}, "suite must be a text or a path, but it is 'None' (NoneType)"),
        ({"controls": None}, "controls must be a text, but it is 'None'"),
        ({"limit": "8"}, "limit must be a whole number or None, but it is '8' (str)"),
        ({"limit": True}, "limit must be a whole number or None, but it is 'True' (bool)"),
        ({"seed": 1.5}, "seed must be a whole number, but it is '1.5' (float)"),
        ({"packed": "yes"}, "packed must be True or False, but it is 'yes' (str)"),
        ({"parameters": [1]}, "parameters must be a mapping, but it is '[1]' (list)"),
        ({"out": 3}, "out must be a text or a path or None, but it is '3' (int)"),
        ({"device": 0}, "device must be a text, but it is '0' (int)"),
    ],
    ids=str,
)
def test_a_setting_of_another_type_is_one_sentence(given: dict[str, Any], says: str) -> None:
    for asked in (lambda: Settings(**given), lambda: sae_bench.evaluate("demo", **given)):
        with pytest.raises(UsageError) as refused:
            asked()
        assert says in str(refused.value)


def test_numbers_of_numpy_are_numbers() -> None:
    assert Settings(limit=np.int64(8), threshold=np.float32(0.5), checkpoint_seconds=1).limit == 8  # type: ignore[arg-type]
