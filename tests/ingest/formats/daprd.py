"""The whole of Dapr: daprd with its placement and scheduler services, and the sagas of `dapr_engine` on it.

Built with Go from the modules of a release, once: the programs stay in the user's cache. That takes some minutes and a
gigabyte. Where the programs are there already, `SAGASCOPE_DAPRD` names their folder (daprd, placement, scheduler).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.ingest.formats.dapr_engine import Dapr, UnavailableError, free_port

VERSION = "v1.18.0"
MODULE = "github.com/dapr/dapr"
PROGRAMS = ("daprd", "placement", "scheduler")
BUILD_SECONDS = 3_600
READY_SECONDS = 120

#: Of all the sidecar's components the ones that are needed; all of them would bring every cloud's client along.
COMPONENTS = ("state_in-memory.go", "nameresolution_mdns.go")

_MAIN = """package main

import "{package}/app"

func main() {{ app.Run() }}
"""
_STATE_STORE = """apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: state}
spec:
  type: state.in-memory
  version: v1
  metadata: [{name: actorStateStore, value: "true"}]
"""


def programs() -> Path:
    """The folder that holds the programs, built if need be. Raises UnavailableError."""
    if given := os.environ.get("SAGASCOPE_DAPRD"):
        folder = Path(given)
        if missing := [name for name in PROGRAMS if not (folder / name).is_file()]:
            raise UnavailableError(f"SAGASCOPE_DAPRD has no {missing[0]}")
        return folder
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sagascope" / f"dapr-{VERSION}"
    if not all((cache / name).is_file() for name in PROGRAMS):
        _build(cache)
    return cache


def _build(into: Path) -> None:
    if shutil.which("go") is None:
        raise UnavailableError("needs Go")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "out").mkdir()
        found = json.loads(_go(folder, "mod", "download", "-json", f"{MODULE}@{VERSION}"))
        _write_mains(folder, Path(found["Dir"]) / "cmd")
        declared = json.loads(_go(folder, "mod", "edit", "-json", found["GoMod"]))
        _go(folder, "mod", "init", "dapr")
        # The sums that the release was built with.
        shutil.copyfile(Path(found["Dir"]) / "go.sum", folder / "go.sum")
        _go(folder, "mod", "edit", f"-require={MODULE}@{VERSION}")
        # What a module replaces holds only where it is the main one, so ours has to say it again.
        for each in declared.get("Replace") or ():
            old, new = ("@".join(filter(None, (side["Path"], side.get("Version")))) for side in each.values())
            _go(folder, "mod", "edit", f"-replace={old}={new}")
        _go(folder, "build", "-mod=mod", "-trimpath", "-o", f"{folder}/out/", *(f"./{each}" for each in PROGRAMS))
        into.mkdir(parents=True, exist_ok=True)
        for program in PROGRAMS:
            shutil.move(folder / "out" / program, into / program)


def _write_mains(folder: Path, commands: Path) -> None:
    """Programs that start what the release has; the sidecar with few components instead of one of its own two sets."""
    for program in PROGRAMS:
        (folder / program).mkdir()
        package = "dapr" if program == "daprd" else f"{MODULE}/cmd/{program}"
        (folder / program / "main.go").write_text(_MAIN.format(package=package))
    for name in ("app", "components"):
        (folder / name).mkdir()
    app = (commands / "daprd" / "app" / "app.go").read_text()
    (folder / "app" / "app.go").write_text(app.replace(f"{MODULE}/cmd/daprd/components", "dapr/components"))
    for name in COMPONENTS:
        _tags, _, source = (commands / "daprd" / "components" / name).read_text().partition("\n")
        (folder / "components" / name).write_text(source)


def _go(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["go", *arguments], cwd=folder, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
    )
    if done.returncode:
        raise UnavailableError(f"go {' '.join(arguments[:2])} failed: {(done.stderr or done.stdout)[-300:]}")
    return done.stdout


@contextmanager
def running(folder: Path) -> Iterator[Dapr]:
    """A sidecar with all that it needs, and a worker. Raises UnavailableError."""
    try:
        import dapr.ext.workflow
    except ImportError:
        raise UnavailableError("needs the package dapr") from None
    found = programs()
    (folder / "components").mkdir()
    (folder / "components" / "state.yaml").write_text(_STATE_STORE)
    placement, scheduler, http, grpc = (free_port() for _ in range(4))
    health = {name: free_port() for name in ("placement", "scheduler")}
    with ExitStack() as stack:
        stack.enter_context(
            _program(
                folder,
                found / "placement",
                f"--port={placement}",
                f"--healthz-port={health['placement']}",
                f"--initial-cluster=dapr-placement-0=127.0.0.1:{free_port()}",
            )
        )
        stack.enter_context(
            _program(
                folder,
                found / "scheduler",
                f"--port={scheduler}",
                f"--healthz-port={health['scheduler']}",
                f"--override-broadcast-host-port=127.0.0.1:{scheduler}",
                f"--etcd-data-dir={folder / 'etcd'}",
                f"--etcd-client-port={free_port()}",
                f"--etcd-initial-cluster=dapr-scheduler-server-0=http://localhost:{free_port()}",
                f"--identity-directory-write={folder / 'identity'}",
            )
        )
        for port in health.values():
            _await(f"http://127.0.0.1:{port}/healthz")
        stack.enter_context(
            _program(
                folder,
                found / "daprd",
                "--app-id=shop",
                f"--dapr-http-port={http}",
                f"--dapr-grpc-port={grpc}",
                f"--dapr-internal-grpc-port={free_port()}",
                f"--placement-host-address=127.0.0.1:{placement}",
                f"--scheduler-host-address=127.0.0.1:{scheduler}",
                f"--resources-path={folder / 'components'}",
            )
        )
        _await(f"http://127.0.0.1:{http}/v1.0/healthz/outbound")
        dapr = Dapr(grpc)
        try:
            yield dapr
        finally:
            dapr.stop()


@contextmanager
def _program(folder: Path, program: Path, *arguments: str) -> Iterator[None]:
    with (folder / f"{program.name}.log").open("wb") as log:
        command = [str(program), *arguments, "--enable-metrics=false", "--log-level=info"]
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await(url: str) -> None:
    give_up_at = time.monotonic() + READY_SECONDS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError as error:
            if time.monotonic() > give_up_at:
                raise UnavailableError(f"Dapr does not start: {error}") from None
            time.sleep(0.2)
