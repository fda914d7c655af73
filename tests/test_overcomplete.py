"""Objects of overcomplete behind a factory: evaluation mode, the dictionary as it is now, and the contract."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

from sae_bench.errors import CoderError
from sae_bench.saes.conformance import check
from sae_bench.saes.load import load_sae
from sae_bench.saes.overcomplete import wrap
from tests.builders.format_fixtures import assert_matches_fixture
from tests.builders.overcomplete_saes import D, M, TopKSAE

HOOK = "blocks.3.hook_resid_post"


class BatchTopKSAE(TopKSAE):
    running_threshold = None

    def encode(self, x):
        pre, codes = self.encoder(x)
        threshold = codes.flatten().topk(self.top_k).values[-1] if self.training else self.running_threshold
        return pre, codes * (codes >= threshold)


class JumpSAE(TopKSAE):
    def __init__(self, d: int = D, m: int = M) -> None:
        super().__init__(d, m)
        self.thresholds = nn.Parameter(torch.full((m,), -1.0))

    def encode(self, x):
        pre = self.encoder(x)[0]
        codes = pre.relu()
        return pre, codes * (codes >= self.thresholds.exp())


def rebuilt(references, name):
    """The object whose outputs are recorded, from its state and what the state does not hold."""
    place = references / "fixtures" / f"overcomplete_{name}"
    made = {
        "topk": lambda: TopKSAE(32, 128),
        "topk_bn": lambda: TopKSAE(32, 128, norm=nn.BatchNorm1d(128)),
        "batchtopk": lambda: BatchTopKSAE(32, 128, 512),
        "jump": lambda: JumpSAE(32, 128),
    }[name]()
    made.load_state_dict(torch.load(place / "state_dict.pt", weights_only=True))
    if name == "batchtopk":
        made.running_threshold = torch.tensor(2.2720794677734375)
    return place, made


@pytest.mark.parametrize("name", ["topk", "topk_bn", "batchtopk", "jump"])
def test_the_librarys_own_outputs(references, name):
    place, model = rebuilt(references, name)
    coder = wrap(model, hook=HOOK, name="mine")
    assert_matches_fixture(place, coder)
    effective = np.load(place / "reference.npz")["W_dec_effective"]
    assert np.allclose(coder.decoder_rows(torch.arange(128)).numpy(), effective, atol=1e-6)
    assert (coder.info.name, coder.info.hooks_in, coder.info.hooks_out) == ("mine", (HOOK,), (HOOK,))
    assert not coder.info.signed
    assert not model.training


def test_what_the_state_does_not_hold_is_recorded():
    model = BatchTopKSAE()
    with pytest.raises(CoderError, match="has no running_threshold, which only training sets"):
        wrap(model, hook=HOOK)
    model.running_threshold = torch.tensor(0.5)
    recorded = wrap(model, hook=HOOK).info.provenance
    assert (recorded["running_threshold"], recorded["top_k"]) == (0.5, 8)


def test_evaluation_mode_makes_tokens_independent():
    torch.manual_seed(0)
    model = TopKSAE(norm=nn.BatchNorm1d(M))
    model.train()
    coder = wrap(model, hook=HOOK)
    x = torch.randn(9, D)
    assert check(coder, x) == []
    together, alone = coder.encode(x).dense()[:2], coder.encode(x[:2]).dense()
    assert torch.equal(together != 0, alone != 0)
    assert torch.allclose(together, alone, atol=1e-5)  # a product of other size may add in another order


def test_the_dictionary_is_that_of_the_weights_not_of_an_earlier_mode():
    torch.manual_seed(0)
    model, other = TopKSAE().eval(), TopKSAE()
    model.load_state_dict(other.state_dict())  # the fused dictionary is still the old one
    rows = wrap(model, hook=HOOK).decoder_rows(torch.arange(M))
    assert torch.allclose(rows, other.get_dictionary().detach())


def test_codes_that_may_be_negative_are_declared():
    class SAE(TopKSAE):
        def encode(self, x):
            pre = self.encoder(x)[0]
            return pre, pre

    torch.manual_seed(0)
    model = SAE()
    model.encoder.final_activation = nn.Identity()
    assert wrap(model, hook=HOOK).info.signed


def test_objects_that_break_the_contract_are_refused():
    class Biased(TopKSAE):
        def decode(self, z):
            return super().decode(z) + 1

    class Together(TopKSAE):
        def encode(self, x):
            pre, codes = self.encoder(x)
            return pre, codes - codes.mean(0)

    class Fails(TopKSAE):
        def encode(self, x):
            raise ValueError("no\nway")

    class Alone(TopKSAE):
        def encode(self, x):
            return self.encoder(x)[0][:, :3]

    class Unread(TopKSAE):
        def get_dictionary(self):
            return [1, 2]

    torch.manual_seed(0)
    for kind, match in [
        (Biased, "decode is not the product of codes and dictionary"),
        (Together, "cannot be evaluated: "),
        (Fails, "fails on 16 tokens of 6 numbers: ValueError: no$"),
        (Alone, r"encode of x \[16, 6\] must return a tensor of shape \[16, 20\]"),
        (Unread, "must return a matrix"),
    ]:
        with pytest.raises(CoderError, match=match):
            wrap(kind(), hook=HOOK)
    infinite = TopKSAE()
    infinite.dictionary.multiplier.fill_(float("inf"))
    with pytest.raises(CoderError, match="NaN or infinite"):
        wrap(infinite, hook=HOOK)


@pytest.mark.parametrize("thing", [None, 3, nn.Linear(2, 2), object()])
def test_what_is_no_sae_of_overcomplete(thing):
    with pytest.raises(CoderError, match="is no SAE of overcomplete: it lacks encode, decode, get_dictionary"):
        wrap(thing, hook=HOOK)


def test_from_a_factory_of_the_user(tmp_path, monkeypatch):
    """As the refusal of a pickled object says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_overcomplete.py").write_text(
        "from sae_bench.saes.overcomplete import wrap\n"
        "from tests.builders.overcomplete_saes import TopKSAE\n"
        f"def sae():\n    return wrap(TopKSAE(), hook={HOOK!r}, name='mine')\n"
    )
    coder = load_sae("my_overcomplete:sae")
    assert coder.info.hooks_in == (HOOK,)
    assert check(coder, torch.randn(9, D, generator=torch.Generator().manual_seed(0))) == []
    sys.modules.pop("my_overcomplete")
