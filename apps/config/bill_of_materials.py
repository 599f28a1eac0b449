"""`make sbom`: what a release is made of, as CycloneDX, from the lock file that images and servers are installed from.

    python -m apps.config.bill_of_materials requirements-server.lock > sbom.cdx.json

Pure: the same lock file gives the same document. https://cyclonedx.org/docs/1.6/json/
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
import uuid
from pathlib import Path
from typing import Any

_PINNED = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)(?:\s*;\s*([^\\]+?))?\s*\\?$")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


def components(lock: str) -> list[dict[str, Any]]:
    """Every pinned package with its hashes. Raises ValueError for a line that pins nothing, or without any hash."""
    found: list[dict[str, Any]] = []
    for number, line in enumerate(lock.splitlines(), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if (pinned := _PINNED.match(text)) is not None:
            found.append(_component(pinned[1], pinned[2], pinned[3]))
        elif (digest := _HASH.match(text)) is not None and found:
            found[-1]["hashes"].append({"alg": "SHA-256", "content": digest[1]})
        else:
            raise ValueError(f"line {number} pins nothing: {text[:80]}")
    if bare := [each["name"] for each in found if not each["hashes"]]:
        raise ValueError(f"without a hash: {', '.join(bare)}")
    return found


def document(lock: str) -> dict[str, Any]:
    """The bill of materials of a lock file. Raises ValueError."""
    project = tomllib.loads(_PROJECT.read_text())["project"]
    listed = components(lock)
    root = f"pkg:generic/{project['name']}@{project['version']}"
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, root + lock)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": root,
                "name": project["name"],
                "version": project["version"],
            }
        },
        "components": listed,
        "dependencies": [{"ref": root, "dependsOn": [each["bom-ref"] for each in listed]}],
    }


def _component(name: str, version: str, condition: str | None) -> dict[str, Any]:
    normal = re.sub(r"[-_.]+", "-", name).lower()
    reference = f"pkg:pypi/{normal}@{version}"
    found: dict[str, Any] = {
        "type": "library",
        "bom-ref": reference,
        "name": normal,
        "version": version,
        "purl": reference,
        "hashes": [],
    }
    if condition:
        # Only where this holds is it installed.
        found["properties"] = [{"name": "python:marker", "value": condition.strip()}]
    return found


if __name__ == "__main__":
    json.dump(document(Path(sys.argv[1]).read_text()), sys.stdout, indent=1)
    sys.stdout.write("\n")
