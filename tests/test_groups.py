"""The ids of documents name what is resampled."""

import pytest

from sae_bench.units.groups import group_of, in_group


def test_a_document_alone_is_its_own_group_with_its_copies() -> None:
    assert group_of("00ff") == "00ff"
    assert group_of("00ff#2") == "00ff"


def test_documents_of_a_group_are_one() -> None:
    assert {group_of(in_group("a", "00ff")), group_of(in_group("a", "11ff#3"))} == {"a"}


@pytest.mark.parametrize("group", ["", "a~b", "a@3", "a:b"])
def test_a_group_that_could_not_be_read_again_is_refused(group: str) -> None:
    with pytest.raises(ValueError, match="group"):
        in_group(group, "00ff")
