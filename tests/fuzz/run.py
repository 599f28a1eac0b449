"""`make fuzz`: atheris over every parser, coverage-guided, each for a while in a process of its own.

    python -m tests.fuzz.run [--seconds 300] [target …]

What makes a target fail is kept as `crash-…` in the data folder. Ends with 1 if there was any.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Run the targets one after the other."""
    parser = argparse.ArgumentParser(prog="tests.fuzz.run")
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--seconds", type=int, default=300, help="for each target")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        _fuzz(options.inside, options.seconds)
        return 0
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "apps.config.settings")
    import django

    django.setup()
    from tests.fuzz.targets import TARGETS

    failed = 0
    for name in options.targets or TARGETS:
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "tests.fuzz.run", "--inside", name, "--seconds", str(options.seconds)],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        lines = [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("INFO")]
        runs = next((line for line in reversed(lines) if line.startswith("Done ")), "stopped")
        failed += done.returncode != 0
        print(
            f"{'ok' if done.returncode == 0 else 'FAILED':7}{name:24}{time.monotonic() - began:5.0f} s  {runs}",
            flush=True,
        )
        if done.returncode:
            print("\n".join(lines[-40:]), flush=True)
    return 1 if failed else 0


def _fuzz(name: str, seconds: int) -> None:
    """One target in this process; libFuzzer ends it."""
    import atheris

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "apps.config.settings")
    import django

    with atheris.instrument_imports(include=["apps.ingest", "apps.lib", "apps.sagas.query", "apps.sagas.definition"]):
        django.setup()
        from tests.fuzz.targets import SLOWEST_SECONDS, TARGETS, seeds
    target = TARGETS[name]
    data = Path(os.environ.get("SAGASCOPE_DATA") or tempfile.gettempdir()) / "fuzz" / name
    data.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds().get(name, [])):
        (data / f"seed-{number}").write_bytes(seed)

    def timed(given: bytes) -> None:
        began = time.process_time()
        target(given)
        assert time.process_time() - began < SLOWEST_SECONDS, "too slow"

    limits = [f"-max_total_time={seconds}", "-timeout=20", "-rss_limit_mb=1000", "-max_len=8192"]
    atheris.Setup([sys.argv[0], *limits, f"-artifact_prefix={data}/", str(data)], timed)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
