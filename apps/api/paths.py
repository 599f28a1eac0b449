"""Addresses that hold what senders called things: also with slashes, percent-encoded as %2F."""

from __future__ import annotations

from django.http import HttpRequest
from django.urls import register_converter


class WholeText:
    """Any text at all. Django sees addresses decoded, so an encoded slash looks like any other."""

    regex = r"[\s\S]+"

    @staticmethod
    def to_python(value: str) -> str:
        """As it is."""
        return value

    @staticmethod
    def to_url(value: str) -> str:
        """As it is; `reverse` percent-encodes it."""
        return str(value)


register_converter(WholeText, "whole")


def is_last_segment(request: HttpRequest, after: str) -> bool:
    """True when all that follows `after` was sent as one segment, so that a slash in it belongs to the name.

    Needs the address as it was sent, which servers hand over as `raw_path` (ASGI) or `REQUEST_URI`; False without it.
    """
    scope = getattr(request, "scope", {})
    sent = scope.get("raw_path") or request.META.get("REQUEST_URI", "").encode("latin-1", "replace")
    _, found, rest = sent.partition(b"?")[0].partition(after.encode())
    return bool(found) and b"/" not in rest
