"""What the pages load: little script, none of it inline, nothing from anywhere else."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
STATIC, TEMPLATES = ROOT / "static", ROOT / "templates"
#: All scripts of all pages together, as they travel.
MOST_BYTES = 250_000


def scripts() -> list[Path]:
    return sorted((STATIC / "js").rglob("*.js"))


def test_all_scripts_together_stay_small() -> None:
    sizes = {path.name: len(gzip.compress(path.read_bytes(), 6)) for path in scripts()}

    assert len(sizes) >= 5
    assert sum(sizes.values()) <= MOST_BYTES, sizes


def test_every_script_is_used_by_a_page_and_every_page_finds_its_scripts() -> None:
    asked = set()
    for template in TEMPLATES.rglob("*.html"):
        asked |= set(re.findall(r"static 'js/([^']+)'", template.read_text()))

    assert asked == {path.relative_to(STATIC / "js").as_posix() for path in scripts()}


def test_nothing_is_fetched_from_anywhere_else_and_nothing_is_evaluated() -> None:
    for path in scripts():
        if path.name.endswith(".min.js"):
            continue
        text = path.read_text()
        assert not re.search(r"\beval\(|new Function\(|innerHTML|insertAdjacentHTML|document\.write", text), path.name
        assert not re.search(r"(?:fetch|import|WebSocket)\(\s*[\"'`](?:https?|wss?):", text), path.name
    for sheet in (STATIC / "css").glob("*.css"):
        assert "@import" not in sheet.read_text(), sheet.name
        assert "url(http" not in sheet.read_text(), sheet.name


def test_no_script_takes_a_name_of_another_one() -> None:
    taken: dict[str, str] = {}
    for path in scripts():
        if path.name.endswith(".min.js"):
            continue
        for name in re.findall(r"^(?:async )?(?:function|const|let|class|var) +(\w+)", path.read_text(), re.MULTILINE):
            assert name not in taken, f"{path.name} and {taken[name]} both call something {name}"
            taken[name] = path.name
