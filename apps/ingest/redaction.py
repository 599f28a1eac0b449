"""What ingest removes from events before they are stored; see `apps.lib.redaction`, which dead letters use as well."""

from __future__ import annotations

from apps.lib.redaction import FILTERED, SENSITIVE_WORDS, is_sensitive, may_hold, redact, redact_text

__all__ = ["FILTERED", "SENSITIVE_WORDS", "is_sensitive", "may_hold", "redact", "redact_text"]
