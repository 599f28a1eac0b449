"""Unpacks gzip bodies without ever holding more than is allowed. Pure.

A gzip file is one or more members, each with its own checksum; a bomb may hide in any of them, so the bounds count over
all. The inflater is asked for one byte more than is allowed and no further.
"""

from __future__ import annotations

import zlib

from apps.ingest.strict_json import Unreadable

#: How many times larger than what was sent the content may be; 500 similar events in one batch reached 45.
MAX_RATIO = 100
#: Content up to this size is harmless whatever its ratio: a batch of equal events must get through.
RATIO_FROM_BYTES = 512 * 1024
MAX_MEMBERS = 100
_MAGIC = b"\x1f\x8b"
_GZIP_WINDOW = zlib.MAX_WBITS | 16


def gunzip(body: bytes, limit: int) -> bytes:
    """The content of a gzip body. Raises Unreadable: 400 for damaged ones, 413 beyond `limit` bytes or MAX_RATIO,
    415 when the content is gzip again."""
    allowed = min(limit, max(RATIO_FROM_BYTES, len(body) * MAX_RATIO))
    parts: list[bytes] = []
    size = members = 0
    rest = body
    while rest:
        members += 1
        if members > MAX_MEMBERS:
            raise Unreadable("invalid_gzip", f"the body has more than {MAX_MEMBERS} gzip members")
        inflater = zlib.decompressobj(_GZIP_WINDOW)
        try:
            part = inflater.decompress(rest, allowed - size + 1)
        except zlib.error:
            raise Unreadable("invalid_gzip", "the body is not valid gzip") from None
        size += len(part)
        if size > allowed:
            raise Unreadable("body_too_large", f"the body unpacks to more than {allowed} bytes", 413)
        if not inflater.eof:
            raise Unreadable("invalid_gzip", "the gzip body ends too early")
        parts.append(part)
        rest = inflater.unused_data
        if rest and not rest.startswith(_MAGIC):
            raise Unreadable("invalid_gzip", "something follows the gzip content")
    content = b"".join(parts)
    if not parts:
        raise Unreadable("empty_body", "the body is empty")
    if content.startswith(_MAGIC):
        raise Unreadable("unsupported_encoding", "the body is gzip in gzip", 415)
    return content
