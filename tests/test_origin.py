"""SAEs that are not on this machine yet: what is fetched from the hub, what a registry adds, and what is refused.

No test uses a network. The cache has the layout of huggingface_hub; the hub itself is a class of a few lines.
"""

from __future__ import annotations

import fnmatch
import importlib.util
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import huggingface_hub
import pytest
import torch
import yaml
from huggingface_hub import constants, errors
from huggingface_hub.hf_api import RepoFile, RepoFolder

from sae_bench import hub, resolve
from sae_bench.errors import CoderError
from sae_bench.saes import releases
from sae_bench.saes.hub import Place, chosen, parse
from sae_bench.saes.load import load_sae
from sae_bench.saes.origin import Fetched, fetch
from sae_bench.settings import Told
from tests.builders.tiny_saes import activations, tiny_coder, write_native, write_saelens

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "fedcba9876543210fedcba9876543210fedcba98"
GIB = 1 << 30
Files = dict[str, bytes]


def refusal(source: str) -> str:
    with pytest.raises(CoderError) as error:
        fetch(source)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 700
    return message


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no way to the real hub."""
    folder = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return folder


def put(cache: Path, repository: str, files: Files, commit: str = COMMIT, ref: str | None = "main") -> Path:
    """Files in the cache as huggingface_hub lays them out: content under its digest, and links to it by name."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    for name, content in files.items():
        blob = folder / "blobs" / f"{abs(hash(content)):x}"
        link = folder / "snapshots" / commit / name
        for file in (blob, link):
            file.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        if not link.exists():
            link.symlink_to(Path(*[".."] * (len(Path(name).parts) + 1)) / "blobs" / blob.name)
    if ref is not None:
        (folder / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
        (folder / "refs" / ref).write_text(commit)
    return folder / "snapshots" / commit


class Hub:
    """A hub with one repository; counts requests and notes what is fetched."""

    def __init__(self, cache: Path, files: Files, sizes: dict[str, int]) -> None:
        self.cache, self.files = cache, files
        self.sizes = {name: len(content) for name, content in files.items()} | sizes
        self.fetched: list[str] = []
        self.asked: list[Any] = []
        self.fails: Exception | None = None
        self.fails_late: Exception | None = None

    def repo_info(self, repository: str, *, revision: str, timeout: float) -> Any:
        assert timeout <= 10
        self.asked.append((repository, revision))
        if self.fails:
            raise self.fails
        return SimpleNamespace(sha=COMMIT)

    def list_repo_tree(self, repository: str, *, recursive: bool, revision: str) -> Iterator[Any]:
        assert recursive
        assert revision == COMMIT
        for name, size in self.sizes.items():
            yield RepoFile(path=name, size=size, oid="0")
        yield RepoFolder(path="a-folder", oid="0")

    def snapshot_download(self, repository: str, *, revision: str, allow_patterns: list[str]) -> str:
        if self.fails_late:
            raise self.fails_late
        self.fetched = [n for n in self.files if any(fnmatch.fnmatch(n, p) for p in allow_patterns)]
        content = {name: self.files[name] for name in self.fetched}
        return str(put(self.cache, repository, content, ref=revision))


Online = Callable[..., Hub]


@pytest.fixture
def online(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Online:
    """A function that puts a hub with these files (and other sizes than theirs) in the place of the real one."""

    def start(files: Files, **sizes: int) -> Hub:
        there = Hub(cache, files, sizes)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hub, "silent", lambda: None)
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: there)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", there.snapshot_download)
        return there

    return start


def native_files(tmp_path: Path, below: str = "") -> Files:
    folder = write_native(tiny_coder("topk"), tmp_path / "written")
    return {f"{below}{file.name}": file.read_bytes() for file in folder.iterdir()}


# ---------------------------------------------------------------- local paths and the form of a source


def test_a_local_path_stays_what_it_is_and_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fetch("some/where") == Fetched(Path("some/where"))
    assert fetch("~/saes/one") == Fetched(tmp_path / "saes" / "one")


def test_a_local_folder_with_the_name_of_a_scheme_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("hf:mine").mkdir()
    assert fetch("hf:mine") == Fetched(Path("hf:mine"))


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a/b", Place("a/b")),
        ("a/b/", Place("a/b")),
        ("a/b/c/d.pt", Place("a/b", "c/d.pt")),
        ("a/b@v1.0", Place("a/b", "", "v1.0")),
        ("a/b/c@refs/pr/3", Place("a/b", "c", "refs/pr/3")),
        (f"a/b/x@y.pt@{COMMIT}", Place("a/b", "x@y.pt", COMMIT)),
    ],
)
def test_a_place_has_a_repository_a_path_and_a_revision(text, place):
    assert parse(text) == place


@pytest.mark.parametrize(
    "text",
    [
        *("", "a", "a/", "/a/b", "//a/b/c", "a/b//c", "a/../c", "a/b/../../../etc", "a/b/./c", "../../x/y", "a b/c"),
        *("a/b/c@", "a/b@../../x", "a/b@/main", "a/b/c\\..\\d", "a/b/c\0d"),
    ],
)
def test_nothing_leads_out_of_the_snapshot(text):
    assert "is no place on the hub: give owner/repo" in refusal(f"hf:{text}")


# ---------------------------------------------------------------- without a network


def test_the_layout_of_these_tests_is_that_of_huggingface_hub(cache):
    snapshot = put(cache, "a/b", {"x/ae.pt": b"1"})
    assert huggingface_hub.try_to_load_from_cache("a/b", "x/ae.pt", cache_dir=cache) == str(snapshot / "x/ae.pt")


def test_what_the_cache_has_is_used_with_the_commit_that_it_is_of(cache):
    snapshot = put(cache, "a/b", {"x/ae.pt": b"1", "x/config.json": b"{}"})
    put(cache, "a/b", {"x/ae.pt": b"2"}, commit=OTHER, ref="old")
    found = fetch("hf:a/b/x")
    assert found.path == snapshot / "x"
    assert found.label == "a/b/x"
    assert found.origin == {"repository": "a/b", "path": "x", "revision": "main", "commit": COMMIT}
    assert found.told == Told()
    assert fetch("hf:a/b/x/ae.pt").path.read_bytes() == b"1"
    assert fetch("hf:a/b/x/ae.pt@old").path.read_bytes() == b"2"
    assert fetch(f"hf:a/b/x@{OTHER}").origin["commit"] == OTHER
    assert fetch("hf:a/b").path == snapshot


def test_an_sae_out_of_the_cache_is_the_one_that_was_written(cache, tmp_path):
    put(cache, "a/b", native_files(tmp_path, "layer_1/"))
    there, here = load_sae("hf:a/b/layer_1"), load_sae(str(tmp_path / "written"))
    x = activations()
    assert torch.equal(there.encode(x).dense(), here.encode(x).dense())
    assert there.info.provenance["sha256"] == here.info.provenance["sha256"]
    assert there.info.provenance["commit"] == COMMIT


def test_what_the_cache_lacks_is_said_and_how_to_get_it(cache):
    assert "is not in the local cache of the hub, and HF_HUB_OFFLINE is set: run once without" in refusal("hf:a/b/x")
    put(cache, "a/b", {"x/ae.pt": b"1"}, ref=None)
    message = refusal("hf:a/b/x")
    assert "hf:a/b/x at main" in message
    assert COMMIT in message  # what may be given behind @


def test_configurations_without_weights_are_no_sae(cache):
    put(cache, "a/b", {"x/config.json": b"{}", "x/y/config.json": b"{}"})
    assert "is not in the local cache" in refusal("hf:a/b/x")


# ---------------------------------------------------------------- which files are fetched


def test_a_folder_comes_with_the_configurations_above_it_and_nothing_else(online):
    there = online(
        dict.fromkeys(["config.json", "README.md", "run/cfg.yaml", "run/l1/ae.pt", "run/l1/config.json"], b"{}")
        | dict.fromkeys(["run/l2/ae.pt", "run/l2/config.json", "other/config.json", "run/ae.pt"], b"{}"),
    )
    found = fetch("hf:a/b/run/l1")
    assert sorted(there.fetched) == ["config.json", "run/cfg.yaml", "run/l1/ae.pt", "run/l1/config.json"]
    assert found.path.name == "l1"
    assert found.origin["commit"] == COMMIT
    assert there.asked == [("a/b", "main")]


def test_what_was_fetched_is_found_again_in_offline_mode(online, monkeypatch):
    online({"x/ae.pt": b"1", "x/config.json": b"{}"})
    found = fetch("hf:a/b/x")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch("hf:a/b/x") == found


def test_a_file_comes_with_its_own_configuration():
    sizes = dict.fromkeys(["L0_l1e+00_v9.pt", "L0_l1e+00_v9_cfg.json", "L1.pt", "L1_cfg.json", "config.yaml"], 9)
    assert chosen(Place("a/b", "L0_l1e+00_v9.pt"), sizes) == ["L0_l1e+00_v9.pt", "L0_l1e+00_v9_cfg.json", "config.yaml"]


def test_a_checkpoint_comes_with_the_configuration_one_level_above():
    sizes = dict.fromkeys(["t0/ae.pt", "t0/config.json", "t0/checkpoints/ae_1.pt", "t0/checkpoints/ae_2.pt"], 9)
    assert chosen(Place("a/b", "t0/checkpoints/ae_1.pt"), sizes) == ["t0/checkpoints/ae_1.pt", "t0/config.json"]


def test_a_large_json_is_no_configuration():
    sizes = {"l/ae.pt": 5, "l/config.json": 5, "features.json": GIB, "vocabulary.json": 9}
    assert chosen(Place("a/b", "l"), sizes) == ["l/ae.pt", "l/config.json", "vocabulary.json"]


def test_a_folder_whose_name_is_that_of_a_file_is_a_folder():
    sizes = dict.fromkeys(
        ["v5_layer_0.pt/cfg.json", "v5_layer_0.pt/sae_weights.safetensors", "v5_layer_1.pt/cfg.json"], 9
    )
    assert len(chosen(Place("a/b", "v5_layer_0.pt"), sizes)) == 2


@pytest.mark.parametrize("name", ["blocks.0[x]/ae.pt", "a*b/ae.pt", "what?/ae.pt"])
def test_names_with_the_signs_of_a_pattern_are_meant_literally(online, name):
    there = online({name: b"1", "blocks.0x/ae.pt": b"2", "a-other-b/ae.pt": b"3", "whatx/ae.pt": b"4"})
    fetch(f"hf:a/b/{name}")
    assert there.fetched == [name]


@pytest.mark.parametrize(
    ("path", "sizes", "wanted"),
    [
        pytest.param(
            "",
            {"cfg.json": 9, "sae_weights.safetensors": 3 * GIB, "sparsity.safetensors": 9, "old/ae.pt": GIB},
            ["cfg.json", "sae_weights.safetensors", "sparsity.safetensors"],
            id="an SAE at the root",
        ),
        pytest.param(
            "l3",
            {"l3/hyperparams.json": 9, "l3/checkpoints/final.safetensors": GIB, "l3/checkpoints/old.safetensors": GIB},
            ["l3/checkpoints/final.safetensors", "l3/hyperparams.json"],
            id="Llama Scope",
        ),
        pytest.param(
            "t0",
            {"t0/ae.pt": GIB, "t0/config.json": 9, "t0/checkpoints/ae_1.pt": GIB, "t0/eval.json": GIB},
            ["t0/ae.pt", "t0/config.json"],
            id="without its checkpoints",
        ),
        pytest.param(
            "", {"SAE-l19.pth": GIB, "README.md": 9, "config.json": 9}, ["SAE-l19.pth", "config.json"], id="one file"
        ),
        pytest.param("", {"a.pt": 9, "b/c.pt": 9, "README.md": 9}, ["README.md", "a.pt", "b/c.pt"], id="all is small"),
    ],
)
def test_of_a_large_folder_its_one_sae_is_fetched(path, sizes, wanted):
    assert chosen(Place("a/b", path), sizes) == wanted


@pytest.mark.parametrize(
    ("place", "sizes", "offers"),
    [
        pytest.param(
            Place("a/b"),
            {f"layer_{i}/width_16k/average_l0_40/params.npz": GIB for i in range(9)},
            ["hf:a/b/layer_0/width_16k/average_l0_40,", "9.0 GiB in 9 files"],
            id="Gemma Scope",
        ),
        pytest.param(
            Place("a/b", "x", "v2"),
            {f"x/layer_{i}.safetensors": GIB for i in range(9)},
            ["hf:a/b/x/layer_0.safetensors@v2"],
        ),
        pytest.param(Place("a/b"), {f"L{i}/checkpoints/final.safetensors": GIB for i in range(3)}, ["hf:a/b/L2;"]),
        pytest.param(Place("a/b"), {"model.gguf": GIB}, ["in 0 files of weights"], id="no weights"),
    ],
)
def test_terabytes_are_refused_with_places_that_can_be_given(place, sizes, offers):
    with pytest.raises(CoderError) as error:
        chosen(place, sizes)
    message = str(error.value)
    assert "hf download" in message
    for offer in offers:
        assert offer in message
    for word in message.split():
        if word.startswith(f"hf:{place.repository}/l"):
            chosen(parse(word.strip(",;").removeprefix("hf:")), sizes)


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("layer_3/width_16k/average_l0_58", "did you mean layer_3/width_16k/average_l0_59"),
        ("layer3/width_16k/average_l0_59", "did you mean layer_3"),
        ("average_l0_59", "did you mean layer_3/width_16k/average_l0_59?"),
        ("layer_3/width_16k/average_l0_59/params.npy", "did you mean layer_3/width_16k/average_l0_59/params.npz?"),
        ("zzz", "there it has embedding, layer_3"),
        ("layer_3/zzz", "in layer_3 it has layer_3/width_16k"),
    ],
)
def test_a_path_that_is_not_there_gets_the_nearest_names(path, meant):
    sizes = dict.fromkeys(["layer_3/width_16k/average_l0_59/params.npz", "embedding/width_4k/params.npz"], 9)
    with pytest.raises(CoderError, match="a/b has no ") as error:
        chosen(Place("a/b", path), sizes)
    assert meant in str(error.value)


# ---------------------------------------------------------------- a hub that refuses or does not answer


def hub_error(kind: type[Exception], status: int, text: str = "no") -> Exception:
    request = httpx.Request("GET", "https://huggingface.co")
    response = httpx.Response(status, request=request)
    return kind(text, response=response)  # type: ignore[call-arg]


TOKEN = "hf_" + "a" * 34
REFUSALS = [
    (hub_error(errors.GatedRepoError, 403), "a/b is gated: accept its terms at https://huggingface.co/a/b and run 'hf"),
    (
        hub_error(errors.RepositoryNotFoundError, 401),
        "there is no model repository https://huggingface.co/a/b, or it is",
    ),
    (hub_error(errors.HfHubHTTPError, 403), "refuses access to a/b (403)"),
    (hub_error(errors.HfHubHTTPError, 503), "with status 503"),
    (
        httpx.ConnectError("[Errno -2] Name or service not known"),
        "the Hugging Face hub cannot be reached for a/b (ConnectE",
    ),
    (TimeoutError(), "cannot be reached for a/b (TimeoutError"),
    (
        httpx.LocalProtocolError(f"Illegal header value b'Bearer {TOKEN}\\n'"),
        "cannot be reached for a/b (LocalProtocol",
    ),
    (ValueError(f"what is {TOKEN}?\nand more"), "(ValueError: what is ***?)"),
]


@pytest.mark.parametrize(("error", "says"), REFUSALS)
def test_each_way_to_fail_has_its_sentence_and_no_token_is_in_it(online, error, says):
    online({"x/ae.pt": b"1"}).fails = error
    message = refusal("hf:a/b/x")
    assert says in message
    assert "the local cache does not have it either" in message
    assert TOKEN not in message
    assert "Bearer" not in message


@pytest.mark.parametrize(("error", "says"), REFUSALS)
def test_a_hub_that_does_not_answer_leaves_what_the_cache_has(online, cache, error, says):
    snapshot = put(cache, "a/b", {"x/ae.pt": b"1"})
    online({}).fails = error
    with pytest.warns(UserWarning, match=f"the local cache has it at commit {COMMIT[:12]}, which is used") as caught:
        assert fetch("hf:a/b/x").path == snapshot / "x"
    assert says in str(caught[0].message)


def test_a_revision_that_is_not_there_is_not_replaced_by_another(online, cache):
    put(cache, "a/b", {"x/ae.pt": b"1"}, ref="v1")
    online({}).fails = hub_error(errors.RevisionNotFoundError, 404)
    assert "a/b has no branch, tag or commit 'v1'" in refusal("hf:a/b/x@v1")


def test_terms_that_are_asked_for_only_at_the_download(online):
    online({"x/ae.pt": b"1"}).fails_late = hub_error(errors.GatedRepoError, 403)
    assert "a/b is gated: accept its terms at" in refusal("hf:a/b/x")


def test_a_full_disk_is_no_fault_of_the_hub(online):
    online({"x/ae.pt": b"1"}).fails_late = OSError(28, "No space left on device")
    assert "cannot be stored in the cache of the hub: No space left on device" in refusal("hf:a/b/x")


def test_a_download_that_stops_half_way_is_not_taken_for_the_whole(online):
    there = online({"x/ae.pt": b"1", "x/config.json": b"{}"})
    del there.files["x/config.json"]
    assert "x/config.json of a/b did not arrive" in refusal("hf:a/b/x")


# ---------------------------------------------------------------- the registry of SAELens


TABLE: dict[str, Any] = {
    "tiny-res": {
        "repo_id": "a/tiny",
        "model": "gpt2-small",
        "conversion_func": None,
        "config_overrides": {"dataset_path": "x/y"},
        "saes": [
            {"id": "layer_3/width_16k/canonical", "path": "l3", "l0": 40},
            {"id": "blocks.3.hook_resid_pre", "path": "l3", "norm_scaling_factor": 2.5},
        ],
    },
    "tiny-res/v2": {"repo_id": "a/v2", "model": "m", "saes": [{"id": "layer_3", "path": "l3"}]},
    "tiny-npz": {
        "repo_id": "google/gemma-scope-2b-pt-res",
        "model": "gemma-2-2b",
        "conversion_func": "gemma_2",
        "saes": [{"id": "layer_0/canonical", "path": "layer_0/width_16k/average_l0_105"}],
    },
    "tiny-llama": {
        "repo_id": "a/llama",
        "model": "m",
        "conversion_func": "llama_scope",
        "saes": [{"id": "l0r", "path": "l3", "norm_scaling_factor": 58.9}],
    },
    "tiny-r1": {
        "repo_id": "a/r1",
        "model": "m",
        "conversion_func": "llama_scope_r1_distill",
        "saes": [{"id": "l0r", "path": "l3", "norm_scaling_factor": 53.5}],
    },
    "tiny-new": {
        "repo_id": "a/tiny",
        "model": "m",
        "conversion_func": "of_tomorrow",
        "saes": [{"id": "x", "path": "l3"}],
    },
    "tiny-temporal": {
        "repo_id": "a/t",
        "model": "m",
        "conversion_func": "temporal",
        "saes": [{"id": "x", "path": "l3"}],
    },
    "tiny-clt": {
        "repo_id": "a/t",
        "model": "m",
        "conversion_func": "mntss_clt_layer_transcoder",
        "saes": [{"id": "layer_0", "path": 0}],
    },
    "tiny-bad": {"repo_id": "a/t", "saes": [{"path": "x"}]},
    "tiny-bad2": None,
    "tiny-bad3": {"repo_id": "a/t", "saes": [{"id": "x", "path": "../../../etc"}]},
}


def write_table(folder: Path, table: Any) -> None:
    package = folder / "sae_lens"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('the library must not be imported')\n")
    (package / "pretrained_saes.yaml").write_text(table if isinstance(table, str) else yaml.safe_dump(table))


@pytest.fixture
def sae_lens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """A function that installs a package sae_lens with a table, by default that above with these overrides."""

    def install(table: Any = None, **overrides: Any) -> None:
        made = table or TABLE | {"tiny-res": TABLE["tiny-res"] | {"config_overrides": overrides}}
        write_table(tmp_path / "site", made)
        monkeypatch.syspath_prepend(tmp_path / "site")
        monkeypatch.delitem(sys.modules, "sae_lens", raising=False)

    yield install
    shutil.rmtree(tmp_path / "site", ignore_errors=True)
    importlib.invalidate_caches()


def in_cache(cache: Path, config: dict[str, Any] | None = None, repository: str = "a/tiny") -> None:
    content = json.dumps({"architecture": "standard"} | (config or {})).encode()
    put(cache, repository, {"l3/cfg.json": content, "l3/sae_weights.safetensors": b"1"})


def test_an_entry_becomes_a_place_on_the_hub_and_what_the_registry_says(sae_lens, cache):
    sae_lens()
    in_cache(cache)
    found = fetch("saelens:tiny-res/layer_3/width_16k/canonical")
    assert found.label == "a/tiny/l3"
    assert found.path.name == "l3"
    assert found.told == Told(format="saelens")
    assert found.origin == {
        "repository": "a/tiny",
        "path": "l3",
        "revision": "main",
        "commit": COMMIT,
        "saelens_release": "tiny-res",
        "saelens_id": "layer_3/width_16k/canonical",
        "declared_l0": 40.0,
        "registry_model": "gpt2-small",
    }
    assert "sae_lens" not in sys.modules


def test_the_release_is_the_longest_that_has_the_id(sae_lens):
    sae_lens()
    assert releases.find("tiny-res/v2/layer_3").place == Place("a/v2", "l3")
    assert releases.find("tiny-res/layer_3/width_16k/canonical").place == Place("a/tiny", "l3")


def test_the_path_of_the_registry_and_not_the_id_is_what_is_read(sae_lens, online):
    sae_lens()
    there = online(dict.fromkeys(["layer_0/width_16k/average_l0_105/params.npz", "layer_0/canonical/params.npz"], b"1"))
    found = fetch("saelens:tiny-npz/layer_0/canonical")
    assert there.fetched == ["layer_0/width_16k/average_l0_105/params.npz"]
    assert found.label == "google/gemma-scope-2b-pt-res/layer_0/width_16k/average_l0_105"
    assert found.told == Told(format="gemma_scope")


@pytest.mark.parametrize("normalise", ["expected_average_only_in", True])  # v3 wrote true
def test_the_factor_counts_where_the_configuration_asks_for_one(sae_lens, cache, normalise):
    sae_lens()
    in_cache(cache, {"normalize_activations": normalise})
    found = fetch("saelens:tiny-res/blocks.3.hook_resid_pre")
    assert found.told == Told(format="saelens", norm_factor=2.5)
    assert found.origin["registry_norm_factor"] == 2.5


@pytest.mark.parametrize("config", [{}, {"normalize_activations": "none"}, {"normalize_activations": False}])
def test_a_factor_that_saelens_leaves_out_is_left_out_aloud(sae_lens, cache, config):
    sae_lens()
    in_cache(cache, config)
    with pytest.warns(UserWarning, match=r"a factor for the activations, 2\.5, but the configuration asks for none"):
        assert fetch("saelens:tiny-res/blocks.3.hook_resid_pre").told.norm_factor is None


def test_llama_scope_has_its_factor_in_its_files(sae_lens, cache):
    sae_lens()
    in_cache(cache, repository="a/llama")
    in_cache(cache, repository="a/r1")
    assert fetch("saelens:tiny-llama/l0r").told == Told(format="llama_scope")
    assert fetch("saelens:tiny-llama/l0r").origin["registry_norm_factor"] == 58.9
    assert fetch("saelens:tiny-r1/l0r").told == Told(format="lm_saes", norm_factor=53.5)


def test_a_factor_of_the_registry_and_one_of_the_user_make_the_same_sae(sae_lens, cache, tmp_path):
    sae_lens()
    written = write_saelens(tiny_coder("relu"), tmp_path / "written")
    config = json.loads((written / "cfg.json").read_text())
    config["normalize_activations"] = "expected_average_only_in"
    (written / "cfg.json").write_text(json.dumps(config))
    put(cache, "a/tiny", {f"l3/{file.name}": file.read_bytes() for file in written.iterdir()})
    registered = load_sae("saelens:tiny-res/blocks.3.hook_resid_pre")
    by_hand = load_sae(str(written), told=Told(norm_factor=2.5))
    other = load_sae("saelens:tiny-res/blocks.3.hook_resid_pre", told=Told(norm_factor=3.0))
    x = activations()
    assert torch.equal(registered.encode(x).dense(), by_hand.encode(x).dense())
    assert not torch.equal(registered.encode(x).dense(), other.encode(x).dense())  # the user's flag wins
    assert registered.info.provenance["sha256"] == by_hand.info.provenance["sha256"]
    assert registered.info.provenance["saelens_release"] == "tiny-res"


def test_of_an_unknown_conversion_the_files_decide(sae_lens, cache):
    sae_lens()
    in_cache(cache)
    assert fetch("saelens:tiny-new/x").told == Told()


@pytest.mark.parametrize(
    ("overrides", "config", "told"),
    [
        ({"dataset_path": "x/y", "model_name": "m"}, {}, Told(format="saelens")),
        ({"hook_name": "blocks.1.hook_mlp_out"}, {}, Told(format="saelens", hook_in="blocks.1.hook_mlp_out")),
        ({"k": 7}, {}, Told(format="saelens", k=7)),
        ({"normalize_activations": "layer_norm"}, {"normalize_activations": "layer_norm"}, Told(format="saelens")),
        (
            {"model_from_pretrained_kwargs": {"center_writing_weights": True}},
            {"hook_point": "blocks.8.hook_resid_pre"},
            Told(format="saelens", hook_in="blocks.8.hook_resid_pre:centered"),
        ),
        (
            {"model_from_pretrained_kwargs": {"center_writing_weights": True}},
            {"hook_point": "blocks.8.attn.hook_z"},  # where centring changes nothing
            Told(format="saelens", hook_in="blocks.8.attn.hook_z"),
        ),
        (
            {"model_from_pretrained_kwargs": {"center_writing_weights": True}, "hook_name": "blocks.1.hook_mlp_out"},
            {"metadata": {"hook_name": "blocks.8.hook_resid_pre", "hook_name_out": "blocks.8.hook_mlp_out"}},
            Told(
                format="saelens",
                hook_in="blocks.1.hook_mlp_out:centered",
                hook_out="blocks.8.hook_mlp_out:centered",
            ),
        ),
    ],
)
def test_overrides_that_a_flag_can_say_are_said(sae_lens, cache, overrides, config, told):
    sae_lens(**overrides)
    in_cache(cache, config)
    found = fetch("saelens:tiny-res/layer_3/width_16k/canonical")
    assert found.told == told
    assert found.origin["registry_overrides"] == overrides


@pytest.mark.parametrize(
    ("overrides", "config"),
    [
        ({"normalize_activations": "constant_norm_rescale"}, {}),
        ({"apply_b_dec_to_input": False}, {"apply_b_dec_to_input": True}),
        ({"model_from_pretrained_kwargs": {"center_writing_weights": True}}, {}),  # of which hook point?
        ({"model_from_pretrained_kwargs": {"center_writing_weights": True}}, {"hook_point": "transformer.h.3"}),
        ({"model_from_pretrained_kwargs": {"fold_ln": True}}, {"hook_point": "blocks.8.hook_resid_pre"}),
        ({"prepend_bos": False}, {"prepend_bos": True}),
    ],
)
def test_overrides_that_nothing_can_say_are_refused(sae_lens, cache, overrides, config):
    sae_lens(**overrides)
    in_cache(cache, config)
    message = refusal("saelens:tiny-res/layer_3/width_16k/canonical")
    assert f"the table of SAELens sets {next(iter(overrides))} to" in message


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (
            "tiny-rez/layer_3",
            "has no release 'tiny-rez' (SAEs of other repositories are given as hf:owner/repo/path); did",
        ),
        ("nothing-of-the-kind", "there are 11, such as"),
        ("tiny-res", "saelens:tiny-res/id has no id ''; there are 2, such as layer_3/width_16k/canonical"),
        ("tiny-res/layer_3/width_16k/canonicl", "did you mean layer_3/width_16k/canonical?"),
        ("tiny-temporal/x", "saelens:tiny-temporal/x cannot be measured: it needs the whole sequence"),
        ("tiny-clt/layer_0", "one layer of a cross-layer transcoder"),
        ("tiny-bad/x", "the release tiny-bad is not written as SAELens 4 to 6 do it"),
        ("tiny-bad2/x", "the release tiny-bad2 is not written as SAELens 4 to 6 do it"),
        ("tiny-bad3/x", "is no place on the hub"),
        ("", "has no release ''"),
    ],
)
def test_what_the_registry_does_not_have_is_said(sae_lens, source, says):
    sae_lens()
    assert says in refusal(f"saelens:{source}")


@pytest.mark.parametrize(("table", "says"), [("a: [", "cannot be read"), ("- 1", "must hold a mapping of releases")])
def test_a_damaged_table_is_one_sentence(sae_lens, table, says):
    sae_lens(table)
    assert says in refusal("saelens:tiny-res/x")


def test_without_saelens_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "install sae-bench-suite[saelens]" in refusal("saelens:tiny-res/x")


def test_the_table_is_parsed_once(sae_lens, monkeypatch):
    sae_lens()
    parsed = []
    load = yaml.load
    monkeypatch.setattr(yaml, "load", lambda *a, **k: parsed.append(1) or load(*a, **k))
    for _ in range(3):
        releases.find("tiny-res/v2/layer_3")
    assert len(parsed) == 1


def test_every_sae_of_the_real_table_has_a_place():
    try:
        table = releases._read(releases._file())
    except CoderError:
        pytest.skip("needs sae-lens")
    refused = 0
    for release, entry in table.items():
        for sae in entry["saes"]:
            try:
                found = releases.find(f"{release}/{sae['id']}")
            except CoderError:
                refused += 1
                continue
            assert (found.release, found.id) == (release, sae["id"])
            assert parse(found.place.label) == found.place
    assert refused < 100  # temporal ones and layers of cross-layer transcoders


# ---------------------------------------------------------------- the model of an SAE from a registry


def test_the_model_of_the_registry_is_used_where_the_files_name_none():
    info = SimpleNamespace(name="x", model=None, provenance={"registry_model": "google/gemma-3-1b-pt"})
    assert resolve.model_source(None, [info]) == "google/gemma-3-1b-pt"
    info.model = "other/model"
    assert resolve.model_source(None, [info]) == "other/model"
