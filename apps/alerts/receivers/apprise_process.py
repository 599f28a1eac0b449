"""The process that Apprise runs in: reads one order as JSON from standard input, writes one answer to standard output.

Python's audit hooks see every connection, every opened file and every program that is started, whichever library asks
for it, and an exception there prevents it. So what counts is the address that is really connected to, in any
protocol: names that change their mind, redirects and odd spellings make no difference.
Run by path, not imported: it knows only Apprise and `apps.lib.http`.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import sysconfig
import threading
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
MAX_MEMORY = 1024 * 1024 * 1024
SERVICE_SECONDS = 12.0
#: What is refused by name, whatever it would connect to: it would act on this machine.
LOCAL_TEMPLATES = frozenset({"{schema}://", "{schema}:///", "{schema}://_/"})
_STARTS_PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty")
_CHANGES_FILES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.truncate")
_READS_FOLDERS = ("os.listdir", "os.scandir", "glob.glob")

refusals: list[str] = []


class ForbiddenError(OSError):
    """What the service tried is not allowed here."""


def main() -> None:
    """Do what the order says."""
    order = json.load(sys.stdin)
    answers = os.fdopen(os.dup(1), "w")
    # Whatever a library prints must not mix with the answer.
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        answer = _check(order) if order["action"] == "check" else _send(order)
    json.dump(answer, answers)
    answers.flush()
    # Threads that a library has left behind must not keep us.
    os._exit(0)


def _check(order: dict[str, Any]) -> dict[str, str]:
    service = _service(order["url"])
    if service is None:
        return {"problem": "Apprise knows no such service, or the URL lacks something that the service needs"}
    if problem := _local(service) or _host_problem(service, order["allowed_networks"]):
        return {"problem": problem}
    return {"service": str(service.service_name or "")}


def _send(order: dict[str, Any]) -> dict[str, str]:
    service = _service(order["url"])
    if service is None:
        return {"problem": "Apprise knows no such service any more, or the URL lacks something"}
    if problem := _local(service):
        return {"problem": problem}
    _no_redirects()
    _guard(order["allowed_networks"])
    try:
        is_sent = service.notify(
            body=order["body"], title=order["title"], notify_type=_type(order["type"]), body_format="text"
        )
    except Exception as error:  # any of 130 services; its words may hold keys
        return {"problem": refusals[0] if refusals else f"the service failed: {type(error).__name__}"}
    if is_sent:
        return {}
    return {"problem": refusals[0] if refusals else "the service did not accept the message"}


def _service(url: str) -> Any:
    """The one service that a URL names; None when it cannot be read."""
    import apprise

    asset = apprise.AppriseAsset(
        app_id="Sagascope",
        app_desc="Sagascope",
        app_url="",
        storage_mode=apprise.PersistentStoreMode.MEMORY,
        service_timeout=SERVICE_SECONDS,
        allow_templates=False,
    )
    return apprise.Apprise.instantiate(url, asset=asset, suppress_exceptions=True)


def _type(name: str) -> Any:
    import apprise

    return apprise.NotifyType(name)


def _local(service: Any) -> str:
    """Why a service is refused that acts on this machine instead of calling another; "" for others."""
    if any(template in LOCAL_TEMPLATES for template in service.templates):
        return "a service on Sagascope's own machine cannot be a receiver"
    return ""


def _host_problem(service: Any, allowed: list[str]) -> str:
    """Where the URL names a host of its own: why it may not be called; "" otherwise. Sending checks again."""
    from apps.lib import http

    if not service.host or not any("{host}" in template for template in service.templates):
        return ""
    host = str(service.host).strip("[]")
    try:
        if service.port:
            http.check_port(int(service.port))
        http.resolve(host, int(service.port or 443), http.networks(allowed), seconds=5)
    except http.RefusedError as error:
        return str(error)
    except http.RequestError:
        return ""
    return ""


def _no_redirects() -> None:
    import requests

    requests.Session.get_redirect_target = lambda *_: None  # type: ignore[method-assign]


def _guard(allowed_networks: list[str]) -> None:
    """From here on: checked addresses only, no files but Python's own, no programs."""
    from apps.lib import http

    allowed = http.networks(allowed_networks)
    readable = tuple(
        os.path.realpath(path) + os.sep
        for path in {*sysconfig.get_paths().values(), sys.prefix, sys.base_prefix, "/etc/ssl", "/usr/share/zoneinfo"}
    )
    exact = {"/dev/urandom", os.devnull, "/etc/localtime", "/etc/mime.types"}

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event in {"socket.connect", "socket.sendto", "socket.sendmsg"}:
            _check_address(arguments[0], arguments[1], allowed)
        elif event == "open":
            _check_file(arguments[0], arguments[2], readable, exact)
        elif event.startswith(_STARTS_PROGRAMS):
            _refuse("the service tried to start a program")
        elif event.startswith(_CHANGES_FILES):
            _refuse("the service tried to change files")
        elif event in _READS_FOLDERS:
            _check_file(arguments[0] or ".", os.O_RDONLY, readable, exact)
        elif event == "socket.bind":
            _refuse("the service tried to listen")

    sys.addaudithook(watch)


def _check_address(connection: Any, address: Any, networks: tuple[Any, ...]) -> None:
    from apps.lib import http

    if address is None:  # a datagram on a socket that has been connected, and so checked
        return
    if getattr(connection, "family", None) not in {socket.AF_INET, socket.AF_INET6}:
        _refuse("the service tried to reach this machine itself")
    if not http.is_open(str(address[0]), networks):
        _refuse("the host is in a private or reserved network, which is closed to outgoing calls")
    if int(address[1]) in http.CLOSED_PORTS:
        _refuse(f"port {int(address[1])} may not be called")


def _check_file(path: Any, flags: Any, readable: tuple[str, ...], exact: set[str]) -> None:
    if isinstance(path, int):
        return
    wanted = os.path.realpath(os.fsdecode(path))
    if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC) and wanted != os.devnull:
        _refuse("the service tried to write a file")
    if wanted in exact or (wanted + os.sep).startswith(readable):
        return
    _refuse("the service tried to read a file of this machine")


def _refuse(reason: str) -> None:
    refusals.append(reason)
    raise ForbiddenError(reason)


def _bound_memory() -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    threading.current_thread().name = "apprise"
    _bound_memory()
    main()
