"""A judge that explains and detects by reading: it gets the text of a request and nothing else, and is not perfect.

Of the excerpts in a request it finds the description that tells the marked words from the others best, among all that
can be said in the words of :mod:`.context_words`; with a description it looks whether that holds anywhere in an
excerpt. It never learns which SAE, latent or feature a request is about. Of what it could say it overlooks a part, and
now and then it errs; both hang on a digest of the request, so equal requests have equal answers.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sae_bench.validity.context_words import Term, everywhere, holds, places, read, rows, standing, whats

ADDRESS = "http://localhost/reading-judge"  # under which it is asked; no connection is opened to it
NAME = "reading-judge"

_EXCERPT = re.compile(r"^\d+\. (.*)$", re.MULTILINE)
_WORD = re.compile(r"<<\s*(.*?)>>(?:\((\d)\))?|(\S+?)(?=<<|\s|$)")
_WINDOW = re.compile(r"^\[(\w+)\] (.*)$", re.MULTILINE)
_DESCRIPTION = re.compile(r"<description>\n(.*)\n</description>", re.DOTALL)
_SILENT = "Silent excerpts:"


@dataclass(frozen=True)
class ReadingJudge:
    """``overlooks``: the share of descriptions that do not occur to it; ``errs``: of answers, that are the wrong ones.

    ``parts``: what it joins by "or" at most; a part must add ``gain`` to the F1 with which it tells marked words from
    the others, and a place costs ``price`` of it: what is simple is said first.
    """

    overlooks: float = 0.15
    errs: float = 0.05
    parts: int = 3
    gain: float = 0.1
    price: float = 0.05

    def __call__(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The reply to one request."""
        system, content = messages[0]["content"], messages[1]["content"]
        described = _DESCRIPTION.search(system)
        if described is None:
            return json.dumps({"explanation": self.explanation(content)})
        asked = _WINDOW.findall(content)
        p = self.answers(described[1], [text for _, text in asked])
        return json.dumps({"answers": [{"id": i, "p": one} for (i, _), one in zip(asked, p, strict=True)]})

    def explanation(self, content: str) -> str:
        """What makes the marked words of the excerpts different, in terms joined by "; or "."""
        firing, _, silent = content.partition(_SILENT)
        excerpts = [_words(text) for part in (firing, silent) for text in _EXCERPT.findall(part)]
        ids = rows([[word for word, _ in excerpt] for excerpt in excerpts])
        marked = np.zeros(ids.shape, dtype=np.bool_)
        for i, excerpt in enumerate(excerpts):
            marked[i, : len(excerpt)] = [mark for _, mark in excerpt]
        there = ids > 0
        what = standing(ids, list(whats()))[:, there].astype(np.float32)
        where = everywhere(ids)[:, there].astype(np.float32)
        unseen = _luck(content, len(what) * len(where)).reshape(len(what), -1) < self.overlooks
        handicap = unseen + self.price * (np.arange(len(where)) > 0)
        chosen = self._chosen(what, where, marked[there], handicap)
        return "; or ".join(str(Term(list(whats())[i], *places()[j])) for i, j in chosen)

    def _chosen(
        self,
        what: NDArray[np.float32],
        where: NDArray[np.float32],
        marked: NDArray[np.bool_],
        handicap: NDArray[np.float64],
    ) -> list[tuple[int, int]]:
        """The terms, as places in ``what`` and ``where``, whose union has the highest F1, one after another."""
        covered = np.zeros(len(marked), dtype=np.bool_)
        chosen: list[tuple[int, int]] = []
        best = 0.0
        for _ in range(self.parts):
            new = ~covered
            right = (what[:, new & marked]) @ where[:, new & marked].T + (covered & marked).sum()
            fires = what[:, new] @ where[:, new].T + covered.sum()
            score = 2 * right / np.maximum(fires + marked.sum(), 1) - handicap
            i, j = divmod(int(score.argmax()), score.shape[1])
            if chosen and score[i, j] < best + self.gain:
                break
            best = float(score[i, j])
            chosen.append((i, j))
            covered |= (what[i] * where[j]) > 0
        return chosen

    def answers(self, description: str, texts: Sequence[str]) -> list[int]:
        """How likely each text has what is described, in percent; near 50 where nothing is described."""
        found = read(description)
        plain = {word.strip("'") for word in description.split()}
        given = []
        for text in texts:
            words = text.split()
            luck = _luck(f"{description}\n{text}", 2)
            if not description.strip():
                given.append(int(30 + 40 * luck[0]))
                continue
            has = any(holds(term, rows([words])).any() for term in found) if found else bool(plain & set(words))
            surely = int(75 + 24 * luck[0])
            given.append(surely if has != bool(luck[1] < self.errs) else 100 - surely)
        return given


def _words(text: str) -> list[tuple[str, bool]]:
    """The words of an excerpt, and whether each is marked."""
    return [(match[1] or match[3] or "", match[3] is None) for match in _WORD.finditer(text)]


def _luck(of: str, n: int) -> NDArray[np.float64]:
    """Numbers in [0, 1) that hang on a text."""
    seed = int.from_bytes(hashlib.sha256(of.encode()).digest()[:8], "little")
    return np.random.Generator(np.random.PCG64(seed)).random(n)
