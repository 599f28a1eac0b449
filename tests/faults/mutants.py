"""`make mutants`: plant one bug at a time into a copy of the tree, and see which test catches it.

    python -m tests.faults.mutants [name …]

Every bug is a replacement of text that must occur once, and names the tests that must fail. First those tests are run
without any bug: only then does their failing say something. Ends with 1 if a bug survives.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from apps.lib import embedded

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("apps", "tests", "static", "templates", "docs", "docker", "manage.py", "pyproject.toml", "CHANGELOG.md")


@dataclass(frozen=True)
class Mutant:
    """A planted bug and the tests that catch it."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


STRICT = "tests/ingest/test_strict_json.py"
LAWS = "tests/sagas/test_laws.py"
DELIVERY = "tests/alerts/test_delivery.py"

MUTANTS = (
    Mutant(
        "acknowledge before COMMIT",
        "apps/ingest/transports/consuming.py",
        "                if not self._store_until_stored(consumer, deliveries):\n"
        "                    return True\n"
        "                failpoints.reach(\"consume.stored\")\n"
        "                consumer.acknowledge(deliveries)\n",
        "                consumer.acknowledge(deliveries)\n"
        "                if not self._store_until_stored(consumer, deliveries):\n"
        "                    return True\n",
        ("tests/ingest/transports/test_every_broker.py", "-k", "redis and (postgresql_is_away or dies_before)"),
    ),
    Mutant(
        "answer before COMMIT",
        "apps/sagas/group_commit.py",
        "        _look_after_connection()\n        outcomes = record_all(",
        "        _look_after_connection()\n"
        "        _answer([(future, Outcome(len(each.events))) for each, future in group])\n"
        "        outcomes = record_all(",
        ("tests/sagas/test_group_commit.py",),
    ),
    Mutant(
        "mark sent before sending",
        "apps/alerts/delivery.py",
        "    delivery.tries += 1\n    delivery.claim,",
        "    delivery.status = DeliveryStatus.SENT\n    delivery.tries += 1\n    delivery.claim,",
        (DELIVERY,),
    ),
    Mutant(
        "a lease protects nothing",
        "apps/alerts/delivery.py",
        "        ~Exists(mine.filter(lease_until__gt=now)),\n",
        "",
        (DELIVERY, "tests/alerts/test_at_once.py"),
    ),
    Mutant(
        "events are stored again and again",
        "apps/sagas/recording.py",
        "            digest = known.get(key)\n",
        "            digest = None\n",
        (LAWS, "-k", "once"),
    ),
    Mutant(
        "another body under a known id is no conflict",
        "apps/sagas/recording.py",
        "            if bytes(digest) != event.digest:\n",
        "            if not digest:\n",
        (LAWS, "-k", "conflict"),
    ),
    Mutant(
        "the index against a second open incident is dropped",
        "apps/alerts/incidents.py",
        "        cursor.execute(\"SELECT pg_try_advisory_xact_lock(%s, %s)\", [_PROJECT_LOCK, project_id])\n"
        "        return bool(cursor.fetchone()[0])\n",
        "        return True\n",
        ("tests/alerts/test_at_once.py",),
    ),
    Mutant(
        "a declared deadline is one second off",
        "apps/sagas/projection.py",
        "        return since + known.deadline, f\"step",
        "        return since + known.deadline + 1_000_000, f\"step",
        ("tests/sagas/test_settled_deadlines.py",),
    ),
    Mutant(
        "the order of compensation is turned round",
        "apps/sagas/findings/compensation_out_of_order.py",
        "undo_end(first) <= undo_begin(last)",
        "undo_end(first) > undo_begin(last)",
        ("tests/findings/test_compensations.py",),
    ),
    Mutant(
        "the filter by project is dropped from a correlation's page",
        "apps/sagas/correlation_view.py",
        "            shard=shard, project_id=project_id, correlation_id=correlation_id\n",
        "            correlation_id=correlation_id\n",
        ("tests/api/test_access.py", "tests/web/test_access.py", "-k", "another"),
    ),
    Mutant(
        "a token opens more than its scopes",
        "apps/projects/tokens.py",
        "identity is not None and scope in identity.scopes",
        "identity is not None",
        ("tests/projects/test_tokens.py", "tests/api/test_access.py", "-k", "scope"),
    ),
    Mutant(
        "a withdrawn token still opens",
        "apps/projects/tokens.py",
        "token is None or token.revoked_at is not None or",
        "token is None or",
        ("tests/projects/test_tokens.py", "tests/api/test_access.py", "-k", "revoked"),
    ),
    Mutant(
        "a cursor is believed without its signature",
        "apps/lib/keyset.py",
        "    if not hmac.compare_digest(mac, _mac(raw, secret, bound_to)):\n",
        "    if not mac:\n",
        ("tests/sagas/test_queries.py", "-k", "cursor"),
    ),
    Mutant(
        "private addresses may be called",
        "apps/lib/http.py",
        "    return parsed.is_global and not parsed.is_multicast and not parsed.is_reserved\n",
        "    return not parsed.is_multicast\n",
        ("tests/lib/test_http.py",),
    ),
    Mutant(
        "U+0000 is stored",
        "apps/ingest/strict_json.py",
        "    if \"\\0\" in value:\n",
        "    if \"\\0\\0\\0\" in value:\n",
        (STRICT,),
    ),
    Mutant(
        "the last of two equal keys wins",
        "apps/ingest/strict_json.py",
        "        if len({key for key, _ in found}) != len(found):\n",
        "        if not found and len({key for key, _ in found}):\n",
        (STRICT,),
    ),
    Mutant(
        "gzip is unpacked to any size",
        "apps/ingest/gzip_body.py",
        "        if size > allowed:\n",
        "        if size > allowed * 1_000:\n",
        (STRICT, "tests/ingest/test_door.py", "-k", "gzip"),
    ),
    Mutant(
        "secrets below the first level are kept",
        "apps/lib/redaction.py",
        "is_sensitive(key) else redact(child) for key",
        "is_sensitive(key) else child for key",
        (STRICT, "-k", "sensitive"),
    ),
    Mutant(
        "a source's rules are not applied",
        "apps/ingest/formats/event_of_attributes.py",
        "    return event if redaction.current() is None else redaction.by_rules(event, sent)\n",
        "    return event\n",
        ("tests/security/test_privacy.py", "-k", "never_stored"),
    ),
    Mutant(
        "values are revealed before it is written down",
        "apps/web/views/revealing.py",
        "    audit.note(\n        request.user.get_username(),\n        \"reveal\",",
        "    (lambda *_, **__: None)(\n        request.user.get_username(),\n        \"reveal\",",
        ("tests/security/test_privacy.py", "-k", "audit_log_keeps"),
    ),
    Mutant(
        "a straggler begins a saga that waits",
        "apps/sagas/expired.py",
        "    return msgspec.structs.replace(event, flags=tuple(sorted({*event.flags, AFTER_RETENTION})))\n",
        "    return event\n",
        ("tests/sagas/test_retention.py", "-k", "straggler"),
    ),
    Mutant(
        "a link for a new password goes to who has none",
        "apps/web/accounts/reset.py",
        "        if not user.has_usable_password():\n            continue\n",
        "",
        ("tests/accounts/test_forgotten_password.py", "-k", "cannot_sign_in"),
    ),
    Mutant(
        "formulas reach the spreadsheet",
        "apps/sagas/instance_csv.py",
        "    return f\"'{value}\" if value.startswith(_FORMULA_STARTS) else value\n",
        "    return value\n",
        ("tests/api/test_reading.py", "-k", "formula"),
    ),
    Mutant(
        "a percent sign in a query finds everything",
        "apps/sagas/conditions.py",
        ".replace(\"%\", \"\\\\%\")",
        "",
        ("tests/sagas/test_queries.py", "-k", "literally"),
    ),
    Mutant(
        "503 does not say when to come again",
        "apps/ingest/answers.py",
        "((\"retry-after\", RETRY_SECONDS), *headers)",
        "headers",
        ("tests/ingest/test_door.py", "-k", "away or dawdles or waiting or overload or unavailable"),
    ),
    Mutant(
        "an event of a batch hides behind its neighbour's refusal",
        "apps/ingest/formats/broker_reading.py",
        "        if message.content_type not in _CLOUDEVENTS:\n            raise\n",
        "        raise\n",
        ("tests/hostile/test_over_brokers.py", "-k", "mock_kafka"),
    ),
)  # fmt: skip


def main(names: list[str]) -> int:
    """Plant the bugs; 1 if one of them survives or cannot be planted."""
    chosen = [mutant for mutant in MUTANTS if not names or any(name in mutant.name for name in names)]
    data = Path(os.environ.get("SAGASCOPE_DATA") or tempfile.gettempdir()) / "mutants"
    shutil.rmtree(data / "tree", ignore_errors=True)
    tree = data / "tree"
    tree.mkdir(parents=True)
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, tree / name)
    # The servers stay up between the runs; each run takes the folder `test` below this one.
    with embedded.start(data / "test"):
        sound: dict[tuple[str, ...], int] = {}
        caught = 0
        for mutant in chosen:
            began = time.monotonic()
            if mutant.tests not in sound:
                sound[mutant.tests] = _run(tree, data, mutant.tests)
            why = {TOO_LONG: "its tests take too long"}.get(sound[mutant.tests], "its tests fail without any bug")
            said = _try(tree, data, mutant) if sound[mutant.tests] == 0 else why
            caught += said == "caught"
            print(f"{said:30} {time.monotonic() - began:5.0f} s  {mutant.name}  ({mutant.tests[0]})", flush=True)
    print(f"\n{caught} of {len(chosen)} planted bugs were caught")
    return 0 if caught == len(chosen) else 1


def _try(tree: Path, data: Path, mutant: Mutant) -> str:
    file = tree / mutant.file
    sound = file.read_text()
    if sound.count(mutant.old) != 1:
        return f"cannot be planted: {sound.count(mutant.old)} places"
    file.write_text(sound.replace(mutant.old, mutant.new))
    try:
        return {0: "SURVIVED", 1: "caught"}.get(_run(tree, data, mutant.tests), "the tests did not run")
    finally:
        file.write_text(sound)


#: The tests of one bug may take so long, on a machine that is busy with other things as well.
SECONDS = 1_800
TOO_LONG = -1


def _run(tree: Path, data: Path, tests: tuple[str, ...]) -> int:
    """pytest's exit code in the copy: 0 all passed, 1 some failed."""
    environment = {**os.environ, "SAGASCOPE_DATA": str(data), "PYTHONPATH": str(tree)}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "--reuse-db"]
    try:
        done = subprocess.run(
            [*command, *tests], cwd=tree, env=environment, capture_output=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return TOO_LONG
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
