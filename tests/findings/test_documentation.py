"""The truth table of the documentation is that of the code."""

from __future__ import annotations

import re
from pathlib import Path

from apps.sagas.findings import CODES, FINDINGS, RULES
from apps.sagas.query_keys import KEYS
from apps.web.findings_shown import MARKS

DOCUMENT = (Path(__file__).parents[2] / "docs/findings.md").read_text()


def test_the_table_has_a_row_for_every_rule_in_their_order() -> None:
    rows = re.findall(r"^\| `([a-z_]+)` \| (.+) \| (.+) \| (.+) \|$", DOCUMENT, re.MULTILINE)
    assert [row[0] for row in rows] == list(FINDINGS)
    assert all(broken.strip() and near.strip() and doubt.strip() for _, broken, near, doubt in rows)


def test_every_rule_has_its_words_everywhere() -> None:
    assert list(FINDINGS) == list(CODES)
    assert set(RULES) == set(MARKS) == set(KEYS["finding"].words) == set(CODES)


def test_every_rule_has_its_story_and_its_near_miss() -> None:
    stories = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    for code in CODES:
        assert f'finding("{code}"' in stories or f'codes() == {{"{code}"}}' in stories, code
