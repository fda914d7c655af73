"""A TopK SAE in the manner of overcomplete."""

import torch
from torch import nn

D, M = 6, 20


class Encoder(nn.Module):
    """Linear layer, normalisation, ReLU."""

    def __init__(self, d: int, m: int, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.final_block = nn.Sequential(nn.Linear(d, m), nn.Identity() if norm is None else norm)
        self.final_activation = nn.ReLU()

    def forward(self, x):
        pre = self.final_block(x)
        return pre, self.final_activation(pre)


class Dictionary(nn.Module):
    """Rows of norm 1, fused when the mode is switched."""

    def __init__(self, d: int, m: int) -> None:
        super().__init__()
        self._weights = nn.Parameter(torch.randn(m, d))
        self.register_buffer("multiplier", torch.tensor(0.0))
        self._fused = None

    def get_dictionary(self):
        if not self.training:
            assert self._fused is not None, "Dictionary is not initialized."
            return self._fused
        unit = self._weights / (self._weights.norm(dim=1, keepdim=True) + 1e-8)
        return unit * self.multiplier.exp()

    def train(self, mode=True):
        if not mode:
            self._fused = self.get_dictionary()
        return super().train(mode)

    def forward(self, z):
        return z @ self.get_dictionary()


class TopKSAE(nn.Module):
    """The members that an SAE of the library has, written anew."""

    def __init__(self, d: int = D, m: int = M, k: int = 8, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.encoder, self.dictionary, self.top_k = Encoder(d, m, norm), Dictionary(d, m), k

    def get_dictionary(self):
        return self.dictionary.get_dictionary()

    def encode(self, x):
        pre, codes = self.encoder(x)
        top = codes.topk(self.top_k, dim=-1)
        return pre, torch.zeros_like(codes).scatter(-1, top.indices, top.values)

    def decode(self, z):
        return self.dictionary(z)
