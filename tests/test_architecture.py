"""What holds for the project as a whole: layers, migrations, documented settings, sizes, safe templates."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from io import StringIO
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LONGEST_FILE = 600

SOURCES = [path for folder in ("apps", "tests", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))]
TEMPLATES = sorted((ROOT / "templates").rglob("*.html"))


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def test_imports_go_one_way_and_pure_modules_stay_pure() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.django_db
def test_every_change_of_a_model_has_its_migration() -> None:
    from django.core.management import call_command

    told = StringIO()
    try:
        call_command("makemigrations", check=True, dry_run=True, stdout=told)
    except SystemExit:
        pytest.fail(told.getvalue())


def test_every_setting_from_the_environment_is_documented() -> None:
    settings = "".join((ROOT / path).read_text() for path in ("apps/config/settings.py", "apps/lib/failpoints.py"))
    read = set(re.findall(r"""(?:environ\.get\(|environ\[|_flag\(|_names\()\s*"([A-Z][A-Z0-9_]*)\"""", settings))
    documented = set(re.findall(r"^\| `([A-Z][A-Z0-9_]*)` \|", (ROOT / "docs/operating.md").read_text(), re.MULTILINE))

    assert len(read) > 10
    assert read == documented


def test_no_source_file_is_too_long_to_be_about_one_thing() -> None:
    too_long = {
        path.relative_to(ROOT).as_posix(): length
        for path in SOURCES
        if "migrations" not in path.parts and (length := len(path.read_text().splitlines())) > LONGEST_FILE
    }

    assert too_long == {}


def test_nothing_turns_off_the_escaping_of_html() -> None:
    forbidden = re.compile(r"\|\s*safe\b|\bmark_safe\b|\bsafeseq\b|autoescape\s+off|SafeString\(")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in [*TEMPLATES, *(path for path in SOURCES if path.is_relative_to(ROOT / "apps"))]
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if forbidden.search(line)
    ]

    assert found == []


def test_templates_hold_no_inline_script_or_style() -> None:
    forbidden = re.compile(
        r"<script(?![^>]*\bsrc=)(?![^>]*application/json)|<style|\sstyle=|\son[a-z]{3,}=|javascript:", re.IGNORECASE
    )
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in TEMPLATES
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if forbidden.search(line)
    ]

    assert found == []


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-server.lock"])
def test_a_lock_pins_every_dependency_by_hash_and_names_no_index(lock: str) -> None:
    text = (ROOT / lock).read_text()
    pinned = re.findall(r"^([a-z0-9][a-z0-9._-]*)(?:\[[^]]*\])?==", text, re.MULTILINE)
    requirements = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    wanted = [re.split(r"[\[<>=~!; ]", line)[0] for line in lines]

    assert set(wanted) <= set(pinned)
    assert all("--hash=sha256:" in requirement for requirement in requirements)
    assert "://" not in text
    assert "--find-links" not in text


def imported(path: Path) -> Iterator[str]:
    """The modules that a file imports, relative imports apart."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def test_everything_that_is_imported_is_pinned() -> None:
    """What happens to be installed here is not installed by somebody else."""
    pinned = set(re.findall(r"^([a-z0-9][a-z0-9._-]*)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    ours = {"apps", "tests", "benchmarks", *(path.stem for path in (ROOT / "benchmarks").glob("*.py"))}
    providers = metadata.packages_distributions()

    def is_pinned(module: str) -> bool:
        top = module.partition(".")[0]
        if top in ours or top in sys.stdlib_module_names:
            return True
        candidates = providers.get(top, [])
        if len(set(candidates)) > 1:  # a namespace that several packages share
            folder = module.replace(".", "/")
            candidates = [
                name for name in candidates if any(folder in str(file) for file in metadata.files(name) or ())
            ]
        return any(re.sub(r"[-_.]+", "-", name).lower() in pinned for name in candidates)

    missing = {module for path in SOURCES for module in imported(path) if not is_pinned(module)}
    assert missing == set()
