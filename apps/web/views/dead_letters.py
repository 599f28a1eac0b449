"""Dead letters: the queues, the causes and messages of one of them, what a redrive would do, the log of redrives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_safe

from apps.dlq import queries
from apps.dlq.models import Action, DeadLetter, DeadLetterQueue, LetterStatus, Redrive
from apps.dlq.planning import Plan, SelectionError, plan
from apps.dlq.queries import Group
from apps.dlq.queues import MAX_RATE
from apps.dlq.redriving import RedriveError, cancel, order, selection_of
from apps.dlq.standing import HELD, WARNED, Standing
from apps.lib import micros
from apps.lib.keyset import CursorError
from apps.lib.secrets import UnreadableSecretError
from apps.projects.models import Project, Role
from apps.sagas.timeline.wording import visible
from apps.web.access import project_view
from apps.web.forms import row_id
from apps.web.letters_shown import shown_letter, system_label

LIMIT = 25
#: Letters that are offered to be decided one by one.
MOST_CHOSEN = 200
_KEPT = ("queue", "cause", "step", "status", "letter", "plan", "cursor")
_VIEWS = (
    (LetterStatus.PARKED, "Parked"),
    (LetterStatus.REDRIVEN, "Redriven"),
    (LetterStatus.DISCARDED, "Discarded"),
    (LetterStatus.GONE, "Gone"),
)


@dataclass(frozen=True, slots=True)
class _Address:
    """What the request asks to see, read leniently."""

    values: dict[str, str]

    @classmethod
    def read(cls, request: HttpRequest) -> _Address:
        """The known parameters, without those that nobody can have meant."""
        given = {name: request.GET[name] for name in _KEPT if name in request.GET}
        return cls({name: value for name, value in given.items() if "\0" not in value and len(value) <= 4096})

    def with_(self, **changes: str | int | None) -> str:
        """The query with some parameters changed; None takes one out, "" stays: a cause may have no words."""
        merged = {**self.values, **{name: None if value is None else str(value) for name, value in changes.items()}}
        return "?" + urlencode([(name, merged[name]) for name in _KEPT if merged.get(name) is not None])

    @property
    def group(self) -> tuple[str, str] | None:
        """The chosen cause and step."""
        return (self.values["cause"], self.values.get("step", "")) if "cause" in self.values else None

    @property
    def status(self) -> str:
        """Which letters are listed."""
        wanted = self.values.get("status", "")
        return wanted if wanted in queries.STATUSES else LetterStatus.PARKED.value


@project_view(change_role=Role.OPERATOR)
def show_all(request: HttpRequest) -> HttpResponse:
    """Queues, causes, messages and what stands beside them; a POST orders a redrive or a discard."""
    project: Project = request.project  # type: ignore[attr-defined]
    if request.method == "POST":
        return _order(request, project)
    now = micros.now()
    address = _Address.read(request)
    lines = queries.list_queues(project.pk, now)
    queue = _chosen_queue(lines, address)
    context: dict[str, Any] = {
        "now": now,
        "lines": [
            {"line": line, "queue": line.queue, "url": f"?queue={line.queue.pk}", "system": system_label(line.queue)}
            for line in lines
        ],
        "total": sum(line.queue.depth or 0 for line in lines if line.queue.is_enabled),
        "queue": queue,
        "self_url": request.path + address.with_(),
        "close_url": request.path + address.with_(plan=None, letter=None, cause=None, step=None),
    }
    if queue is not None:
        context |= _of_queue(project, queue, address)
    template = "web/_dead_letters.html" if request.htmx else "web/dead_letters.html"  # type: ignore[attr-defined]
    return render(request, template, context)


def _chosen_queue(lines: list[queries.QueueLine], address: _Address) -> DeadLetterQueue | None:
    wanted = row_id(address.values.get("queue"))
    found = next((line.queue for line in lines if line.queue.pk == wanted), None)
    if found is None and wanted:
        raise Http404("There is no such dead-letter queue")
    return found or (lines[0].queue if lines else None)


# One queue


def _of_queue(project: Project, queue: DeadLetterQueue, address: _Address) -> dict[str, Any]:
    address = _Address({"queue": str(queue.pk), **address.values})
    groups = queries.groups_of(queue)
    page = _letters(project, queue, address)
    return {
        "system": system_label(queue),
        "groups": [_group_row(group, address) for group in groups],
        "known": sum(group.count for group in groups),
        "letters": [_letter_row(letter, standing, address) for letter, standing in queries.with_standing(page.items)],
        "letter_views": [
            {
                "label": label,
                "url": address.with_(status=value, cursor=None, letter=None),
                "is_on": value == address.status,
            }
            for value, label in _VIEWS
        ],
        "status": address.status,
        "group": address.group,
        "group_off_url": address.with_(cause=None, step=None, plan=None, cursor=None),
        "older_url": page.next_cursor and address.with_(cursor=page.next_cursor, letter=None),
        "newer_url": page.previous_cursor and address.with_(cursor=page.previous_cursor, letter=None),
        "redrive_all_url": address.with_(plan="all", cause=None, step=None, letter=None),
        "redrive_queue_url": address.with_(plan="queue", cause=None, step=None, letter=None),
        "open_redrive": queries.open_redrive(queue),
        **_beside(project, queue, address, groups),
    }


def _letters(project: Project, queue: DeadLetterQueue, address: _Address) -> Any:
    def ask(cursor: str | None) -> Any:
        return queries.list_letters(
            project.pk, queue_id=queue.pk, status=address.status, group=address.group, limit=LIMIT, cursor=cursor
        )

    try:
        return ask(address.values.get("cursor"))
    except CursorError:
        return ask(None)


def _group_row(group: Group, address: _Address) -> dict[str, Any]:
    worst = group.states[0][0] if group.states else Standing()
    return {
        "group": group,
        "title": visible(group.title, 80),
        "detail": visible(group.detail, 160),
        "step": visible(group.step, 80),
        "url": address.with_(
            cause=group.error_fingerprint, step=group.step, plan=None, letter=None, cursor=None, status=None
        ),
        "is_chosen": address.group == (group.error_fingerprint, group.step),
        "states": ", ".join(f"{count:,} {standing.words}" for standing, count in group.states[:3]),
        "worst": worst.status,
    }


def _letter_row(letter: DeadLetter, standing: Standing, address: _Address) -> dict[str, Any]:
    return {
        "letter": letter,
        "standing": standing,
        "error": visible(letter.error_type.rpartition(".")[2] or letter.error or letter.reason, 60),
        "correlation": visible(letter.correlation_id or "", 120),
        "type": visible(letter.message_type, 80),
        "url": address.with_(letter=letter.pk, plan=None),
        "is_chosen": address.values.get("letter") == str(letter.pk),
    }


# Beside the lists: a letter, or the dry run of a redrive


def _beside(project: Project, queue: DeadLetterQueue, address: _Address, groups: list[Group]) -> dict[str, Any]:
    wanted = address.values.get("plan", "")
    letter_id = row_id(address.values.get("letter"))
    if letter_id and wanted != "one":
        return {"letter": _letter(project, queue, letter_id, address)}
    scope = wanted if wanted in {"one", "all", "queue"} else "group" if address.group is not None else ""
    if not scope:
        return {}
    try:
        selection = selection_of(scope, [letter_id] if letter_id else [], address.group or ("", ""))
        planned = plan(queue, selection)
    except (SelectionError, UnreadableSecretError) as error:
        return {"no_plan": str(error)}
    return {
        "plan": _plan(planned, address),
        "instead": _instead(groups, address) if planned.held and scope == "group" else [],
    }


def _letter(project: Project, queue: DeadLetterQueue, letter_id: int, address: _Address) -> dict[str, Any]:
    try:
        letter = queries.letter_of_id(project.pk, letter_id)
    except queries.NoSuchLetterError:
        raise Http404("There is no such dead letter") from None
    if letter.queue_id != queue.pk:
        raise Http404("There is no such dead letter in this queue")
    return shown_letter(letter) | {
        "redrive_url": address.with_(plan="one"),
        "close_url": address.with_(letter=None),
    }


def _plan(planned: Plan, address: _Address) -> dict[str, Any]:
    held = [one for one in planned.letters if one.standing.is_held]
    return {
        "plan": planned,
        "states": [
            (count, status.replace("_", " ") or "of no known saga") for status, count in planned.states.most_common()
        ],
        "scope": planned.selection.scope,
        "letter_ids": planned.selection.letter_ids,
        "cause": planned.selection.group[0],
        "step": planned.selection.group[1],
        "target": planned.targets[0].name if len(planned.targets) == 1 else "",
        "danger": _danger(planned),
        "held": [(count, status.replace("_", " ")) for status, count in planned.held.items()],
        "warned": [(count, WARNED[status]) for status, count in planned.warned.items()],
        "choices": [
            {
                "letter": one.letter,
                "correlation": visible(one.letter.correlation_id or "", 80),
                "standing": one.standing,
            }
            for one in held[:MOST_CHOSEN]
        ],
        "more_choices": max(0, len(held) - MOST_CHOSEN),
        "seconds": int(planned.seconds * micros.SECOND),
        "cancel_url": address.with_(plan=None, cause=None, step=None, letter=None),
    }


_VERBS = {
    "compensating": ("is being undone", "are being undone"),
    "compensated": ("has been undone", "have been undone"),
    "cancelled": ("was cancelled", "were cancelled"),
    "completed": ("has completed since", "have completed since"),
}
assert _VERBS.keys() == HELD.keys()


def _danger(planned: Plan) -> tuple[str, str]:
    """Who has moved on, in a bold part and the rest; empty when nobody has."""
    held = sum(planned.held.values())
    if not held:
        return "", ""
    parts = [
        f"{count:,} {_VERBS[status][count != 1]}" for status, count in planned.held.most_common() if status in _VERBS
    ]
    listed = ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else parts[0]
    if held == planned.total:
        bold = "Its saga has moved on." if held == 1 else f"All {held:,} sagas have moved on."
    else:
        bold = f"{held:,} of {planned.total:,} sagas {'has' if held == 1 else 'have'} moved on."
    return bold, f"{listed}: what these messages ask for would be done once more."


def _instead(groups: list[Group], address: _Address) -> list[dict[str, Any]]:
    """Other causes of the queue of which something could be sent."""
    others = [group for group in groups if (group.error_fingerprint, group.step) != address.group]
    able = [(group, sum(count for standing, count in group.states if not standing.is_held)) for group in others]
    return [
        {"count": count, "title": visible(group.title, 60), "url": _group_row(group, address)["url"]}
        for group, count in able
        if count
    ][:3]


# Redrives


def _order(request: HttpRequest, project: Project) -> HttpResponse:
    posted = request.POST
    back = reverse("web:dead_letters")
    try:
        queue = queries.queue_of(project.pk, row_id(posted.get("queue")))
    except queries.NoSuchQueueError:
        raise Http404("There is no such dead-letter queue") from None
    back += f"?queue={queue.pk}"
    try:
        rate = float(posted.get("rate") or queue.redrive_rate)
    except ValueError:
        rate = -1.0
    action = Action.DISCARD.value if posted.get("action") == "discard" else Action.REDRIVE.value
    group = tuple(posted.get(name, "").replace("\0", "") for name in ("cause", "step"))
    try:
        if not 0.01 <= rate <= MAX_RATE:
            raise RedriveError(f"the rate lies between 0.01 and {MAX_RATE:,.0f} a second")
        ordered = order(
            queue,
            selection_of(posted.get("scope", ""), [row_id(text) for text in posted.getlist("letter")], group),  # type: ignore[arg-type]
            by=request.user.get_username(),
            now=micros.now(),
            overrides={row_id(text) for text in posted.getlist("override")},
            rate=rate,
            note=posted.get("note", "").strip(),
            action=action,
        )
    except (RedriveError, SelectionError, UnreadableSecretError) as error:
        done = "discarded" if action == Action.DISCARD else "redriven"
        messages.error(request, f"Nothing is {done}: {error}.")
        return redirect(back)
    return redirect("web:redrive", ordered.number)


@project_view
@require_safe
def redrives(request: HttpRequest) -> HttpResponse:
    """The log of redrives, newest first."""
    project: Project = request.project  # type: ignore[attr-defined]
    before = row_id(request.GET.get("before")) or None
    rows = queries.list_redrives(project.pk, limit=LIMIT + 1, before=before if before and before < 2**31 else None)
    context = _log(project, rows[:LIMIT]) | {
        "self_url": request.get_full_path(),
        "older": rows[LIMIT - 1].number if len(rows) > LIMIT else None,
    }
    template = "web/_redrives.html" if request.htmx else "web/redrives.html"  # type: ignore[attr-defined]
    return render(request, template, context)


@project_view(change_role=Role.OPERATOR)
def redrive(request: HttpRequest, number: int) -> HttpResponse:
    """One redrive beside the log: its progress, and what became of each letter. A POST stops it."""
    project: Project = request.project  # type: ignore[attr-defined]
    try:
        chosen = queries.redrive_of(project.pk, min(number, 2**31 - 1))
    except queries.NoSuchRedriveError:
        raise Http404("There is no such redrive") from None
    if request.method == "POST":
        if cancel(chosen, by=request.user.get_username(), now=micros.now()):
            done = "discarded stays discarded" if chosen.is_discard else "sent stays sent"
            messages.success(request, f"Number {chosen.number} is stopped; what was {done}.")
        return redirect("web:redrive", chosen.number)
    context = _log(project, queries.list_redrives(project.pk, limit=LIMIT)) | {
        "self_url": request.path,
        "chosen": chosen,
        "items": [
            {
                "item": item,
                "correlation": visible(item.letter.correlation_id or "", 60),
                "words": item.outcome.replace("_", " "),
                "detail": visible(item.detail or item.target, 300),
            }
            for item in queries.items_of(chosen, limit=MOST_CHOSEN, worst_first=True)
        ],
        "counts": _counts(chosen),
    }
    template = "web/_redrives.html" if request.htmx else "web/redrives.html"  # type: ignore[attr-defined]
    return render(request, template, context)


def _log(project: Project, rows: list[Redrive]) -> dict[str, Any]:
    return {"now": micros.now(), "rows": rows}


def _counts(redrive: Redrive) -> list[tuple[str, int]]:
    """What became of how many, without zeros."""
    named = (
        ("sent", redrive.sent),
        ("discarded", redrive.discarded),
        ("held back", redrive.held_back),
        ("failed", redrive.failed),
        ("no longer there", redrive.missing),
        ("uncertain", redrive.uncertain),
        ("not reached" if not redrive.is_open else "to go", max(0, redrive.total - redrive.done)),
    )
    return [(words, count) for words, count in named if count]
