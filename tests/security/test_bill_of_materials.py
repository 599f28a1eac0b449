"""What a release is made of is written down whole, with hashes, and in the form that scanners read."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from apps.config.bill_of_materials import components, document

ROOT = Path(__file__).resolve().parents[2]
LOCK = (ROOT / "requirements-server.lock").read_text()


def test_every_package_of_the_lock_file_is_a_component_with_its_hashes() -> None:
    listed = components(LOCK)

    assert len(listed) == len(re.findall(r"^[A-Za-z0-9].*==", LOCK, re.MULTILINE)) > 50
    assert {"django", "msgspec", "psycopg", "google-re2"} <= {each["name"] for each in listed}
    assert sum(len(each["hashes"]) for each in listed) == LOCK.count("--hash=sha256:")
    assert len({each["bom-ref"] for each in listed}) == len(listed)


def test_the_same_lock_file_gives_the_same_document_and_another_one_another() -> None:
    assert document(LOCK) == document(LOCK)
    assert document(LOCK)["serialNumber"] != document(LOCK.replace("==", "==1", 1))["serialNumber"]


@pytest.mark.parametrize("lock", ["django>=5", "django==5.2", "-r other.txt"])
def test_what_is_not_pinned_by_hash_is_no_bill(lock: str) -> None:
    with pytest.raises(ValueError, match=r"django|line 1"):
        components(lock)


def test_the_program_writes_cyclonedx() -> None:
    command = [sys.executable, "-m", "apps.config.bill_of_materials", "requirements-server.lock"]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)

    written = json.loads(done.stdout)
    assert (written["bomFormat"], written["specVersion"]) == ("CycloneDX", "1.6")
    purls = [each["purl"] for each in written["components"]]
    assert all(re.fullmatch(r"pkg:pypi/[a-z0-9-]+@[0-9][^@ ]*", purl) for purl in purls)
