"""The last resort: whatever nobody expected becomes one sentence, and a file with the traceback for a report.

The file holds no values of variables, and nothing of the environment that looks like a secret: people attach it to
public reports.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import platform
import re
import tempfile
import traceback
from urllib.parse import quote

from sae_bench import __version__
from sae_bench.errors import named

_MACHINE = {  # what a user can mend where sae-bench runs; anything else that the system refuses is unexpected
    errno.ENOSPC: "make room, or write elsewhere",
    errno.EDQUOT: "make room, or write elsewhere",
    errno.EROFS: "write elsewhere",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close other programs",
    errno.EACCES: "change the access rights, or give another path",
    errno.EPERM: "change the access rights, or give another path",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ELOOP: "its links lead in a circle",
    errno.EIO: "check the disk",
}
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|AUTH|COOKIE|PROXY", re.IGNORECASE)
_PATTERNS = re.compile(r"(?<=://)[^\s/@]+(?=@)|\b(hf_|sk-|ghp_)[\w-]{8,}|(?<=[Bb]earer )\S+")
_SHORTEST = 6  # characters of a secret: "1" and "true" stand anywhere
_LONGEST = 200_000  # characters of a traceback


def of_machine(error: BaseException) -> str | None:
    """A sentence for what the machine refuses and the user can mend; None for anything else."""
    if not isinstance(error, OSError) or error.errno not in _MACHINE:
        return None
    what = f" ({error.filename})" if isinstance(error.filename, str) else ""
    return without_secrets(f"{error.strerror}{what}: {_MACHINE[error.errno]}")


def sentence(error: BaseException) -> str:
    """Write the traceback to a file that only the user may read, and say what happened, where, and what to do."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        what = f"out of memory ({named(error)}): give smaller batches (--batch-tokens), fewer SAEs, or --device cpu"
    elif isinstance(error, RecursionError):
        what = f"something is nested too deeply ({named(error)})"
    else:
        what = f"an error that sae-bench did not expect ({named(error)})"
    return without_secrets(f"{what}; {_kept(error)}")


def _kept(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else "an unknown place"
    try:
        text = "".join(traceback.format_exception(error))
        about = f"sae-bench {__version__}, Python {platform.python_version()}, {platform.platform()}\n\n"
        number, name = tempfile.mkstemp(prefix="sae-bench-", suffix=".traceback.txt")  # for the user alone (0600)
        with os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(without_secrets(about + text[:_LONGEST]))
    except (OSError, MemoryError, RecursionError):
        return f"it was raised at {place}, and the traceback cannot be written: please report it"
    return f"the traceback is in {name}: please report it"


def without_secrets(text: str) -> str:
    """The text without the values of environment variables that hold keys, as they are and as they may be encoded."""
    for name, value in os.environ.items():
        if _SECRET.search(name) and len(value) >= _SHORTEST:
            for form in _forms(value):
                text = text.replace(form, "***")
    return _PATTERNS.sub("***", text)


def _forms(value: str) -> set[str]:
    raw = value.encode(errors="surrogateescape")
    escaped = json.dumps(value)[1:-1]
    return {
        *(value, repr(value)[1:-1], escaped, escaped.replace("/", "\\/")),
        *(quote(raw), quote(raw, safe=""), base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode()),
    }
