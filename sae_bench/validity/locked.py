"""The lock beside what was measured just now: which metric is no longer what the lock says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from sae_bench import registry, standing
from sae_bench.standing import Standing
from sae_bench.validity.asked import Question
from sae_bench.validity.verdict import lost


def files(question: Question) -> dict[Path, list[str]]:
    """The locks that the metrics asked about belong into, with the metrics of each."""
    found: dict[Path, list[str]] = {}
    for metric in question.metrics:
        folder = registry.folder_of_task(metric.partition(".")[0], question.task_dir)
        found.setdefault(folder / standing.FILE, []).append(metric)
    return found


def known(question: Question) -> dict[str, Standing]:
    """What the locks say of the metrics asked about. Raises TaskError for one that cannot be read."""
    found: dict[str, Standing] = {}
    for file, metrics in files(question).items():
        lock = standing.read(file)
        found |= {name: lock[name] for name in metrics if name in lock}
    return found


def written(question: Question, found: Mapping[str, Standing]) -> Iterator[Path]:
    """Write the locks, in which metrics that were not asked about stay as they are. Raises SaeBenchError."""
    for file, metrics in files(question).items():
        whole = standing.read(file) | {name: found[name] for name in metrics if name in found}
        standing.write(file, {name: whole[name] for name in sorted(whole)})
        yield file


def broken(
    question: Question, locked: Mapping[str, Standing], found: Mapping[str, Standing], *, anew: bool = False
) -> list[str]:
    """A sentence for each metric by which the lock ranks, and which does not deserve that any more.

    ``anew``: what was found takes the place of what the lock says, so that another definition is no fault.
    """
    said = []
    for name, was in locked.items():
        if not was.ranked or was.claims is None:
            continue
        now = found.get(name)
        if now is None:
            said.append(f"{name} is ranked, and no longer measured")
        elif now.digest != was.digest and not anew:
            said.append(f"{name} is defined otherwise than when it was validated: measure it again, with --write")
        elif now.claims != was.claims and not anew:
            said.append(f"{name} claims {now.claims or 'nothing'}, and was validated for {was.claims}")
        elif not question.quick:
            said += [] if now.ranked else [f"{name} has lost its rank: {now.why}"]
        else:
            why = [
                f"{reason} in {world}"
                for world, one in was.worlds.items()
                for reason in (lost(was.claims, one, now.worlds[world]) if world in now.worlds else ["not measured"])
            ]
            said += [f"{name} has lost its rank: {'; '.join(why)}"] if why else []
    return said
