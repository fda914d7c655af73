"""What known truth says of a metric: the lock that holds it, and what counts of it."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_bench import standing
from sae_bench.errors import TaskError
from sae_bench.standing import InWorld, Standing

# --- the file --------------------------------------------------------------------------------------------------------

LETTERS = st.characters(codec="utf-8").filter(str.isprintable)
TEXT = st.text(LETTERS, max_size=30)
NAMES = st.text(LETTERS, min_size=1, max_size=12)
FLOATS = st.none() | st.floats(allow_nan=False, allow_infinity=False)
WORLDS = st.builds(
    InWorld,
    features=FLOATS,
    signal=FLOATS,
    blind=st.lists(NAMES, max_size=3).map(tuple),
    rungs=st.integers(0, 99),
    draws=st.integers(0, 9),
)
STANDINGS = st.builds(
    Standing,
    digest=TEXT,
    claims=st.sampled_from([None, "features", "fidelity"]),
    ranked=st.booleans(),
    why=st.none() | TEXT,
    worlds=st.dictionaries(NAMES, WORLDS, max_size=2),
)
METRICS = st.text("abz019_.-", min_size=1, max_size=12)


@given(st.dictionaries(st.tuples(st.from_regex(r"[a-z][a-z0-9_]{0,9}", fullmatch=True), METRICS), STANDINGS))
def test_what_is_written_is_read_again_whatever_it_says(made: dict[tuple[str, str], Standing]) -> None:
    lock = {f"{task}.{metric}": one for (task, metric), one in made.items()}
    with TemporaryDirectory() as folder:
        file = Path(folder) / standing.FILE
        standing.write(file, lock)
        assert standing.read(file) == lock


def test_no_lock_says_nothing(tmp_path: Path) -> None:
    assert standing.read(tmp_path / standing.FILE) == {}


@pytest.mark.parametrize(("text", "said"), [
    ("[a.b\n", "not valid TOML"),
    ("a = 1\n", "'a'"),
    ('[a.b]\ndigest = "1"\n', "'a.b.ranked': Field required"),
    ('[a.b]\ndigest = "1"\nranked = "perhaps"\n', "'a.b.ranked'"),
    ('[a.b]\ndigest = "1"\nranked = true\nbest = true\n', "'a.b.best'"),
    ('[a.b]\ndigest = "1"\nranked = true\nclaims = "all"\n', "'a.b.claims'"),
    ('[a.b]\ndigest = "1"\nranked = true\n[a.b.worlds.w]\nrungs = 1\ndraws = 1\nfeatures = nan\n', "features"),
    ('[a.b]\ndigest = "1"\nranked = true\n[a.b.worlds.w]\nrungs = -1\ndraws = 1\n', "rungs"),
])  # fmt: skip
def test_a_lock_that_says_nothing_clear_is_refused_with_its_field(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / standing.FILE
    file.write_text(text)
    with pytest.raises(TaskError) as refused:
        standing.read(file)
    assert str(file) in str(refused.value)
    assert said in str(refused.value)


def test_an_entry_of_another_definition_counts_as_none() -> None:
    lock = {"a.b": Standing(digest="1", claims="features", ranked=True)}
    assert standing.standing(lock, "a", "b", "1") is lock["a.b"]
    assert standing.standing(lock, "a", "b", "2") is None
    assert standing.standing(lock, "a", "c", "1") is None
    assert standing.standing(lock, "b", "b", "1") is None
