"""The commands of JUDGES.md, word by word, on endpoints that behave as documented: one figure through all of them."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sae_bench.judge import Patience
from sae_bench.tasks.autointerp.prompts import first
from tests.builders.explainers import EXPLAIN, kind_of, oracle
from tests.builders.judge_server import Answer, Messages, Response, Server
from tests.builders.judged_runs import LATENTS, REQUESTS, judge_of, make, result_in, run_of, sentence, without_key
from tests.builders.marks import slow_but, slow_but_each
from tests.builders.recipes import Recipe, recipes
from tests.builders.said import complaints
from tests.conftest import Run
from tests.judge_servers import azure, gemini, openai, openrouter
from tests.judge_servers.azure import Azure
from tests.judge_servers.base import Stub, restored
from tests.judge_servers.gateway import Gateway
from tests.judge_servers.gemini import Gemini
from tests.judge_servers.llama_cpp import LlamaCpp
from tests.judge_servers.lm_studio import LMStudio
from tests.judge_servers.mistral import Mistral
from tests.judge_servers.ollama import Ollama
from tests.judge_servers.openai import OpenAI, Reasoning
from tests.judge_servers.openrouter import OpenRouter
from tests.judge_servers.transformers_serve import TransformersServe
from tests.judge_servers.vllm import VLLM

ROOT = Path(__file__).parents[1]
RECIPES = recipes(ROOT / "tasks" / "autointerp" / "JUDGES.md")
KEY, TOKEN = "sk-test-3f9a51c07be2468d", "gw-77aa01c4e9d2b3f6"
FAST = Patience(attempts=12, base=0.002, longest=0.02)
KEYLESS = ("vLLM", "Ollama", "llama.cpp", "LM Studio", "transformers serve")

# by the heading of the recipe; one of each kind that a recipe must get through
STUBS: dict[str, Callable[..., Stub]] = {
    "OpenAI": OpenAI,
    "OpenAI, a model that thinks": partial(Reasoning, thinks=300),
    "Azure": Azure,
    "OpenRouter": OpenRouter,
    "Mistral": Mistral,
    "Gemini": Gemini,
    "vLLM": VLLM,
    "Ollama": Ollama,
    "llama.cpp": partial(LlamaCpp, loads=2),
    "LM Studio": LMStudio,
    "transformers serve": TransformersServe,
    "Behind a gateway": partial(Gateway, token=TOKEN),
}
# the same recipes where the endpoint is set up otherwise
OTHERS: dict[str, tuple[str, Callable[..., Stub]]] = {
    "thoughts beyond the limit": ("OpenAI", partial(OpenAI, thinks=150)),
    "no system message": ("vLLM", partial(VLLM, system=False)),
    "a schema that does not compile": ("vLLM", partial(VLLM, schema=400)),
    "a schema that ends in a crash": ("vLLM", partial(VLLM, schema=500)),
    "flat errors": ("vLLM", partial(VLLM, schema=400, system=False, flat=True)),
    "thoughts in a field of their own": ("vLLM", partial(VLLM, thinks=40, thoughts="reasoning")),
    "a grammar that cannot be parsed": ("llama.cpp", partial(LlamaCpp, grammar=400)),
    "a grammar that cannot be parsed, 500": ("llama.cpp", partial(LlamaCpp, grammar=500)),
    "a provider that takes no schema": ("OpenRouter", partial(OpenRouter, takes={"Together": ("temperature",)})),
    "always a stream": ("OpenRouter", partial(OpenRouter, streams=True)),
    "faults in another place": ("Mistral", partial(Mistral, nested=True)),
    "thoughts in reasoning": ("Ollama", partial(Ollama, thinks=100)),
}


def judge(accuracy: float) -> Answer:
    """A judge that is asked in the same words by every endpoint, and so answers the same."""
    known = oracle(accuracy)
    return lambda messages: known(restored(messages))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, ids and an SAE on disk."""
    folder = tmp_path_factory.mktemp("files")
    make(folder)
    return folder


@pytest.fixture
def cli(cli: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command in an empty folder with little patience and no variables of the user's own."""
    without_key(monkeypatch, FAST)
    return cli


@pytest.fixture(scope="module")
def plain(files: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[float, Any]:
    """The metrics of two judges through the plain test server, by their accuracy."""
    found = {}
    for accuracy in (1.0, 0.8):
        folder = tmp_path_factory.mktemp("plain")
        with Server(judge(accuracy)) as server:
            given = [*run_of(files), *judge_of(server, str(folder / "judge.sqlite")), "--out", folder / "runs"]
            assert _main(given) == 0
        found[accuracy] = metrics(str(folder / "runs"))
    assert found[1.0] != found[0.8]
    return found


def _main(given: list[Any]) -> int:
    from sae_bench.cli.main import main

    return main([str(word) for word in given])


def metrics(folder: str) -> Any:
    return result_in(folder).model_dump()["metrics"]


def prepared(recipe: Recipe, server: Stub, files: Path, setenv: Callable[[str, str], Any]) -> list[Any]:
    """Arguments of a recipe at a server, with the variables that it names set."""
    given, variables = recipe.run_at(server.url.removesuffix(server.path), files)
    own = {name: TOKEN if "TOKEN" in name else KEY for name in recipe.variables}
    for name, value in (variables | own).items():
        setenv(name, value)
    return [*given, "--judge-cache", "judge.sqlite"]


def paid(server: Stub) -> dict[str, int]:
    """How often each request was answered, but for the first question, which a run may ask in several words."""
    asked = first().messages[1]
    firsts = {server.named(body) for body in server.bodies if restored(body["messages"])[-1] == asked}
    assert firsts
    return {name: times for name, times in server.answered.items() if name not in firsts}


def key_for(name: str) -> str | None:
    return None if name in KEYLESS else KEY


# ---------------------------------------------------------------- the right figure


def test_every_recipe_has_an_endpoint_to_be_tried_on() -> None:
    assert set(RECIPES) == set(STUBS)


@pytest.mark.parametrize(("name", "accuracy"), slow_but(6, [*((n, 0.8) for n in STUBS), *((n, 1.0) for n in STUBS)]))
def test_the_recipe_gives_the_figure_of_the_judge(
    cli: Run,
    files: Path,
    plain: dict[float, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    accuracy: float,
) -> None:
    """Also: nothing is paid for twice, and the key is kept and shown nowhere."""
    with STUBS[name](judge(accuracy), key=key_for(name)) as server:
        code, out, err = cli(*prepared(RECIPES[name], server, files, monkeypatch.setenv))
        assert (code, complaints(err)) == (0, []), err
        assert max(paid(server).values()) == 1
    found = result_in("runs")
    assert (found.status, found.details["statuses"]) == ("ok", {"ok": LATENTS})
    assert metrics("runs") == plain[accuracy]
    assert found.provenance.protocol.parameters["judge_model"] == server.model
    assert not leaks(tmp_path, out + err)


@pytest.mark.parametrize("name", slow_but(2, OTHERS))
def test_an_endpoint_that_is_set_up_otherwise_gives_it_too(
    cli: Run, files: Path, plain: dict[float, Any], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    recipe, stub = OTHERS[name]
    with stub(judge(0.8), key=key_for(recipe)) as server:
        code, _, err = cli(*prepared(RECIPES[recipe], server, files, monkeypatch.setenv))
        assert (code, complaints(err)) == (0, []), err
    assert result_in("runs").details["statuses"] == {"ok": LATENTS}
    assert metrics("runs") == plain[0.8]


# ---------------------------------------------------------------- faults, kill, keys


@pytest.mark.parametrize(
    "name", slow_but(2, ["OpenRouter", "llama.cpp", *(n for n in STUBS if n not in ("OpenRouter", "llama.cpp"))])
)
def test_faults_in_three_of_ten_requests_change_nothing(
    cli: Run, files: Path, plain: dict[float, Any], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with STUBS[name](judge(0.8), key=key_for(name), faults=0.3) as server:
        code, _, err = cli(*prepared(RECIPES[name], server, files, monkeypatch.setenv))
        assert (code, complaints(err)) == (0, []), err
        assert server.n > 1.15 * REQUESTS
        assert max(paid(server).values()) == 1
    assert metrics("runs") == plain[0.8]


@pytest.mark.parametrize("name", ["Azure", *(name for name in STUBS if name != "Azure")])
@pytest.mark.slow
def test_a_killed_run_pays_for_the_missing_completions_only(
    cli: Run, files: Path, plain: dict[float, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with STUBS[name](judge(0.8), key=key_for(name), hold=0.08, most=4) as server:
        given = [str(word) for word in prepared(RECIPES[name], server, files, monkeypatch.setenv)]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        killed = subprocess.Popen([sys.executable, "-m", "sae_bench.cli.main", *given], env=environment, cwd=tmp_path)
        deadline = time.monotonic() + 120
        while killed.poll() is None and time.monotonic() < deadline and sum(server.answered.values()) < 12:
            time.sleep(0.005)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert server.wait_closed()
        server.hold, server.most = 0.0, 100
        before, kept = sum(paid(server).values()), rows_in(tmp_path / "judge.sqlite")
        assert 8 <= kept < REQUESTS
        code, _, err = cli(*given)
        assert (code, complaints(err)) == (0, []), err
        assert sum(paid(server).values()) - before == REQUESTS - kept
    assert metrics("runs") == plain[0.8]


def rows_in(cache: Path) -> int:
    with sqlite3.connect(f"file:{cache}?mode=ro", uri=True) as opened:
        return int(opened.execute("select count(*) from completions").fetchone()[0])


@pytest.mark.parametrize("name", slow_but_each(4, STUBS))
def test_what_an_endpoint_repeats_of_key_and_header_is_kept_and_shown_nowhere(
    cli: Run, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with STUBS[name](lambda messages: f"your key is {KEY}, your token {TOKEN}") as server:
        given = prepared(RECIPES[name], server, files, monkeypatch.setenv)
        monkeypatch.setenv(RECIPES[name].key_variable, KEY)
        secrets = [KEY] + [TOKEN] * ("TOKEN" in " ".join(RECIPES[name].variables))
        shown = "".join(map(str, cli(*[word for word in given if word != "--quiet"])))
        shown += "".join(map(str, cli("show", "runs")))
        server.fault = lambda n, body: Response(401, {"error": {"message": f"{KEY} is wrong, and {TOKEN}"}})
        shown += "".join(map(str, cli(*given, "--judge-cache", "other.sqlite", "--out", "others")))
    assert "is wrong, and" in shown
    assert not leaks(tmp_path, shown, secrets)


def leaks(folder: Path, shown: str, secrets: tuple[str, ...] | list[str] = (KEY, TOKEN)) -> list[str]:
    """Where a secret can be read: files, and what was printed."""
    kept = {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert [name for name in kept if name.endswith(".sqlite")]
    kept["what was printed"] = shown.encode()
    return [name for name, content in kept.items() for secret in secrets if secret.encode() in content]


# ---------------------------------------------------------------- clear ends


ENDS: dict[str, tuple[str, Callable[..., Stub], tuple[str, ...]]] = {
    "no such model, Ollama": ("Ollama", partial(Ollama, models=("qwen3:8b",)), ("llama3.1:8b", "not found")),
    "several models in LM Studio": ("LM Studio", partial(LMStudio, loaded=("a", "b")), ("qwen2.5-7b-instruct",)),
    "no model in LM Studio": ("LM Studio", partial(LMStudio, loaded=()), ("No models loaded",)),
    "another deployment": ("Azure", partial(Azure, deployment="other"), ("deployment",)),
    "another version": ("Azure", partial(Azure, versions=()), ("Resource not found",)),
    "a short context, vLLM": ("vLLM", partial(VLLM, context=64), ("context",)),
    "a short context, llama.cpp": ("llama.cpp", partial(LlamaCpp, context=64), ("context",)),
    "no provider": ("OpenRouter", partial(OpenRouter, takes={}), ("No endpoints found",)),
}


@pytest.mark.parametrize("name", slow_but_each(2, ENDS))
def test_what_cannot_work_is_one_sentence_before_anything_is_measured(
    cli: Run, files: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    recipe, stub, says = ENDS[name]
    monkeypatch.setattr("sae_bench.api.measure", lambda *args, **more: pytest.fail("the model ran"))
    with stub(judge(1.0), key=key_for(recipe)) as server:
        code, out, err = cli(*prepared(RECIPES[recipe], server, files, monkeypatch.setenv))
        assert server.n < 20
    assert (code, out) == (2, "")
    for words in says:
        assert words in sentence(err)
    assert not Path("runs").exists()


QUOTAS: dict[str, tuple[str, Response]] = {
    "OpenAI, a day": ("OpenAI", openai.PER_DAY),
    "OpenRouter, free models": ("OpenRouter", openrouter.PER_DAY),
    "Gemini, a day": ("Gemini", gemini.PER_DAY),
    "Azure, a day": ("Azure", azure.PER_DAY),
    "OpenAI, no credit": ("OpenAI", openai.NO_QUOTA),
    "OpenRouter, no credit": ("OpenRouter", openrouter.NO_CREDIT),
}


@pytest.mark.parametrize("name", slow_but(1, QUOTAS))
def test_a_quota_ends_the_run_with_what_is_done_kept_and_the_same_command_goes_on(
    cli: Run, files: Path, plain: dict[float, Any], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    recipe, response = QUOTAS[name]
    with STUBS[recipe](judge(0.8), key=KEY) as server:
        given = prepared(RECIPES[recipe], server, files, monkeypatch.setenv)
        server.fault = lambda n, body: response if sum(server.answered.values()) > 20 else None
        before = time.monotonic()
        code, _, err = cli(*given)
        assert code in (1, 4)
        assert sentence(err)
        assert time.monotonic() - before < 20
        assert server.n - sum(server.answered.values()) < 40
        server.fault = lambda n, body: None
        code, _, err = cli(*given)
        assert (code, complaints(err)) == (0, []), err
        assert sum(paid(server).values()) == REQUESTS
    assert metrics("runs") == plain[0.8]


def test_a_model_that_is_swapped_in_the_middle_is_no_result_of_one_judge(
    cli: Run, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Ollama(judge(0.8), switch=(15, "llama3.1:8b-instruct-q4_0")) as server:
        code, _, err = cli(*prepared(RECIPES["Ollama"], server, files, monkeypatch.setenv))
    assert code == 1
    assert "llama3.1:8b-instruct-q4_0" in sentence(err)
    assert result_in("runs").status != "ok" if Path("runs").exists() else True


def test_a_prompt_that_the_filter_stops_is_refused_and_the_run_goes_on(
    cli: Run, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[Messages] = []

    def fault(number: int, body: dict[str, Any]) -> Response | None:
        if not chosen and kind_of(body["messages"]) == EXPLAIN:
            chosen.append(body["messages"])
        return azure.FILTERED if body["messages"] in chosen else None

    with Azure(judge(1.0), key=KEY) as server:
        server.fault = fault
        code, _, err = cli(*prepared(RECIPES["Azure"], server, files, monkeypatch.setenv))
        assert code == 0, err
    assert result_in("runs").details["statuses"] == {"ok": LATENTS - 1, "refused": 1}


def test_a_prompt_that_ollama_cuts_has_no_score(cli: Run, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so by nothing but empty replies."""
    with Ollama(judge(1.0), context=64) as server:
        code, _, err = cli(*prepared(RECIPES["Ollama"], server, files, monkeypatch.setenv))
    assert code == 1
    question, last = complaints(err)
    assert "context" in question
    assert f"{LATENTS} of {LATENTS} judged latents have no score" in last
    assert result_in("runs").status == "error"


def test_another_model_than_was_asked_for_is_said_and_named(
    cli: Run, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LMStudio(judge(1.0), model="gemma-3-1b-it") as server:
        code, _, err = cli(*prepared(RECIPES["LM Studio"], server, files, monkeypatch.setenv))
    assert code == 0
    assert "qwen2.5-7b-instruct was asked for" in sentence(err)
    assert "answers as gemma-3-1b-it" in sentence(err)
    assert result_in("runs").provenance.protocol.parameters["judge_model"] == "gemma-3-1b-it"
