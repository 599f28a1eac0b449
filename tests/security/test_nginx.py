"""The shipped nginx configuration, in a real nginx before a real web process: slow and oversized clients stop there."""

from __future__ import annotations

import datetime as dt
import os
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

CONFIGURATION = Path(__file__).resolve().parents[2] / "docker" / "nginx.conf"
NGINX = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")
#: The shipped patience would make the test wait for it.
PATIENCE = {"client_header_timeout": "1s", "client_body_timeout": "1s"}

pytestmark = pytest.mark.skipif(NGINX is None, reason="no nginx on this machine: install the package nginx")


def as_shipped() -> str:
    return CONFIGURATION.read_text()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(text: str, folder: Path, port: int) -> Iterator[None]:
    """nginx with this configuration, as soon as it listens."""
    if os.geteuid() == 0:
        text = "user root;\n" + text
    written = folder / "nginx.conf"
    written.write_text(text)
    process = subprocess.Popen([str(NGINX), "-c", str(written), "-g", "daemon off;"], cwd=folder)
    try:
        give_up_at = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None
                assert time.monotonic() < give_up_at
        yield
    finally:
        process.terminate()
        process.wait(10)


def placed(text: str, folder: Path, port: int, web_process: str) -> str:
    """The configuration for this machine: its folders, its ports."""
    text = text.replace("/tmp/", f"{folder}/")
    text = text.replace("listen 8080 default_server", f"listen 127.0.0.1:{port} default_server")
    return text.replace("server web:8000 ", f"server {urlsplit(web_process).netloc} ")


@pytest.fixture(scope="module")
def proxy(web_process: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """Host and port of nginx, before the web process."""
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    text = placed(as_shipped(), folder, port, web_process)
    for name, value in PATIENCE.items():
        text, found = re.subn(rf"{name} \w+;", f"{name} {value};", text)
        assert found == 1
    with running(text, folder, port):
        yield "127.0.0.1", port


def certificate_for_localhost(folder: Path) -> None:
    """A certificate that signs itself, and its key, where `tls.conf` looks for them."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    begin = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(begin).not_valid_after(begin + dt.timedelta(days=36500))
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    pem, encoding = made.sign(key, hashes.SHA256()), serialization.Encoding.PEM
    (folder / "fullchain.pem").write_bytes(pem.public_bytes(encoding))
    plain = serialization.NoEncryption()
    (folder / "privkey.pem").write_bytes(key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain))


@pytest.fixture(scope="module")
def secure(web_process: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """The port of nginx with `tls.conf`, and the certificate that it shows."""
    folder, port = tmp_path_factory.mktemp("nginx-tls"), free_port()
    certificate_for_localhost(folder)
    shipped = (CONFIGURATION.parent / "tls.conf").read_text().replace("/etc/nginx/tls/", f"{folder}/")
    # The image is newer than what distributions carry.
    shipped = shipped.replace("http2 on;\n", "").replace("listen 8443 ", f"listen 127.0.0.1:{port} ")
    (folder / "tls.conf").write_text(shipped)
    text = placed(as_shipped(), folder, free_port(), web_process)
    with running(text.replace("/etc/nginx/tls[.]conf", f"{folder}/tls[.]conf"), folder, port):
        yield port, folder / "fullchain.pem"


def url(proxy: tuple[str, int], path: str) -> str:
    return f"http://{proxy[0]}:{proxy[1]}{path}"


def closed(connection: socket.socket) -> bytes:
    """What the server says before it closes the connection."""
    connection.settimeout(20)
    said = b""
    while True:
        try:
            part = connection.recv(4096)
        except ConnectionResetError:
            return said
        if not part:
            return said
        said += part


def test_the_shipped_patience_is_short() -> None:
    found = {name: int(re.search(rf"{name} (\d+)s;", as_shipped())[1]) for name in PATIENCE}  # type: ignore[index]

    assert found["client_header_timeout"] <= 10
    assert found["client_body_timeout"] <= 20


def test_slow_senders_of_headers_are_closed_while_others_are_served(proxy: tuple[str, int], web_process: str) -> None:
    slow = [socket.create_connection(proxy) for _ in range(300)]
    for connection in slow:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")

    assert httpx.get(url(proxy, "/healthz")).status_code == 200

    for connection in slow:
        said = closed(connection)
        assert b" 200 " not in said
        connection.close()


def is_closed_while_it_drips(connection: socket.socket, give_up_at: float) -> bool:
    """Sends one more header five times a second until the other side has had enough."""
    connection.settimeout(0.2)
    while time.monotonic() < give_up_at:
        try:
            connection.sendall(b"X-Drip: a\r\n")
            if connection.recv(4096) == b"":
                return True
        except TimeoutError:
            continue
        except OSError:
            return True
    return False


def test_a_header_that_drips_is_closed_all_the_same(proxy: tuple[str, int]) -> None:
    with socket.create_connection(proxy) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")
        assert is_closed_while_it_drips(connection, time.monotonic() + 20)


def test_a_body_that_stops_coming_is_closed_and_never_reaches_the_web_process(proxy: tuple[str, int]) -> None:
    with socket.create_connection(proxy) as connection:
        connection.sendall(
            b"POST /api/v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 1000\r\n\r\n[{"
        )
        said = closed(connection)

    assert b" 401 " not in said, "the web process would have asked for a token"
    assert b" 200 " not in said


def test_an_oversized_body_is_refused_as_a_problem_before_it_is_sent(proxy: tuple[str, int]) -> None:
    with socket.create_connection(proxy) as connection:
        connection.sendall(
            b"POST /api/v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 99000000\r\n\r\n"
        )
        said = closed(connection)

    assert b" 413 " in said.partition(b"\r\n")[0]
    assert b"application/problem+json" in said


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"Content-Length: +3\r\n\r\nabc",
        b"Content-Length : 3\r\n\r\nabc",
        b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n",
    ],
)
def test_framing_that_two_servers_could_read_differently_is_refused(proxy: tuple[str, int], framing: bytes) -> None:
    with socket.create_connection(proxy) as connection:
        connection.sendall(b"POST /api/v1/events HTTP/1.1\r\nHost: localhost\r\n" + framing)
        said = closed(connection)

    assert said.partition(b"\r\n")[0].split()[1:2] in ([b"400"], [b"501"])


def test_pages_and_their_headers_come_through(proxy: tuple[str, int]) -> None:
    answer = httpx.get(url(proxy, "/login"))

    assert answer.status_code == 200
    assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
    assert "nginx/" not in answer.headers.get("Server", "")


def test_metrics_are_open_to_the_inside_alone(proxy: tuple[str, int]) -> None:
    assert httpx.get(url(proxy, "/metrics")).status_code == 200
    assert re.search(r"location = /metrics \{[^}]*deny all;", as_shipped())


def handshake(port: int, certificate: Path, most: ssl.TLSVersion, ciphers: str = "ALL:@SECLEVEL=0") -> tuple[str, str]:
    """The version and cipher that were agreed upon."""
    context = ssl.create_default_context(cafile=str(certificate))
    context.set_ciphers(ciphers)
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, most
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        return str(connection.version()), str(connection.cipher()[0])  # type: ignore[index]


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_with_a_certificate_it_speaks_tls_of_today_only(secure: tuple[int, Path]) -> None:
    port, certificate = secure
    assert handshake(port, certificate, ssl.TLSVersion.TLSv1_3)[0] == "TLSv1.3"
    version, cipher = handshake(port, certificate, ssl.TLSVersion.TLSv1_2)
    assert version == "TLSv1.2"
    assert cipher.startswith("ECDHE-")
    assert "GCM" in cipher or "CHACHA20" in cipher
    with pytest.raises((ssl.SSLError, ConnectionError)):
        handshake(port, certificate, ssl.TLSVersion.TLSv1_1)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        handshake(port, certificate, ssl.TLSVersion.TLSv1_2, "AES128-SHA:AES256-SHA:@SECLEVEL=0")


def test_pages_come_by_tls(secure: tuple[int, Path]) -> None:
    port, certificate = secure
    trusted = ssl.create_default_context(cafile=str(certificate))
    with httpx.Client(verify=trusted) as client:
        assert client.get(f"https://localhost:{port}/login").status_code == 200
