"""Outgoing HTTP to addresses that users typed in, guarded against being turned on our own network (SSRF).

A request goes: check the URL → resolve the name → check every address → connect to a checked address (never to the
name again, so a name that changes its mind reaches nothing). Redirects are not followed, proxy variables are not read,
a request ends after `TIMEOUT_SECONDS` in all, and no more than `MAX_ANSWER_BYTES` of the answer are read.

Private networks are closed unless `WEBHOOK_ALLOWED_NETWORKS` opens them. Only http and https, only ports 80, 443 and
those from 1024 up that no database or broker is known for. A refusal never says what lies behind a name.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpcore

TIMEOUT_SECONDS = 15.0
MAX_ANSWER_BYTES = 64 * 1024
MAX_URL_LENGTH = 2048

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: Well-known ports of databases, brokers, caches and orchestrators above 1023: nothing there takes webhooks.
CLOSED_PORTS = frozenset(
    {1433, 1521, 1883, 2049, 2181, 2375, 2376, 2379, 2380, 3306, 3389, 4369, 5432, 5433, 5671, 5672, 5900, 5984, 6379}
    | {6380, 6432, 7000, 7001, 7233, 8500, 9042, 9092, 9200, 9300, 10250, 11211, 15672, 26257, 26379, 26500, 27017}
    | {27018, 50070}
)
#: Ranges that carry an IPv4 address inside (NAT64, 6to4, Teredo, IPv4-compatible) or that Python takes for public.
_CLOSED_NETWORKS = tuple(
    ipaddress.ip_network(text)
    for text in (
        *("100.64.0.0/10", "192.0.0.0/24", "198.18.0.0/15", "240.0.0.0/4"),
        *("::/96", "64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16", "fec0::/10"),
    )
)
_HOST_NAME = re.compile(r"(?=.{1,253}$)([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)*[A-Za-z0-9_-]{1,63}")
_NUMERIC_LABEL = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")


class RefusedError(Exception):
    """The URL may not be called; the message says why in words for whoever typed it."""


class RequestError(Exception):
    """The request did not get an answer; the message says why and holds no secret."""


@dataclass(frozen=True, slots=True)
class Target:
    """A URL taken apart: what to connect to, and what to ask there."""

    scheme: str
    host: str
    port: int
    path: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; `body` is cut at `MAX_ANSWER_BYTES`."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def allowed_networks() -> tuple[Network, ...]:
    """The private networks that the operator opened (`WEBHOOK_ALLOWED_NETWORKS`)."""
    from django.conf import settings

    return networks(settings.WEBHOOK_ALLOWED_NETWORKS)


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Networks in CIDR notation. Raises ValueError for anything else."""
    return tuple(ipaddress.ip_network(text, strict=False) for text in texts)


def parse_url(url: str) -> Target:
    """Take a URL apart. Raises RefusedError unless it is a plain http(s) URL to a host and port that may be called."""
    if len(url) > MAX_URL_LENGTH:
        raise RefusedError(f"the URL is longer than {MAX_URL_LENGTH} characters")
    if not url.isascii() or any(character <= " " or character in '\x7f\\<>"^`{|}' for character in url):
        raise RefusedError("the URL may hold only plain ASCII: encode other characters, write the host in punycode")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise RefusedError("the URL cannot be read") from None
    if parts.scheme not in {"http", "https"}:
        raise RefusedError("the URL must begin with https:// or http://")
    if "@" in parts.netloc:
        raise RefusedError("the URL may not hold a user name or password")
    if port is None:
        port = 443 if parts.scheme == "https" else 80
    check_port(port)
    host = _checked_host(parts.hostname or "", bracketed="[" in parts.netloc)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, host, port, path)


def check_port(port: int) -> None:
    """Raises RefusedError for ports at which no web service is expected."""
    if port not in {80, 443} and (port < 1024 or port > 65535 or port in CLOSED_PORTS):
        raise RefusedError(f"port {port} may not be called: use 80, 443 or a port from 1024 up that no database uses")


def _checked_host(host: str, *, bracketed: bool) -> str:
    if bracketed:
        try:
            return str(ipaddress.IPv6Address(host))
        except ValueError:
            raise RefusedError("the host is not an IPv6 address") from None
    if _NUMERIC_LABEL.fullmatch(host.rstrip(".").rpartition(".")[2]):
        # Resolvers read 127.1, 2130706433 and 0x7f000001 as addresses too; only the usual spelling is taken.
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise RefusedError("write the address as four decimal numbers") from None
    if not _HOST_NAME.fullmatch(host):
        raise RefusedError("the host is not a plain host name")
    return host


def is_open(address: str, allowed: Sequence[Network] = ()) -> bool:
    """True when this address may be connected to: public, or in a network that the operator opened."""
    try:
        parsed: Address = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    if any(parsed.version == network.version and parsed in network for network in allowed):
        return True
    if any(parsed.version == network.version and parsed in network for network in _CLOSED_NETWORKS):
        return False
    return parsed.is_global and not parsed.is_multicast and not parsed.is_reserved


def resolve(host: str, port: int, allowed: Sequence[Network] = (), *, seconds: float = TIMEOUT_SECONDS) -> list[str]:
    """The addresses of a host that may be connected to, at least one.

    Raises RefusedError when it has none, and RequestError when the name is unknown or nobody answers within `seconds`.
    """
    found: concurrent.futures.Future[list[str]] = concurrent.futures.Future()

    def ask() -> None:
        try:
            answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found.set_result(list(dict.fromkeys(str(answer[4][0]) for answer in answers)))
        except OSError as error:
            found.set_exception(error)

    # getaddrinfo knows no timeout; a thread that waits for a dead name server is left behind and ends by itself.
    threading.Thread(target=ask, name="resolve", daemon=True).start()
    try:
        addresses = found.result(timeout=max(seconds, 0.01))
    except TimeoutError:
        raise RequestError("the name of the host was not resolved in time") from None
    except (OSError, UnicodeError):
        raise RequestError("the name of the host is not known") from None
    open_addresses = [address for address in addresses if is_open(address, allowed)]
    if not open_addresses:
        raise RefusedError("the host is in a private or reserved network, which is closed to outgoing calls")
    return open_addresses


def check_url(url: str, allowed: Sequence[Network] | None = None) -> Target:
    """What a form calls before it saves a URL: as `parse_url`, and the name's present addresses are checked as well.

    A name that cannot be resolved now passes: it is checked again at every call. Raises RefusedError.
    """
    target = parse_url(url)
    with contextlib.suppress(RequestError):
        resolve(target.host, target.port, allowed_networks() if allowed is None else allowed, seconds=5)
    return target


def post(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    allowed: Sequence[Network] | None = None,
    timeout: float = TIMEOUT_SECONDS,
) -> Answer:
    """POST a body and read the answer, whatever its status; the promises of this module hold.

    Raises RefusedError when the URL or what it resolves to may not be called, RequestError when no answer came.
    """
    return _request("POST", url, body, headers, allowed, timeout)


def get(url: str, *, allowed: Sequence[Network] | None = None, timeout: float = TIMEOUT_SECONDS) -> Answer:
    """GET and read the answer, whatever its status; raises as `post` does."""
    return _request("GET", url, b"", {}, allowed, timeout)


def _request(
    method: str,
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    allowed: Sequence[Network] | None,
    timeout: float,
) -> Answer:
    target = parse_url(url)
    give_up_at = time.monotonic() + timeout
    guard = _Guard(allowed_networks() if allowed is None else allowed, give_up_at)
    context = ssl.create_default_context() if target.scheme == "https" else None
    sent_headers = [("User-Agent", "sagascope"), *headers.items()]
    try:
        with httpcore.ConnectionPool(ssl_context=context, network_backend=guard, retries=0) as pool:
            origin = httpcore.URL(
                scheme=target.scheme.encode(), host=target.host.encode(), port=target.port, target=target.path.encode()
            )
            limits = dict.fromkeys(("connect", "read", "write", "pool"), timeout)
            with pool.stream(
                method, origin, headers=sent_headers, content=body, extensions={"timeout": limits}
            ) as answer:
                received = _read_some(answer.iter_stream())
                pairs = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in answer.headers}
                return Answer(answer.status, received, pairs)
    except httpcore.TimeoutException:
        raise RequestError(f"no whole answer within {timeout:g} s") from None
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol, OSError) as error:
        raise RequestError(_reason(error)) from None


def _read_some(chunks: Iterable[bytes]) -> bytes:
    received = bytearray()
    for chunk in chunks:
        received += chunk
        if len(received) >= MAX_ANSWER_BYTES:
            break
    return bytes(received[:MAX_ANSWER_BYTES])


def _reason(error: Exception) -> str:
    text = str(error)
    if "CERTIFICATE" in text.upper() or isinstance(error, ssl.SSLError) or "SSL" in text:
        return "the TLS certificate or handshake was not accepted"
    if isinstance(error, httpcore.ConnectError):
        return "the connection was refused or could not be made"
    if isinstance(error, httpcore.ProtocolError):
        return "the answer was not HTTP, or broke off"
    return "the connection broke"


class _Guard(httpcore.NetworkBackend):
    """Connects to checked addresses only, and gives every socket one common end."""

    def __init__(self, allowed: Sequence[Network], give_up_at: float) -> None:
        self._allowed = allowed
        self._give_up_at = give_up_at
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        check_port(port)
        addresses = resolve(host, port, self._allowed, seconds=self._left())
        for position, address in enumerate(addresses):
            share = self._left() / (len(addresses) - position)
            try:
                stream = self._sockets.connect_tcp(address, port, share, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if position == len(addresses) - 1:
                    raise
            else:
                return _BoundedStream(stream, self._left)
        raise httpcore.ConnectError("no address")

    def _left(self) -> float:
        left = self._give_up_at - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("the time for the whole request is over")
        return left


class _BoundedStream(httpcore.NetworkStream):
    """A stream of which no single wait outlasts the whole request: a target that drips bytes gains nothing."""

    def __init__(self, stream: httpcore.NetworkStream, left: Callable[[], float]) -> None:
        self._stream = stream
        self._left = left

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._left())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _BoundedStream(self._stream.start_tls(ssl_context, server_hostname, self._left()), self._left)

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)
