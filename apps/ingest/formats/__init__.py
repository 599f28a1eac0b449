"""Formats: pure functions from the bytes of a message to `SagaEvent`s. Any format may arrive by any transport."""

from __future__ import annotations

from collections.abc import Mapping

from apps.ingest.formats import cloudevents
from apps.ingest.formats.decoding import Decoded, Decoder, Payload, Rejection, excerpt_of

__all__ = ["FORMATS", "Decoded", "Decoder", "Payload", "Rejection", "excerpt_of"]

FORMATS: Mapping[str, Decoder] = {
    "cloudevents": cloudevents.decode,
    "cloudevents-structured": cloudevents.decode_structured,
    "cloudevents-batch": cloudevents.decode_batch,
    "cloudevents-ndjson": cloudevents.decode_ndjson,
    "cloudevents-binary": cloudevents.decode_binary,
}
