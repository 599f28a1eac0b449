"""The containers of docker/compose.yaml run commands that there are, with arguments that they take."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import get_commands, load_command_class

from apps.config.management.commands import up

ROOT = Path(__file__).resolve().parent.parent.parent
SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())["services"]
MANAGED = {name: each["command"][2:] for name, each in SERVICES.items() if "manage.py" in each.get("command", ())}


def test_what_must_be_set_is_in_the_example() -> None:
    example = (ROOT / "docker/.env.example").read_text()
    for name in ("compose.yaml", "compose.tls.yaml"):
        for variable in re.findall(r"\$\{(\w+):\?", (ROOT / "docker" / name).read_text()):
            assert re.search(rf"^#?{variable}=", example, re.MULTILINE), variable


def test_stores_ask_who_comes() -> None:
    assert "--requirepass" in SERVICES["redis"]["command"]
    environment = SERVICES["web"]["environment"]
    assert re.match(r"redis://:\$\{REDIS_PASSWORD:\?[^}]+\}@", environment["REDIS_URL"])
    assert re.match(r"postgresql://sagascope:\$\{POSTGRES_PASSWORD:\?[^}]+\}@", environment["DATABASE_URL"])


def test_tls_is_a_file_beside_it() -> None:
    added = yaml.safe_load((ROOT / "docker/compose.tls.yaml").read_text())["services"]["nginx"]
    assert "8443" in added["ports"][0]
    mounted = [volume.split(":") for volume in added["volumes"]]
    assert (ROOT / "docker" / mounted[0][0]).is_file()
    assert "include /etc/nginx/tls[.]conf;" in (ROOT / "docker/nginx.conf").read_text()
    assert "listen 8443 ssl" in (ROOT / "docker/tls.conf").read_text()


def test_what_reads_brokers_and_engines_is_there() -> None:
    assert MANAGED["consumers"] == ["consume"]
    assert MANAGED["pollers"] == ["poll"]


@pytest.mark.parametrize("service", MANAGED)
def test_a_service_runs_a_command_that_takes_its_arguments(service: str) -> None:
    name, *arguments = MANAGED[service]
    command = load_command_class(get_commands()[name], name)

    command.create_parser("manage.py", name).parse_args(arguments)


@pytest.mark.parametrize("started_by", ["Dockerfile", "manage.py up"])
def test_an_open_page_costs_a_web_process_little_and_one_that_answers_nothing_is_dropped(started_by: str) -> None:
    if started_by == "Dockerfile":
        text = (ROOT / "docker/Dockerfile").read_text().replace("\\\n", "")
        (command,) = re.findall(r"^CMD (\[\"uvicorn.*\])$", text, re.MULTILINE)
        words = json.loads(command)
    else:
        children = up._children({"host": "127.0.0.1", "port": 8000, "reload": False})
        (words,) = [child.command for child in children if child.name == "web"]
    told = dict(pairwise(words))
    # The page is asked, and its answer waited for.
    assert 0 < float(told["--ws-ping-interval"]) + float(told["--ws-ping-timeout"]) <= 25
    assert told["--ws-per-message-deflate"] == "false"
