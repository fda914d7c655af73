"""What a task that asks a judge has: the run gives it the judge, and asks it beforehand what it will cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sae_bench.judge import Judge, Ratings
from sae_bench.tasks.base import Task


class JudgedTask(Task):
    """Base class, beside that of its stream, of tasks whose definition says ``judge = true``."""

    judge: Judge | None = None  # what the run gives it before it starts
    null = "none"  # or "untrained": the control "random" runs through the whole task
    evidence: Sequence[Ratings] = ()  # its answers to questions whose answers are known: they show in what it counts
    progress: Callable[[str, int, int], None] = staticmethod(lambda what, done, total: None)

    def at_most(self) -> tuple[int, int, int]:
        """Requests for one coder, and roughly the tokens in and out of all of them; second tries not counted."""
        raise NotImplementedError

    @property
    def rationed(self) -> bool:
        """Whether the judge may run out of what it may spend."""
        return self.judge is not None and self.judge.limited

    def divide(self, into: int) -> None:
        """Cut what is left into so many portions."""
        if self.judge is not None:
            self.judge.divide(into)

    def turn(self) -> None:
        """Let the next coder spend one portion."""
        if self.judge is not None:
            self.judge.turn()

    def spent(self) -> int:
        """Requests that the judge was sent until now, retries included."""
        return 0 if self.judge is None else self.judge.usage.attempts

    def wants_control(self, name: str) -> bool:
        """Judging costs money: a control is judged only where it was asked for."""
        return self.null == "untrained" and name == "random"
