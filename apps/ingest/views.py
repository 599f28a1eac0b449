"""The ingest routes as Django views: for servers that mount only Django, and for its test client."""

from __future__ import annotations

from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse
from django.http.request import UnreadablePostError
from django.views.decorators.csrf import csrf_exempt

from apps.ingest import answers, door, pushes
from apps.ingest.answers import Answer


@csrf_exempt
def events(request: HttpRequest) -> HttpResponse:
    """The ingest door. It takes bearer tokens and no cookies, so no other site can use a person's session."""
    return _response(_answer(request))


@csrf_exempt
def push(request: HttpRequest, name: str = "") -> HttpResponse:
    """What systems push by themselves: `apps.ingest.pushes`. `name` is part of the path and read from there."""
    headers = _headers(request)
    try:
        body = request.body if request.method == "POST" else b""
    except RequestDataTooBig:
        answer = door.too_large(pushes.most_bytes(request.path))
        return _response(pushes.dressed(request.path, headers, answer))
    except UnreadablePostError:
        return _response(pushes.dressed(request.path, headers, _incomplete()))
    query = request.META.get("QUERY_STRING", "")
    return _response(pushes.receive(pushes.PushRequest(request.method or "", request.path, query, headers, body)))


def _answer(request: HttpRequest) -> Answer:
    if request.method == "OPTIONS":
        return answers.options("webhook-request-origin" in request.headers)
    if request.method != "POST":
        return answers.not_allowed()
    try:
        return door.receive(door.IngestRequest(_headers(request), request.body))
    except RequestDataTooBig:
        return door.too_large()
    except UnreadablePostError:
        return _incomplete()


def _incomplete() -> Answer:
    return answers.problem(400, "incomplete_body", "the body ended before it was complete")


def _headers(request: HttpRequest) -> list[tuple[bytes, bytes]]:
    return [
        (name.lower().encode("latin-1", "replace"), value.encode("latin-1", "replace"))
        for name, value in request.headers.items()
        # Django makes up an empty one where there is none.
        if value != "" or name not in {"Content-Length", "Content-Type"}
    ]


def _response(answer: Answer) -> HttpResponse:
    # Closing connections is the server's business where Django is one application among others.
    headers = {name: value for name, value in answer.headers if name != "connection"}
    return HttpResponse(answer.body, status=answer.status, headers=headers)
