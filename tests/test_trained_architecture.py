"""What an SAE was trained as is what is shown of it, whatever it is stored as; that stays beside it."""

import types
import warnings

import pytest
import torch

from sae_bench.preflight import evidence
from sae_bench.saes.load import load_sae
from sae_bench.saes.wrap import as_coder
from sae_bench.schema import INFERENCE, CoderRecord
from sae_bench.settings import Told
from tests.builders.dictionary_learning_files import alone
from tests.builders.layouts import LAYOUTS, told, write
from tests.builders.results import result
from tests.builders.saelens_files import write_one


def said(coder):
    return coder.info.architecture, coder.info.provenance.get(INFERENCE)


@pytest.mark.parametrize(
    ("stored", "metadata", "expected"),
    [
        ("jumprelu", {"training_architecture": "batchtopk"}, ("batchtopk", "jumprelu")),
        ("jumprelu", {"training_architecture": "matryoshka_batchtopk"}, ("matryoshka_batchtopk", "jumprelu")),
        ("jumprelu", {"training_architecture": "one of my own"}, ("one of my own", "jumprelu")),
        ("topk", {"training_architecture": "topk"}, ("topk", None)),
        ("jumprelu", {"training_architecture": "jumprelu"}, ("jumprelu", None)),
        ("standard", {"training_architecture": "standard"}, ("standard", None)),
        ("jumprelu", {}, ("jumprelu", None)),
        ("jumprelu", {"training_architecture": ""}, ("jumprelu", None)),
        ("jumprelu", {"training_architecture_details": {"matryoshka_widths": [8]}}, ("jumprelu", None)),  # no guess
    ],
)
def test_saelens_says_it_in_its_metadata(tmp_path, stored, metadata, expected):
    assert said(load_sae(str(write_one(tmp_path / "sae", stored, metadata=metadata)))) == expected


TRAINED_OTHERWISE = {
    "saelens_batchtopk_export": ("batchtopk", "jumprelu"),
    "saelens_batchtopk_checkpoint": ("batchtopk", "jumprelu"),
    "saelens_matryoshka_batchtopk_export": ("matryoshka_batchtopk", "jumprelu"),
    "saelens_matryoshka_batchtopk_checkpoint": ("matryoshka_batchtopk", "jumprelu"),
    "dl_BatchTopKSAE": ("BatchTopKSAE", "jumprelu"),
    "dl_MatryoshkaBatchTopKSAE": ("MatryoshkaBatchTopKSAE", "jumprelu"),
    "dl_backup": ("BatchTopKSAE", "jumprelu"),
    "batchtopk_batchtopk": ("batchtopk", "jumprelu"),
    "llama_scope": ("topk", "jumprelu"),  # by the name of the release
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", [name for name in LAYOUTS if not name.startswith("refused") and "temporal" not in name]
)
def test_in_every_layout_what_computes_otherwise_than_it_was_trained_says_both(tmp_path, name):
    coder = load_sae(str(write(name, tmp_path)), told=told(name))
    trained, stored = said(coder)
    if name in TRAINED_OTHERWISE:
        assert (trained, stored) == TRAINED_OTHERWISE[name]
    else:
        assert stored is None
    if "batch" in trained.lower():
        assert coder.rule.activation == stored == "jumprelu"


def test_a_threshold_that_was_told_does_not_change_what_was_trained(tmp_path):
    topk = str(write("native_topk", tmp_path / "a"))
    assert said(load_sae(topk, told=Told(threshold=0.5))) == ("topk", "jumprelu")
    openai = str(write("openai_v5", tmp_path / "b"))
    more = told("openai_v5").given() | {"threshold": 0.5}
    assert said(load_sae(openai, told=Told(**more))) == ("topk", "jumprelu")
    lm_saes = write("lm_saes_topk", tmp_path / "c")
    config = lm_saes / "config.json"
    config.write_text(config.read_text().replace('"topk"', '"batchtopk"'))
    assert said(load_sae(str(lm_saes), told=Told(threshold=0.5))) == ("batchtopk", "jumprelu")


def test_a_file_of_either_of_two_classes_is_called_what_it_computes(tmp_path):
    file = alone(tmp_path, "AutoEncoderTopK")
    hook = "blocks.1.hook_resid_post"
    assert said(load_sae(file, told=Told(hook_in=hook, k=3)))[0] == "topk"
    assert said(load_sae(file, told=Told(hook_in=hook, threshold=0.6)))[0] == "jumprelu"


def test_the_layout_of_sae_bench_can_say_it(tmp_path):
    folder = write("native_jumprelu", tmp_path)
    config = folder / "sae_bench.json"
    config.write_text(config.read_text().replace("{", '{"training_architecture": "batchtopk", ', 1))
    assert said(load_sae(str(folder))) == ("batchtopk", "jumprelu")


class JumpReLUSAE(torch.nn.Module):
    """As SAELens has it in memory: the class of inference, and training in the metadata of its configuration."""

    def __init__(self, trained):
        super().__init__()
        self.W_dec = torch.nn.Parameter(torch.eye(4))
        self.cfg = types.SimpleNamespace(d_in=4, metadata=types.SimpleNamespace(training_architecture=trained))

    def encode(self, x):
        return x.relu()

    def decode(self, latents):
        return latents @ self.W_dec


@pytest.mark.parametrize(
    ("trained", "expected"),
    [
        ("batchtopk", ("batchtopk", "JumpReLUSAE")),
        (None, ("JumpReLUSAE", None)),
        (3, ("JumpReLUSAE", None)),
        ("\x1b[31m", ("JumpReLUSAE", None)),
        ("x" * 201, ("JumpReLUSAE", None)),
    ],
)
def test_an_object_in_memory_is_what_its_configuration_says(trained, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert said(as_coder(JumpReLUSAE(trained), hook="blocks.0.hook_resid_post")) == expected


def record(**changes):
    return result().sae.model_dump(mode="json") | {"format": "saelens", "architecture": "jumprelu"} | changes


def test_an_older_result_is_read_as_what_its_sae_was_trained_as():
    metadata = {"metadata": {"training_architecture": "matryoshka_batchtopk"}}
    made = CoderRecord.model_validate(record(provenance=metadata))
    assert (made.architecture, made.provenance[INFERENCE]) == ("matryoshka_batchtopk", "jumprelu")
    assert CoderRecord.model_validate(made.model_dump(mode="json")) == made
    assert CoderRecord.model_validate_json(made.model_dump_json()) == made


@pytest.mark.parametrize(
    "provenance", [{}, {"metadata": 3}, {"metadata": {}}, {"metadata": {"training_architecture": 3}}]
)
def test_an_older_result_that_does_not_say_it_is_left(provenance):
    assert CoderRecord.model_validate(record(provenance=provenance)).architecture == "jumprelu"
    assert CoderRecord.model_validate(record(format="x", provenance=provenance)).architecture == "jumprelu"


def test_inspect_says_both(cli, tmp_path):
    folder = write("saelens_batchtopk_export", tmp_path / "sae")
    _, out, _ = cli("inspect", folder)
    words = " ".join(out.split())
    assert "architecture: batchtopk" in words
    assert "inference architecture: jumprelu" in words


def test_an_older_result_is_verified_as_what_it_says_now():
    """Records of before and of now are of one architecture, so nothing is called another SAE for it."""
    metadata = {"metadata": {"training_architecture": "batchtopk"}}
    old = CoderRecord.model_validate(record(provenance=metadata))
    new = CoderRecord.model_validate(record(architecture="batchtopk", provenance=metadata | {INFERENCE: "jumprelu"}))
    assert old == new


def test_a_topk_sae_made_into_a_jumprelu_by_its_library_raises_no_alarm(tmp_path):
    """Only a threshold that somebody told of makes a preflight ask for k."""
    coder = load_sae(str(write("llama_scope", tmp_path)), told=told("llama_scope"))
    assert coder.rule.activation == "jumprelu"
    case = types.SimpleNamespace(linear=coder, info=coder.info, promised_l0=4)
    assert evidence._activation(case) is None
