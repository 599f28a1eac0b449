"""Formats: pure functions from the bytes of a message to `SagaEvent`s. Any format may arrive by any transport."""

from __future__ import annotations

from collections.abc import Mapping

from apps.ingest.formats import airflow, cadence, cloudevents, conductor, dapr, stepfunctions, temporal, zeebe
from apps.ingest.formats.decoding import Decoded, Decoder, Payload, Rejection, excerpt_of
from apps.ingest.formats.histories import HistoryDecoder

__all__ = ["FORMATS", "HISTORIES", "Decoded", "Decoder", "Payload", "Rejection", "excerpt_of"]

FORMATS: Mapping[str, Decoder] = {
    "cloudevents": cloudevents.decode,
    "cloudevents-structured": cloudevents.decode_structured,
    "cloudevents-batch": cloudevents.decode_batch,
    "cloudevents-ndjson": cloudevents.decode_ndjson,
    "cloudevents-binary": cloudevents.decode_binary,
}

#: Engines' own history documents, by the name that users choose.
HISTORIES: Mapping[str, HistoryDecoder] = {
    "airflow": airflow.decode,
    "cadence": cadence.decode,
    "conductor": conductor.decode,
    "dapr": dapr.decode,
    "temporal": temporal.decode,
    "stepfunctions": stepfunctions.decode,
    "zeebe": zeebe.decode,
}
