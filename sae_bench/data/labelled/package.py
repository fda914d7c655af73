"""Probe sets in the wheel of a package: tables with the columns `prompt` and `target`.

A text is what the table says, spaces at its ends too. A text that is there twice is one example; a hash of the text
decides its part, and one that is too long keeps its end. How many tokens a text has in another tokenizer, which some
tables say, is not read.
"""

import csv
import io
from collections.abc import Iterable, Iterator

from sae_bench.data.csv_files import csv_rows
from sae_bench.data.labelled.build import Draft, SetBuilder
from sae_bench.data.labelled.encode import SHIFTED, Encoder, LabelledOptions, Unusable, side_of
from sae_bench.data.labelled.entries import PackageSet
from sae_bench.data.labelled.wheels import WHEELS, Absent, Tables
from sae_bench.data.sources import reading
from sae_bench.errors import DataError
from sae_bench.files import lines

COLUMNS = ("prompt", "target")
CHARACTERS = 8  # a text is cut to so many characters at its end a token of the context, before it is tokenised


def load_packages(
    entries: Iterable[PackageSet], encoder: Encoder, options: LabelledOptions
) -> tuple[list[Draft], dict[str, str], str]:
    """The sets that can be had, why the others cannot, and what lacks on this machine, if anything does.

    What lacks is one sentence without a full stop that says how it comes here. Raises `DataError` for a table that is
    not what it must be, which the digest of its package rules out.
    """
    drafts: list[Draft] = []
    skipped: dict[str, str] = {}
    lacking = ""
    by_package: dict[str, list[PackageSet]] = {}
    for entry in entries:
        by_package.setdefault(entry.dataset, []).append(entry)
    for package, members in by_package.items():
        try:
            with Tables(WHEELS[package]) as tables:
                for entry in members:
                    try:
                        drafts.append(_load(entry, tables, encoder, options))
                    except Unusable as error:
                        skipped[entry.name] = f"{package} {entry.file}: {error}."
        except Absent as error:
            lacking = str(error)
            skipped |= {entry.name: f"{lacking[0].upper()}{lacking[1:]}." for entry in members}
    return drafts, skipped, lacking


def _load(entry: PackageSet, tables: Tables, encoder: Encoder, options: LabelledOptions) -> Draft:
    builder = SetBuilder(entry.name, encoder, options, balanced=entry.balanced, keep="end")
    most = CHARACTERS * options.context
    for text, label in examples(entry, tables):
        builder.add(side_of(text), text[-most:], label)
    if entry.shifted is not None and options.shifted:
        for text, label in examples(entry, tables, shifted=True):
            builder.add(SHIFTED, text[-most:], label)
    wheel = tables.wheel
    notes = {"licence": entry.licence, "paper": entry.source, "package_sha256": wheel.sha256}
    notes |= {"note": entry.note} if entry.note else {}
    return builder.finish(
        f"package: {wheel.package} {wheel.version}, {entry.file}",
        **(notes | ({"uncertain": True} if entry.uncertain else {})),
    )


def examples(entry: PackageSet, tables: Tables, *, shifted: bool = False) -> Iterator[tuple[str, bool]]:
    """The texts of a set, or of its shifted test part, with their labels, as the table has them.

    Raises `DataError` for a table that has other columns, or other targets than the entry names.
    """
    what, file = ("shifted", entry.shifted) if shifted else ("set", entry.file)
    assert file is not None
    where = f"{tables.wheel.package} {file}"
    labels = dict.fromkeys(map(str, entry.label.positive), True) | dict.fromkeys(map(str, entry.label.negative), False)
    source = io.BytesIO(tables.read(what, file))
    with reading(where, csv.Error):
        for number, row in enumerate(csv_rows(lines(source, tables.place, DataError), where, ",", COLUMNS)):
            if row["target"] not in labels:
                known = ", ".join(labels)
                raise DataError(f"{where} row {number}: the target must be one of {known}, got {row['target'][:40]!r}.")
            yield row["prompt"], labels[row["target"]]
