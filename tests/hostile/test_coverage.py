"""No case of the bad-input contract is forgotten, and none is said to be tested where it is not."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

import pytest

from tests.hostile.coverage import BROKERS, CASES, HTTP, NATIVE, WEBHOOK_URLS
from tests.hostile.rows import DOCUMENTS, ITEMS, SPANS

TESTS = Path(__file__).resolve().parents[1]
#: The text of the contract lies beside the project, not in it.
CONTRACT = os.environ.get("SAGASCOPE_HOSTILE_CONTRACT", "")


def test_every_number_of_the_contract_has_its_tests() -> None:
    assert sorted(CASES) == list(range(1, 107))


@pytest.mark.skipif(not CONTRACT, reason="SAGASCOPE_HOSTILE_CONTRACT does not say where the contract's text is")
def test_the_numbers_are_those_of_the_contract() -> None:
    numbers = {int(number) for number in re.findall(r"\*\*(\d+)\*\*", Path(CONTRACT).read_text())}
    assert numbers - {400, 413, 415, 422, 200} - CASES.keys() == set()
    assert numbers >= CASES.keys()


@pytest.mark.parametrize("place", sorted({each for places in CASES.values() for each in places} | set(WEBHOOK_URLS)))
def test_what_is_said_to_be_tested_is(place: str) -> None:
    file, _, name = place.partition("::")
    tree = ast.parse((TESTS / file).read_text())
    functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert name in functions if name else any(each.startswith("test_") for each in functions)


def test_a_case_of_the_tables_has_a_row_of_its_number() -> None:
    rows = {row.number for row in (*ITEMS, *DOCUMENTS)} | {int(row.name.split("-")[0]) for row in SPANS}
    in_tables = {
        number for number, places in CASES.items() if set(places) & {NATIVE, HTTP, BROKERS} and not _is_named(places)
    }
    assert in_tables - rows == set()


def _is_named(places: tuple[str, ...]) -> bool:
    return any("::" in place for place in places)
