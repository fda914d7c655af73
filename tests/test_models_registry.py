"""Back ends by name: one of another package measures the same, and what cannot be used is refused in one sentence."""

import re
import sys
import warnings
from pathlib import Path

import pytest
import torch

import sae_bench
from sae_bench import registry
from sae_bench.errors import ModelError, SaeBenchError, UsageError
from sae_bench.models.continuation import Continuation, reuses
from sae_bench.models.hooks import find_blocks
from sae_bench.models.loading import load_subject
from sae_bench.models.subject import OPTIONAL, Capture, SubjectModel, missing_members
from sae_bench.settings import Settings
from tests.builders import tiny_models

HOOK = "blocks.1.hook_resid_post"
TASKS = "reconstruction,loss_recovered,downstream_sparsity"


class Plain:
    """The smallest back end: outputs of blocks by forward hooks, whole passes only, and no optional member."""

    backend = "mine"

    def __init__(self, model, name, *, copy_model):
        self.model, self.name, self.copied = model, name, copy_model
        config = model.config
        self.device, self.dtype = model.device, model.dtype
        self.vocab_size, self.n_layers = config.vocab_size, config.num_hidden_layers
        self.context_length = config.max_position_embeddings
        self.counters = dict.fromkeys(("prefix", "suffix", "full", "selftest"), 0)

    def _block(self, hook):
        if not (found := re.fullmatch(r"blocks\.(\d+)\.hook_resid_post", hook)):
            raise ModelError(f"hook point {hook!r} is not the output of a block")
        return find_blocks(self.model)[1][int(found[1])]

    def _pass(self, tokens, edits):
        handles = [self._block(hook).register_forward_hook(edit) for hook, edit in edits.items()]
        try:
            with torch.no_grad():
                return self.model(tokens, attention_mask=torch.ones_like(tokens), use_cache=False).logits
        finally:
            for handle in handles:
                handle.remove()

    def width(self, hook):
        self._block(hook)
        return self.model.config.hidden_size

    def capture(self, tokens, attention_mask, hooks):
        self.counters["prefix"] += len(tokens)
        found = {}
        self._pass(tokens, {hook: lambda _m, _a, out, hook=hook: found.update({hook: out.clone()}) for hook in hooks})
        return Capture(tokens, attention_mask, found)

    def splice(self, tokens, attention_mask, replacements):
        self.counters["full"] += len(tokens)
        return self._pass(tokens, {hook: lambda _m, _a, _out, x=x: x for hook, x in replacements.items()})

    def resume(self, capture, hook, activation):
        return self.splice(capture.tokens, capture.attention_mask, {hook: activation})

    def can_resume(self, hook):
        return False


class Lacks:
    backend = "mine"

    def __init__(self, model, name, *, copy_model):
        self.name = name


class Named(Plain):
    backend = "hf"


class Wrong:
    """A suffix that takes the change for the rest of the model's answer."""

    kept_per_token = 1

    def __init__(self, vocab_size):
        self.vocab_size = vocab_size

    def logits(self, sequence, position, activations, steps):
        return activations[:, :1, None].expand(-1, steps, self.vocab_size).clone()


class Promises(Plain):
    """What a plug-in may do wrong: it says that it can continue, and gives something else."""

    offered = True

    def can_resume(self, hook):
        return True

    def continuation(self, capture, hook):
        return Wrong(self.vocab_size) if self.offered else None


@pytest.fixture
def register(monkeypatch):
    """Register code as the back end "mine", as a package with an entry point would."""

    def point(code):
        class Point:
            name, value, dist = "mine", code, None

        monkeypatch.setattr(registry, "entry_points", lambda group: [Point] if group == "sae_bench.backends" else [])

    return point


def here(cls):
    return f"{__name__}:{cls.__name__}"


# --- a back end of another package -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_back_end_of_another_package_gives_the_figures_of_the_built_in_one(register):
    register(here(Plain))
    found = {}
    few = {"downstream_sparsity.positions": 2, "downstream_sparsity.latents": 2}
    for backend in ("hf", "mine"):
        results = sae_bench.evaluate(
            "demo/topk_k16", tasks=TASKS, tier="smoke", controls="none", resamples=50, dtype="float64", backend=backend,
            limit=8, context=48, parameters=few,
        )  # fmt: skip
        assert [r.status for r in results] == ["ok"] * 3
        assert {r.provenance.backend for r in results} == {backend}
        found[backend] = {
            (r.task, name): [metric.value, metric.low, metric.high]
            for r in results
            for name, metric in r.metrics.items()
        }
    assert found["hf"].keys() == found["mine"].keys()
    for key, expected in found["hf"].items():
        if key[0] == "reconstruction":
            assert found["mine"][key] == expected, key  # of activations alone, which are the same to the bit
        else:
            assert found["mine"][key] == pytest.approx(expected, rel=1e-9, abs=1e-9), key


@pytest.mark.parametrize("source", ["folder", "memory"])
def test_a_model_of_somebody_else_is_said_to_be_one(source, register, tmp_path):
    register(here(Plain))
    model = tiny_models.tiny_gpt2()
    model.save_pretrained(tmp_path)
    subject, _ = load_subject(tmp_path if source == "folder" else model, backend="mine")
    assert subject.copied == (source == "memory")
    assert (subject.model is model) == (source == "memory")


# --- optional members ------------------------------------------------------------------------------------------------


def captured(subject):
    tokens = torch.randint(1, tiny_models.VOCAB, (2, 9), generator=torch.Generator().manual_seed(0))
    return subject.capture(tokens, torch.ones_like(tokens, dtype=torch.bool), [HOOK])


@pytest.mark.parametrize("offered", [None, False])
def test_without_a_continuation_whole_sequences_run_and_nothing_warns(offered):
    subject = (Plain if offered is None else Promises)(tiny_models.tiny_llama(), "tiny", copy_model=False)
    subject.offered = offered
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not reuses(subject, HOOK, 9)
        assert not Continuation(subject, captured(subject), HOOK).cached


def test_a_continuation_that_gives_something_else_is_found_out():
    model = tiny_models.tiny_llama()
    subject, (reference, _) = Promises(model, "tiny", copy_model=False), load_subject(model)
    place = torch.tensor([1]), torch.tensor([3])
    with pytest.warns(UserWarning, match="cannot be reused, since the model's logits with them are not those of"):
        continuation = Continuation(subject, captured(subject), HOOK)
    exact = Continuation(reference, captured(reference), HOOK)
    assert (continuation.cached, exact.cached) == (False, True)
    new = torch.ones(1, tiny_models.WIDTH)
    torch.testing.assert_close(continuation.ablated(*place, new, 4), exact.ablated(*place, new, 4))
    assert subject.counters["selftest"] == 5


def test_a_class_that_derives_from_the_protocol_has_the_defaults():
    class Derived(Plain, SubjectModel):
        pass

    plain, subject = (cls(tiny_models.tiny_gpt2(), "tiny", copy_model=False) for cls in (Plain, Derived))
    assert not subject.is_bottleneck(HOOK)
    assert subject.continuation(captured(subject), HOOK) is None
    assert missing_members(plain) == missing_members(subject) == []
    assert [isinstance(each, SubjectModel) for each in (plain, subject)] == [False, True]
    assert all(name in vars(SubjectModel) and not hasattr(plain, name) for name in OPTIONAL)


# --- what cannot be used ---------------------------------------------------------------------------------------------


def test_unknown_names_are_refused_with_a_suggestion(cli, register):
    register(here(Plain))
    for name, hint in (("tll", "did you mean 'tl'"), ("mime", "did you mean 'mine'"), ("xyz", "there are: hf, tl")):
        with pytest.raises(UsageError, match=f"no backend is named '{name}'; {hint}"):
            Settings(backend=name)
    with pytest.raises(UsageError, match="no backend is named None"):
        Settings(backend=None)
    for verb in (("run", "--quiet", "--sae", "demo"), ("inspect", "demo")):
        code, out, error = cli(*verb, "--backend", "tll")
        assert (code, out) == (2, "")
        assert error == "sae-bench: no backend is named 'tll'; did you mean 'tl'?\n"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (None, "ModuleNotFoundError: No module named 'absent_backend'"),
        ("x = 1", "AttributeError: module 'absent_backend' has no attribute 'Subject'"),
        ("raise RuntimeError('no license\\nfor this')", "RuntimeError: no license"),
    ],
)
def test_a_back_end_that_cannot_be_imported_is_one_sentence(body, says, cli, register, tmp_path, monkeypatch):
    register("absent_backend:Subject")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "absent_backend", raising=False)
    if body:
        (tmp_path / "absent_backend.py").write_text(body)
    code, out, error = cli("run", "--quiet", "--sae", "demo", "--backend", "mine")
    assert (code, out) == (2, "")
    assert error.startswith(f"sae-bench: absent_backend:Subject cannot be imported ({says}")
    assert error.count("\n") == 1


def test_a_back_end_that_lacks_members_or_has_another_name_is_refused(register):
    register(here(Lacks))
    with pytest.raises(ModelError, match=r"backend 'mine' lacks model, device, dtype, .*, can_resume; add that"):
        load_subject(tiny_models.tiny_gpt2(), backend="mine")
    register(here(Named))
    with pytest.raises(ModelError, match="backend 'mine' calls its backend 'hf'; results must name"):
        load_subject(tiny_models.tiny_gpt2(), backend="mine")


def test_a_name_that_is_taken_is_refused(monkeypatch):
    class Point:
        name, value, dist = "tl", "elsewhere:Subject", None

    monkeypatch.setattr(registry, "entry_points", lambda group: [Point] if group == "sae_bench.backends" else [])
    with pytest.raises(SaeBenchError, match=r"tl is registered twice in sae_bench\.backends"):
        Settings()


# --- listings and the code -------------------------------------------------------------------------------------------


def test_back_ends_are_listed(cli, register):
    register(here(Plain))
    code, out, _ = cli("ls", "backends")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[2:]] == ["hf", "tl", "mine"]
    for verb in ("run", "inspect"):
        _, out, _ = cli(verb, "--help")
        assert "hf (transformers), tl (TransformerLens), or another" in " ".join(out.split())


def test_no_code_asks_which_back_end_it_has():
    """What one can do is asked of its methods: code that names a class or a name leaves out those of other packages."""
    asks = re.compile(
        r"""isinstance\([^)]*(HuggingFace|TransformerLens)Subject|\bbackend\s*(==|(!=|in|not in)\s*["'(])"""
    )
    files = list(Path(sae_bench.__file__).parent.rglob("*.py"))
    assert len(files) > 100
    assert [f"{file}: {found[0]}" for file in files for found in asks.finditer(file.read_text("utf-8"))] == []
    for code in ("isinstance(subject, HuggingFaceSubject)", 'if backend == "tl"', 'backend not in ("hf", "tl")'):
        assert asks.search(code)
