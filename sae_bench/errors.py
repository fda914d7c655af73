"""Exceptions that a user can meet.

::

    SaeBenchError            anything that sae-bench refuses, with one clear sentence (exit code 2)
    ├── UsageError           flags or arguments that do not fit together
    ├── CoderError           an SAE that cannot be found, read, or fitted to the model
    ├── ModelError           a language model, tokenizer or hook point that cannot be used
    ├── DataError            text, token ids or labels that cannot be used
    ├── TaskError            a task definition that is missing, malformed or inconsistent
    ├── ResultError          a result file that cannot be read or written
    ├── NotComparable        results of different protocols (exit code 3; sae_bench.results.compare_protocol)
    ├── Deferred             work that waits for something outside; its result is "skipped"
    └── JudgeError           an LLM endpoint or its cache that cannot be used (sae_bench.judge)

Every message says what must hold, what came, and what to do.
"""


class SaeBenchError(Exception):
    """Base class: catch this one to catch everything that sae-bench refuses."""


class UsageError(SaeBenchError):
    """Flags or arguments that do not fit together."""


class CoderError(SaeBenchError):
    """An SAE that cannot be found, read, or fitted to the model."""


class ModelError(SaeBenchError):
    """A language model, tokenizer or hook point that cannot be used."""


class DataError(SaeBenchError):
    """Text, token ids or labels that cannot be used."""


class TaskError(SaeBenchError):
    """A task definition that is missing, malformed or inconsistent."""


class ResultError(SaeBenchError):
    """A result file that cannot be read, written or compared."""


class Deferred(SaeBenchError):
    """Work that waits for something outside, such as answers to a batch of requests."""


_LONGEST = 200  # characters


def said(error: BaseException, *, file: bool = True) -> str:
    """The first line of what an exception says, printable and short; the name of its type if it says nothing.

    ``file`` False leaves out which file an OSError is about, for a sentence that says so itself.
    """
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror + (f": {error.filename}" if file and error.filename is not None else "")
    printable = ("".join(c if c.isprintable() else " " for c in line) for line in text.splitlines())
    told = [line for each in printable if (line := each.strip().rstrip(".").strip())] or [type(error).__name__]
    line = " ".join(told[: 1 + told[0].endswith(":")])  # a heading says nothing by itself
    return line if len(line) <= _LONGEST else line[: _LONGEST - 3] + "..."


def named(error: BaseException, *, file: bool = True) -> str:
    """The type of an exception and what it says, in one line."""
    line, name = said(error, file=file), type(error).__name__
    return name if line == name else f"{name}: {line}"
