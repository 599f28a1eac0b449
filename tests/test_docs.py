"""What the documents say of the project is there: files, headings, pictures, modules, commands."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from django.core.management import get_commands

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
LARGEST_PICTURE = 250_000

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\"")
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
MODULE = re.compile(r"`((?:lib|projects|sagas|dlq|ingest|alerts|web|api|config)(?:\.[a-z_]+)+)`")
#: `manage.py up`, also as a container or a clone spells it; not `manage.py` alone.
COMMAND = re.compile(r"manage\.py ([a-z_]+)\b")
TARGET = re.compile(r"^(?:\$ )?make ([a-z0-9-]+)|`make ([a-z0-9-]+)[^`\n]*`", re.MULTILINE)

every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())


def links(document: Path) -> list[str]:
    """What a document links to within the project."""
    found = [first or second for first, second in LINK.findall(CODE.sub("", document.read_text()))]
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def headings(document: Path) -> set[str]:
    """The anchors of a document as code forges make them."""
    titles = re.findall(r"^#+ (.+)$", CODE.sub("", document.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_there_are_documents_with_links() -> None:
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md"} <= {path.name for path in DOCUMENTS}
    assert len(links(ROOT / "README.md")) > 10


@every_document
def test_links_lead_to_files_and_headings_that_exist(document: Path) -> None:
    broken = []
    for link in links(document):
        path, _, anchor = unquote(link).partition("#")
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (anchor and anchor not in headings(target)):
            broken.append(link)

    assert broken == []


def test_every_document_can_be_reached_from_the_readme() -> None:
    reached: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        document = waiting.pop()
        if document in reached or document not in DOCUMENTS:
            continue
        reached.add(document)
        targets = [(document.parent / unquote(link).partition("#")[0]).resolve() for link in links(document)]
        waiting += [target / "README.md" if target.is_dir() else target for target in targets]

    assert set(DOCUMENTS) - reached == set()


def test_every_picture_is_shown_somewhere_and_small() -> None:
    pictures = {path for path in (ROOT / "docs/images").iterdir() if path.suffix in {".png", ".svg"}}
    shown = {(document.parent / link).resolve() for document in DOCUMENTS for link in links(document)}

    assert pictures
    assert pictures - shown == set()
    assert {path.name: path.stat().st_size for path in pictures if path.stat().st_size > LARGEST_PICTURE} == {}


def test_modules_named_in_the_architecture_exist() -> None:
    named = set(MODULE.findall((ROOT / "docs/architecture.md").read_text()))
    missing = [
        name
        for name in sorted(named)
        if not any((ROOT / "apps" / name.replace(".", "/")).with_suffix(suffix).exists() for suffix in (".py", ""))
    ]

    assert len(named) > 50
    assert missing == []


@every_document
def test_commands_and_make_targets_that_are_named_exist(document: Path) -> None:
    text = document.read_text()
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    assert set(COMMAND.findall(text)) - get_commands().keys() == set()
    assert {first or second for first, second in TARGET.findall(text)} - targets == set()


def test_every_command_of_ours_is_documented() -> None:
    ours = {name for name, app in get_commands().items() if app.startswith("apps.")}
    named = set(COMMAND.findall((ROOT / "docs/operating.md").read_text()))

    assert len(ours) > 5
    assert ours - named == set()
