"""The table of `docs/security.md`: complete, counted rightly, and shown by tests that exist."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()
ROWS = re.findall(
    r"^\| (V\d+\.\d+\.\d+) \| ([12]) \| (.+?) \| (met|not met|not applicable) \| (.+?) \|$", PAGE, re.MULTILINE
)
#: ASVS 5.0.0 has so many requirements of levels 1 and 2.
LEVEL_1, LEVEL_2 = 70, 183

#: What the standard wants written down, and the words that say it.
WRITTEN = {
    "V2.1.2": "What must fit together is checked together",
    "V6.1.1": "five wrong tries of a name",
    "V6.1.3": "There is no other way",
    "V7.1.1": "A session ends after 14 days without a request and after 30 days at the latest",
    "V7.1.2": "any number of sessions",
    "V7.1.3": "end apart from each other",
    "V7.6.1": "signing out here does not sign out there",
    "V8.1.1": "## Who may do what",
    "V8.1.2": "can be set and not read by anybody",
    "V11.1.1": "To change one, put the new one in front",
    "V11.1.2": "Nothing else of ours encrypts or signs",
    "V13.1.1": "## What it talks to",
    "V14.1.1": "## What is sensitive, and what guards it",
    "V14.1.2": "are removed or hashed before anything is stored",
    "V15.1.1": "within 7 days when it is critical",
    "V15.1.3": "What costs much is bounded",
    "V16.1.1": "## What is logged",
    "V16.2.3": "is sent elsewhere",
}


def test_every_requirement_of_both_levels_stands_there_once() -> None:
    levels = Counter(level for _, level, *_ in ROWS)

    assert len({name for name, *_ in ROWS}) == len(ROWS)
    assert (levels["1"], levels["2"]) == (LEVEL_1, LEVEL_2)


def test_the_sums_are_those_of_the_rows() -> None:
    counted = Counter((verdict, level) for _, level, _, verdict, _ in ROWS)

    for label, verdict in (("met, with a test", "met"), ("not met", "not met"), ("not applicable", "not applicable")):
        first, second = counted[verdict, "1"], counted[verdict, "2"]
        assert f"| {label} | {first} | {second} | {first + second} |" in PAGE


def test_whatever_is_met_is_shown_by_tests_that_exist() -> None:
    found = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE)
    }

    missing = {
        requirement: missing
        for requirement, _, _, verdict, shown in ROWS
        if verdict == "met"
        for missing in set(re.findall(r"`(\w+)`", shown) or {"none"}) - found
    }

    assert missing == {}


def test_what_is_not_met_says_why() -> None:
    assert not [name for name, _, _, verdict, why in ROWS if verdict != "met" and len(why) < 6]


@pytest.mark.parametrize(("requirement", "words"), WRITTEN.items(), ids=WRITTEN)
def test_what_must_be_written_down_is_written_down(requirement: str, words: str) -> None:
    assert words in PAGE
    assert requirement in {name for name, _, _, verdict, _ in ROWS if verdict == "met"}
