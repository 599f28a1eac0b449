"""Polls AWS Step Functions: executions of Standard state machines and their histories.

A round lists the executions that run, those that ran when the last round ended, and those that began since; each is
read until its history holds nothing new. Express executions keep no history: their log lines are read instead
(docs/sources/stepfunctions.md). Needs the extra `aws` (the package `boto3`), imported when a poller is opened.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from apps.ingest.documents import decode_history
from apps.ingest.formats.decoding import Decoded
from apps.ingest.formats.histories import HistoryOptions
from apps.ingest.transports.options import Option
from apps.ingest.transports.polling import EngineAwayError, Pace, Poll, PollerKind, duration
from apps.lib import micros
from apps.lib.micros import Micros

logger = logging.getLogger(__name__)

#: Lists show what began a little late: so far back is looked again.
OVERLAP: Micros = 2 * micros.MINUTE
#: Events of several executions that make one piece.
BATCH = 500
#: Executions whose entries are kept in memory, so that only what is new of their history is asked for.
KEPT = 500
#: Running executions that the watermark remembers.
REMEMBERED = 5_000
_PAGE = 1_000
_EXPRESS = "EXPRESS"
#: What AWS answers when an execution is gone: 90 days after it ended.
_GONE = frozenset({"ExecutionDoesNotExist", "StateMachineDoesNotExist"})

OPTIONS = (
    Option(
        "state_machines", "State machines", "ARNs with commas; empty = all Standard ones of the account and region."
    ),
    Option("region", "Region", "Such as eu-central-1; empty = the environment's."),
    Option("access_key_id", "Access key ID", "Empty = the machine's role or the environment's."),
    Option("secret_access_key", "Secret access key", is_secret=True),
    Option("role_arn", "Role to assume", "ARN; empty = none."),
    Option("endpoint_url", "Endpoint", "Only for what is not AWS itself."),
    Option("lookback", "How far back to begin", "For executions that had ended before.", default="24h"),
)


def open_poller(options: Mapping[str, str], history: HistoryOptions, pace: Pace) -> StepFunctionsPoller:
    """A poller of one account and region. Raises EngineAwayError, OptionError."""
    return StepFunctionsPoller(options, history, pace, duration(options, "lookback"))


KIND = PollerKind("AWS Step Functions", OPTIONS, open_poller)


@dataclass(slots=True)
class _Kept:
    """What is known of a running execution: what names it, its entries so far, and how many events they gave."""

    about: dict[str, Any]
    definition: Any
    entries: list[dict[str, Any]] = field(default_factory=list)
    told: int = 0
    #: How many entries had been read before the latest.
    read_before: int = 0

    @property
    def last_id(self) -> int:
        """The last entry that was read."""
        return int(self.entries[-1]["id"]) if self.entries else 0


class StepFunctionsPoller:
    """A `polling.Poller`. Not for several threads."""

    def __init__(self, options: Mapping[str, str], history: HistoryOptions, pace: Pace, lookback: Micros) -> None:
        self._options = options
        self._history = history
        self._pace = pace
        self._lookback = lookback
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        #: Executions that were read to their end, and when; lists name them again for a while.
        self._ended: dict[str, Micros] = {}
        with _speaking():
            self._client = _client(options)

    def poll(self, watermark: Mapping[str, Any]) -> Iterator[Poll]:
        """See `polling.Poller.poll`. The watermark holds when the last round began, and what ran then."""
        began_at = micros.now()
        since = watermark.get("since")
        since = since if isinstance(since, int) else began_at - self._lookback
        open_before = _texts(watermark.get("open"))
        before = {"since": since, "open": open_before}
        with _speaking():
            running, begun = self._listed(since - OVERLAP)
        arns = list(dict.fromkeys([*open_before, *begun, *running]))
        left = [arn for arn in arns if arn in running or arn not in self._ended]
        batch = Decoded([], [], [])
        for index, arn in enumerate(left):
            with _speaking():
                _append(batch, self._news_of(arn))
            if arn not in running:
                self._ended[arn] = began_at
                self._kept.pop(arn, None)
            if len(batch.events) >= BATCH:
                yield Poll(batch, before, len(left) - index - 1)
                batch = Decoded([], [], [])
        self._ended = {arn: at for arn, at in self._ended.items() if at > began_at - 5 * OVERLAP and arn not in running}
        yield Poll(batch, {"since": began_at, "open": list(running)[:REMEMBERED]}, 0)

    def check(self) -> str:
        """See `polling.Poller.check`."""
        with _speaking():
            machines = self._machines()
            for machine in machines[:1]:
                self._ask("list_executions", stateMachineArn=machine, maxResults=1)
        return f"AWS Step Functions, {len(machines)} state machine{'' if len(machines) == 1 else 's'}"

    def close(self) -> None:
        """See `polling.Poller.close`."""
        self._kept.clear()
        self._client.close()

    # --- what there is ------------------------------------------------------------------------------------------------

    def _machines(self) -> list[str]:
        stated = [arn.strip() for arn in self._options["state_machines"].split(",") if arn.strip()]
        if stated:
            return stated
        return [
            machine["stateMachineArn"]
            for machine in self._pages("list_state_machines", "stateMachines")
            if machine.get("type") != _EXPRESS
        ]

    def _listed(self, since: Micros) -> tuple[dict[str, None], list[str]]:
        """The executions that run, and those that began since then, each the oldest first."""
        running: list[str] = []
        begun: list[str] = []
        for machine in self._machines():
            listing = {"stateMachineArn": machine}
            running += [
                each["executionArn"]
                for each in self._pages("list_executions", "executions", statusFilter="RUNNING", **listing)
            ]
            # The newest come first: once one is too old, all that follow are.
            for each in self._pages("list_executions", "executions", **listing):
                if micros.from_datetime(each["startDate"]) < since:
                    break
                begun.append(each["executionArn"])
        return dict.fromkeys(reversed(running)), begun[::-1]

    def _news_of(self, arn: str) -> Decoded:
        """What is new of an execution; nothing when it is no more."""
        from botocore.exceptions import ClientError

        try:
            kept = self._kept.pop(arn, None) or self._first_sight(arn)
            news = self._entries_after(arn, kept.last_id)
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in _GONE:
                logger.info("an execution was gone before it was read: %s", arn)
                return Decoded([], [], [])
            raise
        if news:
            kept.read_before = len(kept.entries)
            kept.entries += news
        self._kept[arn] = kept
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return self._decoded(kept) if news else Decoded([], [], [])

    def _first_sight(self, arn: str) -> _Kept:
        about = self._ask("describe_execution", executionArn=arn)
        about.pop("ResponseMetadata", None)
        return _Kept(about, self._definition(arn, about["stateMachineArn"]))

    def _definition(self, arn: str, machine: str) -> Any:
        """The definition that the execution runs by, which later changes of its state machine leave alone."""
        from botocore.exceptions import ClientError

        try:
            return self._ask("describe_state_machine_for_execution", executionArn=arn).get("definition")
        except ClientError:
            logger.info("the definition of %s cannot be read", machine, exc_info=True)
            return None

    def _entries_after(self, arn: str, last_id: int) -> list[dict[str, Any]]:
        """The entries after that id, in their order: read from the end of the history."""
        found: list[dict[str, Any]] = []
        token: dict[str, str] = {}
        while True:
            answer = self._ask("get_execution_history", executionArn=arn, reverseOrder=True, maxResults=_PAGE, **token)
            news = [entry for entry in answer["events"] if entry["id"] > last_id]
            found += news
            if len(news) < len(answer["events"]) or not answer.get("nextToken"):
                return sorted(found, key=lambda entry: int(entry["id"]))
            token = {"nextToken": answer["nextToken"]}

    def _decoded(self, kept: _Kept) -> Decoded:
        """What the execution's entries say that was not told before."""
        document = {
            "describe": kept.about,
            "history": {"events": kept.entries},
            "state_machine": {"definition": kept.definition},
        }
        decoded = decode_history("stepfunctions", document, self._history, micros.now())
        told, kept.told = kept.told, len(decoded.events)
        rejections = [each for each in decoded.rejections if each.index >= kept.read_before]
        return Decoded(decoded.events[told:], decoded.positions[told:], rejections)

    # --- the wire -----------------------------------------------------------------------------------------------------

    def _ask(self, call: str, **given: Any) -> dict[str, Any]:
        self._pace.wait()
        answer: dict[str, Any] = getattr(self._client, call)(**given)
        return answer

    def _pages(self, call: str, key: str, **given: Any) -> Iterator[dict[str, Any]]:
        while True:
            answer = self._ask(call, maxResults=_PAGE, **given)
            yield from answer[key]
            if not answer.get("nextToken"):
                return
            given["nextToken"] = answer["nextToken"]


def _client(options: Mapping[str, str]) -> Any:
    import boto3
    from botocore.config import Config

    config = Config(connect_timeout=5, read_timeout=30, retries={"max_attempts": 2})
    endpoint = options["endpoint_url"] or None
    region = options["region"] or None
    session = boto3.session.Session(
        region_name=region,
        aws_access_key_id=options["access_key_id"] or None,
        aws_secret_access_key=options["secret_access_key"] or None,
    )
    if options["role_arn"]:
        sts = session.client("sts", endpoint_url=endpoint, config=config)
        role = sts.assume_role(RoleArn=options["role_arn"], RoleSessionName="sagascope")["Credentials"]
        session = boto3.session.Session(
            region_name=region,
            aws_access_key_id=role["AccessKeyId"],
            aws_secret_access_key=role["SecretAccessKey"],
            aws_session_token=role["SessionToken"],
        )
    return session.client("stepfunctions", endpoint_url=endpoint, config=config)


@contextmanager
def _speaking() -> Iterator[None]:
    """Turns what can go wrong between us and AWS into words for people."""
    try:
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        raise EngineAwayError("the AWS client is not installed: pip install 'sagascope[aws]'") from None
    try:
        yield
    except ClientError as error:
        told = error.response.get("Error", {})
        raise EngineAwayError(f"AWS refuses: {told.get('Code', '')}: {told.get('Message', '')}") from error
    except (BotoCoreError, ValueError) as error:
        raise EngineAwayError(f"AWS cannot be reached: {error}") from error


def _texts(stored: Any) -> list[str]:
    return [each for each in stored if isinstance(each, str)] if isinstance(stored, list) else []


def _append(batch: Decoded, decoded: Decoded) -> None:
    batch.events.extend(decoded.events)
    batch.positions.extend(decoded.positions)
    batch.rejections.extend(decoded.rejections)
