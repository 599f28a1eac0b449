"""`make audit`: sound, flawed and no answer are three different ends, and silence is never taken for soundness."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from apps.config.known_flaws import FLAWED, NO_ANSWER, SOUND, main

pytestmark = pytest.mark.slow

FLAW = {
    "id": "OSV-2026-1",
    "summary": "it lets everybody in",
    "details": "it lets everybody in",
    "affected": [{"package": {"name": "asgiref", "ecosystem": "PyPI"}, "versions": ["3.9.0"],
                  "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "3.9.1"}]}]}],
}  # fmt: skip


@pytest.fixture
def lock(tmp_path: Path) -> str:
    """Two packages, pinned."""
    path = tmp_path / "some.lock"
    hashed = "--hash=sha256:" + "a" * 64
    path.write_text(f"asgiref==3.9.0 {hashed}\nsqlparse==0.5.3 {hashed}\n")
    return str(path)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """An OSV service that knows of these flaws, by package."""
    flaws: dict[str, Any] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            known = flaws.get(asked["package"]["name"])
            body = json.dumps({"vulns": [known]} if known else {}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            """Tell nobody."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AUDIT_OSV_URL", f"http://127.0.0.1:{server.server_port}/v1/query")
    yield flaws
    server.shutdown()
    server.server_close()


def test_packages_without_a_known_flaw_are_sound(lock: str, service: dict[str, Any], capsys: Any) -> None:
    assert main([lock]) == SOUND
    assert capsys.readouterr().out == "2 packages, none with a known flaw.\n"


def test_a_known_flaw_is_named_with_the_release_that_mends_it(lock: str, service: dict[str, Any], capsys: Any) -> None:
    service["asgiref"] = FLAW
    assert main([lock]) == FLAWED
    assert capsys.readouterr().out == "FLAW  asgiref 3.9.0: OSV-2026-1, mended in 3.9.1\n"


def test_without_an_answer_it_says_what_it_needs_and_ends_otherwise(
    lock: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AUDIT_OSV_URL", f"http://127.0.0.1:{closed.getsockname()[1]}/v1/query")
        assert main([lock]) == NO_ANSWER
    said = capsys.readouterr()
    assert "NO ANSWER for all of the packages" in said.err
    assert "It needs a way out" in said.err
    assert "none with a known flaw" not in said.out
