"""Data inside the page: JSON that no text in it can end."""

from __future__ import annotations

import json
import re
from typing import Any

_ENDS = re.compile("[<>&\u2028\u2029]")  # characters that could end the element, or a line of script


def island(content: Any) -> str:
    """Strict JSON in which no character can end the element that holds it."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _ENDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
