"""What an error repeats of the request: taken out before anything is read from the error.

Some servers put the prompt into their message. A text of ours that speaks of temperature, of a schema or of requests
per day is then no word about the request.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

_RUN = 16  # letters and digits in a row that are no coincidence


class Echo:
    """Knows what was asked, and takes runs of 16 letters and digits of it, or more, out of texts."""

    def __init__(self, messages: Sequence[Mapping[str, Any]] = ()) -> None:
        self._asked = [text for m in messages if isinstance(text := m.get("content"), str)]
        self._found: frozenset[str] | None = None

    def without(self, text: str) -> str:
        """``text`` without what it repeats, however that is quoted, escaped or cut off."""
        if not self._asked:
            return text
        places = [i for i, mark in enumerate(text) if mark.isalnum()]
        plain, known = _plain(text), self._runs()
        gone: set[int] = set()
        for i in range(len(plain) - _RUN + 1):
            if plain[i : i + _RUN] in known:
                gone.update(places[i : i + _RUN])
        return "".join(mark for i, mark in enumerate(text) if i not in gone) if gone else text

    def value(self, value: Any) -> Any:
        """JSON, every text in it without what it repeats."""
        if isinstance(value, str):
            return self.without(value)
        if isinstance(value, list):
            return [self.value(one) for one in value]
        if isinstance(value, dict):
            return {name: self.value(one) for name, one in value.items()}
        return value

    def _runs(self) -> frozenset[str]:
        """All runs of what was asked, also as JSON escapes it; made when an error comes."""
        if self._found is None:
            plain = [_plain(form) for text in self._asked for form in (text, json.dumps(text))]
            self._found = frozenset(one[i : i + _RUN] for one in plain for i in range(len(one) - _RUN + 1))
        return self._found


def _plain(text: str) -> str:
    """Letters and digits alone, in small letters, each as long as before."""
    return "".join(low if len(low := mark.lower()) == 1 else mark for mark in text if mark.isalnum())


NO_ECHO = Echo()
