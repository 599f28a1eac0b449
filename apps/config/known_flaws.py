"""`python -m apps.config.known_flaws requirements-server.lock`: ask the list of known flaws about every pinned package.

Ends with 0 when all were looked up and none has a known flaw, with 1 when one has, and with 3 when there is no answer
for all of them: then nothing is said about those, rather than that they are sound.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

SOUND, FLAWED, NO_ANSWER = 0, 1, 3
#: An OSV service to ask instead of the Python Package Index: `https://HOST/v1/query`.
OSV_VARIABLE = "AUDIT_OSV_URL"
_SECONDS = 900
_NEEDS = f"""\
It needs a way out: https to the Python Package Index itself, whose JSON API knows the flaws of each release (mirrors
and proxies for installing seldom have that API), or to an OSV service that {OSV_VARIABLE} names."""


@dataclass
class Audit:
    """What came of asking."""

    asked: int = 0
    #: A line each: which package, which flaw, mended in which release.
    flaws: list[str] = field(default_factory=list)
    #: Packages that nothing was told of, and why.
    unanswered: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> int:
        """The exit code."""
        if self.flaws:
            return FLAWED
        return NO_ANSWER if self.unanswered or not self.asked else SOUND


def ask(lock: Path) -> Audit:
    """Look every package of a lock file up, by pip-audit."""
    command = [
        str(Path(sys.executable).with_name("pip-audit")),
        "--require-hashes",
        "--disable-pip",
        "--format",
        "json",
    ]
    command += ["--progress-spinner", "off", "-r", str(lock)]
    if url := os.environ.get(OSV_VARIABLE):
        command += ["-s", "osv", "--osv-url", url]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)  # noqa: S603 - fixed words
        found = json.loads(done.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        return Audit(unanswered=[f"all: nothing was told within {_SECONDS} s"])
    except OSError as error:
        return Audit(unanswered=[f"all: pip-audit cannot be run: {error}"])
    except (ValueError, KeyError):
        told = (done.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1]
        return Audit(unanswered=[f"all: {told[:500]}"])
    audit = Audit(asked=len(found))
    for each in found:
        if reason := each.get("skip_reason"):
            audit.unanswered.append(f"{each['name']}: {reason}")
        for flaw in each.get("vulns", ()):
            mended = ", ".join(flaw.get("fix_versions", ())) or "no release yet"
            audit.flaws.append(f"{each['name']} {each['version']}: {flaw['id']}, mended in {mended}")
    return audit


def main(arguments: list[str]) -> int:
    """Ask, say what came of it, and return the exit code."""
    if len(arguments) != 1:
        print("usage: python -m apps.config.known_flaws LOCK_FILE", file=sys.stderr)
        return 2
    audit = ask(Path(arguments[0]))
    for line in audit.flaws:
        print(f"FLAW  {line}")
    if audit.unanswered:
        count = str(len(audit.unanswered)) if audit.asked else "all"
        print(
            f"NO ANSWER for {count} of {audit.asked or 'the'} packages, so nothing is known about them:",
            file=sys.stderr,
        )
        for line in audit.unanswered[:5]:
            print(f"  {line}", file=sys.stderr)
        print(_NEEDS, file=sys.stderr)
    if audit.verdict == SOUND:
        print(f"{audit.asked} packages, none with a known flaw.")
    return audit.verdict


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
