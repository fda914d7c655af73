"""Who judged: what an endpoint says of the model behind it. Answers of two are never mixed in one result."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from sae_bench.files import strict_json
from sae_bench.judge.records import Completion


@dataclass(frozen=True)
class Served:
    """A model as the endpoint names it in its replies.

    Attributes:
        model: the name in the reply, None where it has none.
        fingerprint: ``system_fingerprint``; None where there is none, or where several count as one judge.
        provider: who served the request, where the endpoint hands requests on.
    """

    model: str | None = None
    fingerprint: str | None = None
    provider: str | None = None

    @classmethod
    def of(cls, completion: Completion) -> Served:
        """Who gave a completion, with everything that the endpoint says."""
        return cls(completion.model, completion.fingerprint, completion.provider)

    def judge(self, fingerprints: bool) -> Served:
        """Who of a result's judges this is; ``fingerprints`` says whether another fingerprint is another judge."""
        return self if fingerprints else replace(self, fingerprint=None)

    @classmethod
    def read(cls, text: str) -> Served:
        """What :attr:`text` has written."""
        return cls(*strict_json(text))

    @property
    def text(self) -> str:
        """The one way in which it is written in a cache."""
        return json.dumps([self.model, self.fingerprint, self.provider], ensure_ascii=True)

    @property
    def parameters(self) -> dict[str, Any]:
        """What of it belongs to the protocol of a task, without what the endpoint does not say."""
        named = {"judge_model": self.model, "judge_fingerprint": self.fingerprint, "judge_provider": self.provider}
        return {name: value for name, value in named.items() if value is not None}

    def __str__(self) -> str:
        beside = [f"fingerprint {self.fingerprint}"] if self.fingerprint else []
        beside += [f"provider {self.provider}"] if self.provider else []
        name = self.model or "a model without a name"
        return f"{name} ({', '.join(beside)})" if beside else name

    def is_asked(self, asked: str) -> bool:
        """Whether the name may mean the model that was asked for: names differ by snapshot, tag, vendor and path."""
        if self.model is None:
            return True
        here, there = _plain(asked), _plain(self.model)
        return here in there or there in here


def _plain(name: str) -> str:
    """A name without vendor, path, tag and file ending, in small letters and digits."""
    last = name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1].lower()
    last = last.split("@")[0].split(":")[0].removesuffix(".gguf")
    return "".join(mark for mark in last if mark.isalnum())


NOBODY = Served()  # an endpoint that says nothing of who answers
