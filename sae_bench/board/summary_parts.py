"""Which results stand in one table of the summary, and which others their SAEs are ranked among."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sae_bench import registry
from sae_bench.board.alike import SaeKey, key_of
from sae_bench.board.collect import UNOFFICIAL
from sae_bench.board.layout import hook_of
from sae_bench.errors import ResultError, SaeBenchError
from sae_bench.files import at_home
from sae_bench.results import store
from sae_bench.results.heads import Heads
from sae_bench.schema import Result, TaskSpec
from sae_bench.show import judges
from sae_bench.suites.claims import Claims
from sae_bench.units.kinds import kind

MOST_OTHERS = 400  # files of others that are read to rank SAEs among them: two for each SAE
# of labelled texts the last three differ from those of documents that were measured in the same run
_OF_THE_TASK = {"task", "version", "task_sha256", "code_sha256", "parameters", "model", "data"}
_OF_THE_TEXT = {"data_sha256", "n_documents", "bos"}


Place = tuple[str, str, bool, str]


@dataclass(frozen=True)
class Found:
    """A result, or the head of one, with the file that it is in.

    ``suite`` is the sealed suite that it is of, or says that it is of none; ``official`` which.
    """

    file: Path
    result: Result
    suite: str = UNOFFICIAL
    official: bool = False

    @property
    def sae(self) -> SaeKey:
        """What makes two results those of one SAE."""
        return key_of(self.result.sae)

    @property
    def place(self) -> Place:
        """The model's digest, the hook point, and the suite: results that claim one and are not of it stand apart."""
        p = self.result.provenance.protocol
        return p.model_sha256, hook_of(p), not self.official, self.result.suite or ""

    @property
    def generation(self) -> tuple[object, ...]:
        """Equal for two results whose figures may be held against each other."""
        return self.result.task, self.result.protocol, judges.identity(self.result), self.place


def found_in(results: Mapping[Path, Result]) -> list[Found]:
    """Results with what they say of their suites, held against the files of suites."""
    claims = Claims()
    return [Found(file, one, claims.label(one), claims.problem(one) is None) for file, one in results.items()]


def labelled(result: Result, specs: Mapping[str, TaskSpec]) -> bool:
    """Whether a result is over labelled sets, whose texts are not those of the run."""
    if "coverage" in result.provenance.data:
        return True
    spec = specs.get(result.task) or result.definition
    if spec is None or not spec.metrics:
        return False
    known = registry.units()
    try:
        return all(m.table in known and kind(m.table).nested for m in spec.metrics.values())
    except SaeBenchError:  # a kind of a package that cannot be used here says nothing
        return False


def parts(found: Iterable[Found], specs: Mapping[str, TaskSpec]) -> list[list[Found]]:
    """The results of each table: of one place, text and conditions. The most documents come first within a place.

    Labelled sets join every text that was measured with them. The order of ``found`` changes nothing.
    """
    alike: dict[tuple[Place, str], list[Found]] = {}
    for one in sorted(found, key=lambda one: (one.sae, str(one.file))):
        conditions = one.result.provenance.protocol.model_dump_json(exclude=_OF_THE_TASK | _OF_THE_TEXT)
        alike.setdefault((one.place, conditions), []).append(one)
    made = []
    for (place, conditions), own in alike.items():
        of_sets = [one for one in own if labelled(one.result, specs)]
        texts: dict[str, list[Found]] = {}
        for one in (one for one in own if not labelled(one.result, specs)):
            texts.setdefault(one.result.provenance.protocol.data_sha256, []).append(one)
        for data, of_text in texts.items():
            saes = {one.sae for one in of_text}
            size = max(one.result.provenance.protocol.n_documents for one in of_text)
            part = [*of_text, *(one for one in of_sets if one.sae in saes)]
            made.append(((place, -size, conditions, data), part))
        with_text = {one.sae for of_text in texts.values() for one in of_text}
        if alone := [one for one in of_sets if one.sae not in with_text]:
            made.append(((place, 1, conditions, ""), alone))
    return [part for _, part in sorted(made, key=lambda one: one[0])]


def beside(part: Sequence[Found], others: Iterable[Found]) -> list[Found]:
    """Those of other SAEs that were measured at the same place under the same protocols, judged by the same judge."""
    own, alike = {one.sae for one in part}, {one.generation for one in part}
    return [one for one in others if one.sae not in own and one.generation in alike]


def others_in(folder: str | Path, results: Iterable[Result], tasks: Iterable[str]) -> dict[Path, Result]:
    """Heads of what lies in a folder of results under the protocols of ``results``, of some tasks, by file.

    They are found by their names, so that a folder of thousands is not read. Nothing where there are more than
    ``MOST_OTHERS``, or where one cannot be read: it is then no part of any ranking.
    """
    root, heads, found = at_home(folder), Heads({}), {}
    wanted = {store.path_of(root, one.sae, one.task, one.version, one.protocol) for one in results if one.task in tasks}
    files = {file for name in {own.name for own in wanted} for file in root.glob(f"*/*/{name}")} - wanted
    for file in sorted(files) if len(files) <= MOST_OTHERS else ():
        try:
            found[file] = heads.read(file)
        except ResultError:
            continue
    return found
