"""Identifiers: of the original's form, of chance alone, and every character as likely as the others."""

import re
from collections import Counter

import pytest

from orchestrator import ids
from orchestrator.ids import Prefix

FORMS: dict[Prefix, str] = {
    "thread_": r"thread_[0-9A-Za-z]{24}",
    "run_": r"run_[0-9A-Za-z]{24}",
    "file-": r"file-[1-9A-HJ-NP-Za-km-z]{22}",
    "upload_": r"upload_[0-9a-f]{32}",
}


@pytest.mark.parametrize("prefix", FORMS)
def test_an_id_has_the_form_of_its_kind(prefix: Prefix) -> None:
    made = {ids.new(prefix) for _ in range(200)}

    assert len(made) == 200
    assert all(re.fullmatch(FORMS[prefix], id_) for id_ in made)


@pytest.mark.parametrize(("prefix", "characters"), [("run_", 62), ("file-", 58), ("upload_", 16)])
def test_no_character_is_likelier_than_another(prefix: Prefix, characters: int) -> None:
    counts = Counter("".join(ids.new(prefix)[len(prefix) :] for _ in range(5_000)))

    fair = counts.total() / characters
    assert len(counts) == characters
    # Bytes that are not thrown away would make some a fifth likelier; this is six deviations of chance away.
    assert all(abs(count - fair) < 6 * fair**0.5 for count in counts.values())
