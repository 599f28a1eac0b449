"""Run the benchmarks, one after the other, and write down what came out: `docs/benchmarks.md`.

By default each with the sizes that let all of them end within a quarter of an hour on two quiet cores; `--full` takes
the sizes of the design. `--only NAME` (several times) runs these alone and keeps what the page says of the others.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from stage import ROOT

PAGE = ROOT / "docs" / "benchmarks.md"
#: Name → (what it is about, options that make it short).
BENCHMARKS: dict[str, tuple[str, list[str]]] = {
    "ingest": ("Events per second through the HTTP door", ["--events", "20000", "--rounds", "2"]),
    "latency": ("How long a sender waits", ["--seconds", "10"]),
    "ways_in": ("The other ways in", ["--spans", "20480", "--messages", "8000"]),
    "growth": ("Cost of an event as its saga grows", ["--groups", "20"]),
    "histories": ("Importing long histories", []),
    "sweep": ("Sweeps, and how soon people are told", ["--open", "1000000", "--late", "6"]),
    "pages": ("The correlation page of long sagas", ["--short"]),
    "large": ("Lists, rebuild and retention on a large store", ["--events", "1000000", "--seconds", "20"]),
    "bloat": ("What a million updates leave behind", ["--updates", "200000"]),
    "overload": ("Five times too much", ["--seconds", "60"]),
    "web_processes": ("One web process and two", ["--events", "10000", "--rounds", "2"]),
    "stuck": ("Who is stuck: precision and recall", []),
    "findings": ("Findings: precision and recall", []),
}
_VERDICT = re.compile(r"(PASS|FAIL)  (.*): (.*) \(bar (.*)\)$")


def main() -> int:
    """Run and write; 1 when any bar is missed or any benchmark failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="the sizes of the design")
    parser.add_argument(
        "--only", action="append", choices=list(BENCHMARKS), help="only this one; may be given several times"
    )
    parser.add_argument("--store", type=Path, help="a folder for the store of `large`, which is filled only once")
    parser.add_argument("--page", type=Path, default=PAGE, help="where to write")
    options = parser.parse_args()
    sections = _sections(options.page)
    failed = False
    for name in options.only or BENCHMARKS:
        about, short = BENCHMARKS[name]
        command = [sys.executable, f"benchmarks/{name}.py", *([] if options.full else short)]
        shown = " ".join(["python", *command[1:]])
        if name == "large" and options.store is not None:
            command += ["--store", str(options.store)]
            shown += " --store FOLDER"
        print(f"== {about}: {shown}", flush=True)
        began = time.monotonic()
        lines, status = _run(command)
        failed |= status != 0
        sections[name] = _section(about, shown, lines, status, time.monotonic() - began)
        options.page.write_text(_page(sections))
    return int(failed)


def _run(command: list[str]) -> tuple[list[str], int]:
    """Its lines, shown as they come, and its exit status."""
    lines = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip())
    return lines, process.returncode


def _section(about: str, command: str, lines: list[str], status: int, seconds: float) -> str:
    """What the page says of one benchmark."""
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    load = " ".join(f"{each:.1f}" for each in os.getloadavg())
    told = f"`{command}`, {when}, {seconds:.0f} s; load of the machine at its end: {load}"
    text = [f"## {about}", "", told + ".", ""]
    verdicts = [match.groups() for line in lines if (match := _VERDICT.match(line))]
    if verdicts:
        text += ["| | what | figure | bar |", "|---|---|---|---|"]
        text += [f"| {word} | {what} | {figure} | {bar} |" for word, what, figure, bar in verdicts]
        text.append("")
    notes = [line for line in lines if line.strip() and not _VERDICT.match(line)]
    if notes:
        text += ["```text", *(note.removeprefix("      ") for note in notes), "```", ""]
    if status and not verdicts:
        text += [f"It ended with status {status} before it had a figure.", ""]
    return "\n".join(text)


def _sections(page: Path) -> dict[str, str]:
    """What the page says so far, by benchmark, in the order of the page."""
    known = dict.fromkeys(BENCHMARKS, "")
    if page.exists():
        by_about = {about: name for name, (about, _) in BENCHMARKS.items()}
        for part in page.read_text().split("\n## ")[1:]:
            if (name := by_about.get(part.partition("\n")[0])) is not None:
                known[name] = f"## {part.rstrip()}\n"
    return known


def _page(sections: dict[str, str]) -> str:
    head = f"""# Benchmarks

Written by `make bench`: figures as they were measured, also those that miss their bar. Ratios compare within one run,
so they mean the same on another machine; rates do not. What each one does is said at the top of its file.

Machine of the last run: {_machine()}.
"""
    return "\n".join([head, *(section for section in sections.values() if section)]).rstrip() + "\n"


def _machine() -> str:
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor() or "unknown processor",
    )
    memory = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    cores = os.cpu_count()
    return f"{model}, {cores} hardware threads, {memory / 1e6:.0f} GB, Linux, Python {platform.python_version()}"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


if __name__ == "__main__":
    sys.exit(main())
