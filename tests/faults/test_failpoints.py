"""Failpoints: off they do nothing, armed they end the process, and the suite knows every one that the code has."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from apps.lib import failpoints
from tests.faults.faults import FAULTS

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = "from apps.lib import failpoints; failpoints.reach('door.admitted'); print('alive')"


def run(**environment: str) -> subprocess.CompletedProcess[str]:
    known = {name: value for name, value in os.environ.items() if name != "SAGASCOPE_FAILPOINTS"}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env={**known, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_the_variable_nothing_happens(tmp_path: Path) -> None:
    (tmp_path / "door.admitted").touch()
    assert run().stdout == "alive\n"
    assert (tmp_path / "door.admitted").exists()


def test_an_armed_point_ends_one_process_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "door.admitted").touch()
    assert run(SAGASCOPE_FAILPOINTS=str(tmp_path)).returncode == -signal.SIGKILL
    assert run(SAGASCOPE_FAILPOINTS=str(tmp_path)).stdout == "alive\n"


def test_every_point_of_the_code_is_described_and_the_other_way_round() -> None:
    files = (ROOT / "apps").rglob("*.py")
    used = [name for file in files for name in re.findall(r'failpoints\.reach\("([\w.]+)"\)', file.read_text())]
    # A way in may have two forms, and then one point lies in both.
    assert sorted(set(used)) == sorted(failpoints.POINTS)


def test_every_point_is_died_at() -> None:
    told = " ".join(fault.about for fault in FAULTS)
    assert [name for name in failpoints.POINTS if name not in told] == []
