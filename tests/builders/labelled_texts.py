"""Labelled texts of few words."""

from typing import Any

from sae_bench.data.labelled import LabelledSet, Suite

VOCABULARY = 100_000


class Words:
    """A tokenizer of words: each new word gets the next id, `<s>` is BOS."""

    bos_token_id: int | None = 0
    eos_token_id = None

    def __init__(self) -> None:
        self.ids = {"<s>": 0}

    def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
        assert options["add_special_tokens"] is False
        text.encode()
        return {"input_ids": [self.ids.setdefault(word, len(self.ids)) for word in text.split()]}


WORDS = Words()


def texts_of(suite: Suite, one: LabelledSet, part: str = "train") -> set[tuple[str, bool]]:
    """The words and labels of a part."""
    word = {number: name for name, number in WORDS.ids.items()}
    chosen = getattr(one, part)
    ids = (suite.tokens[int(place)].ids[1:] for place in chosen.texts)
    return {(" ".join(word[int(i)] for i in row), bool(y)) for row, y in zip(ids, chosen.labels, strict=True)}
