"""Asks a Confluent-compatible schema registry (Apicurio, Karapace, Redpanda too) for schemas, and remembers them."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from urllib.parse import quote

import httpx

from apps.ingest.formats.schema_registry import Schema
from apps.ingest.transports.consuming import BrokerAwayError

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 5.0
#: A registry that did not answer, or did not know an ID, is asked again after this time.
FORGET_SECONDS = 30.0
#: IDs come with messages: what strangers can make us ask and remember is bounded.
_MOST_REMEMBERED = 10_000
_ACCEPT = "application/vnd.schemaregistry.v1+json, application/json"


class SchemaRegistry:
    """`find` is a `schema_registry.Schemas`. Schemas of a registry never change, so each is asked for once."""

    def __init__(self, url: str, username: str = "", password: str = "") -> None:
        self._url = url.rstrip("/")
        self._client = httpx.Client(
            auth=(username, password) if username else None,
            headers={
                "Accept": _ACCEPT,
                **({} if username or not password else {"Authorization": f"Bearer {password}"}),
            },
            timeout=PATIENCE_SECONDS,
            follow_redirects=False,
            trust_env=False,
        )
        self._known: dict[str, Schema] = {}
        self._missing: dict[str, float] = {}

    def find(self, schema_id: str) -> Schema | None:
        """The schema of this ID or GUID; None when the registry does not know it or is away."""
        known = self._known.get(schema_id)
        if known is not None:
            return known
        if time.monotonic() - self._missing.get(schema_id, -1e9) < FORGET_SECONDS:
            return None
        kind = "ids" if schema_id.isdigit() else "guids"
        try:
            answer = self._client.get(f"{self._url}/schemas/{kind}/{quote(schema_id, safe='')}")
            answer.raise_for_status()
            document = answer.json()
            schema = Schema(
                f"{self._url}/schemas/{kind}/{schema_id}",
                str(document.get("schemaType") or "AVRO"),
                str(document["schema"]),
            )
        except (httpx.HTTPError, ValueError, KeyError, AttributeError) as error:
            logger.warning("schema %s was not found: %s", schema_id, error)
            if len(self._missing) >= _MOST_REMEMBERED:
                self._missing.clear()
            self._missing[schema_id] = time.monotonic()
            return None
        if len(self._known) >= _MOST_REMEMBERED:
            self._known.clear()
        self._known[schema_id] = schema
        return schema

    def check(self) -> None:
        """Raise BrokerAwayError unless the registry answers."""
        try:
            self._client.get(f"{self._url}/subjects").raise_for_status()
        except httpx.HTTPStatusError as error:
            raise BrokerAwayError(f"the schema registry answers {error.response.status_code}") from error
        except httpx.HTTPError as error:
            raise BrokerAwayError(f"the schema registry cannot be reached: {error}") from error


def registry_of(options: Mapping[str, str]) -> SchemaRegistry | None:
    """The registry of a source's options; None without one."""
    if not options["schema_registry_url"]:
        return None
    return SchemaRegistry(
        options["schema_registry_url"], options["schema_registry_username"], options["schema_registry_password"]
    )
