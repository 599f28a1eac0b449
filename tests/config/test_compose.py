"""The containers of docker/compose.yaml run commands that there are, with arguments that they take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import get_commands, load_command_class

ROOT = Path(__file__).resolve().parent.parent.parent
SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())["services"]
MANAGED = {name: each["command"][2:] for name, each in SERVICES.items() if "manage.py" in each.get("command", ())}


def test_what_reads_brokers_and_engines_is_there() -> None:
    assert MANAGED["consumers"] == ["consume"]
    assert MANAGED["pollers"] == ["poll"]


@pytest.mark.parametrize("service", MANAGED)
def test_a_service_runs_a_command_that_takes_its_arguments(service: str) -> None:
    name, *arguments = MANAGED[service]
    command = load_command_class(get_commands()[name], name)

    command.create_parser("manage.py", name).parse_args(arguments)
