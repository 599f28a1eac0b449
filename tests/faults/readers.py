"""Faults of who looks: tabs without number, tabs that never read, all coming back at once, a server that goes."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import random
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Origin

from tests.faults.story import saga
from tests.faults.system import pause, resume

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.faults.run import Context

#: Tabs that are open, of so many people, each of whom has as many as anybody may.
TABS, TABS_EACH = 500, 50
#: As many again that never read: of the web process for each; and what its memory moves by anyway.
SILENT_BYTES, NOISE_BYTES = 64 * 1024, 8 * 2**20
DROPPED_WITHIN = 30.0
TICK_WITHIN = 2.0
BACK_WITHIN = 30.0
#: Pages of a saga each, looked at by somebody else, and what happens to each.
WATCHERS, WATCHED_EVENTS = 5, 10

# F35: what the reader is shown, and how soon.
TOLD_WITHIN, SHOWN_WITHIN = 10.0, 15.0
_PILL = "[data-live-pill]"


# --- F20


def many_tabs(context: Context, dice: random.Random, trial: int) -> None:
    """F20: hundreds of tabs that never read; then hundreds that do, lose their connection and come back at once."""
    for number in range(TABS // TABS_EACH + 1):
        context.cookie(number)
    _never_reading(context, dice)
    asyncio.run(_tabs(context, dice))
    held = context.verdict.figures.setdefault("MB after each", [])
    held.append(round(context.system.web().memory_info().rss / 2**20))


async def _tabs(context: Context, dice: random.Random) -> None:
    tabs = await _all_open(context)
    try:
        context.verdict.hold("F20 tabs", len(tabs) == TABS, len(tabs))
        _judge_lags(context, "beside tabs", await _lags(context, dice))
        for tab in tabs:
            tab.transport.abort()
        began = time.monotonic()
        tabs = await _all_open(context)
        took = time.monotonic() - began
        context.verdict.figures["stampede s"] = max(context.verdict.figures.get("stampede s", 0.0), round(took, 1))
        back = len(tabs) == TABS and took <= BACK_WITHIN * context.slow
        context.verdict.hold("F20 not back", back, f"{len(tabs)} of {TABS} after {took:.0f} s")
    finally:
        for tab in tabs:
            tab.transport.abort()


def _judge_lags(context: Context, when: str, lags: list[float]) -> None:
    slowest = sorted(lags)[int(len(lags) * 0.99)]
    figure = f"tick p99 {when} s"
    context.verdict.figures[figure] = max(context.verdict.figures.get(figure, 0.0), round(slowest, 2))
    context.verdict.hold("F20 ticks are late", slowest <= TICK_WITHIN * context.slow, f"{slowest:.1f} s {when}")


async def _all_open(context: Context) -> list[ClientConnection]:
    """A connection for each tab, tried again as a page does, for as long as they may take at most."""
    until = time.monotonic() + 2 * BACK_WITHIN * context.slow

    async def one(number: int) -> ClientConnection | None:
        tries = 0
        while time.monotonic() < until:
            with contextlib.suppress(Exception):
                return await _connected(context, number // TABS_EACH)
            await asyncio.sleep(min(2**tries, 30) * (0.5 + random.random() / 2))
            tries += 1
        return None

    opened = await asyncio.gather(*(one(number) for number in range(TABS)))
    return [each for each in opened if each is not None]


async def _connected(context: Context, person: int, **more: str) -> ClientConnection:
    query = "&".join(f"{name}={quote(value)}" for name, value in {"project": context.slug, **more}.items())
    return await connect(
        f"ws://127.0.0.1:{context.system.port}/live?{query}",
        origin=Origin(context.system.url),
        additional_headers={"Cookie": context.cookie(person)},
        # A browser waits for long.
        open_timeout=60,
        proxy=None,
    )


async def _lags(context: Context, dice: random.Random) -> list[float]:
    """Seconds from the answer to an event until a page that shows its saga is told."""
    # Their tabs are counted as everybody's: somebody else looks.
    watcher = TABS // TABS_EACH
    lags: list[float] = []

    async def watch(number: int) -> None:
        told = saga(f"watched-{time.time_ns()}-{number}", dice)
        await asyncio.to_thread(context.post, told[:1])
        uuid = await asyncio.to_thread(_uuid, context.project_id, told[0]["correlationid"])
        async with await _connected(context, watcher, correlation=uuid) as page:
            for event in told[1 : WATCHED_EVENTS + 1]:
                # What is judged moments later ticks as well.
                with contextlib.suppress(TimeoutError):
                    for _ in range(10):
                        await asyncio.wait_for(page.recv(), 0.3)
                await asyncio.to_thread(context.post, [event])
                began = time.monotonic()
                try:
                    await asyncio.wait_for(page.recv(), 30)
                    lags.append(time.monotonic() - began)
                except TimeoutError:
                    lags.append(30.0)

    await asyncio.gather(*(watch(number) for number in range(WATCHERS)))
    return lags


def _uuid(project_id: int, correlation_id: str) -> str:
    from django.db import connections

    from apps.sagas.models import Correlation

    try:
        return str(Correlation.objects.get(project=project_id, correlation_id=correlation_id).id)
    finally:
        connections.close_all()


def _never_reading(context: Context, dice: random.Random) -> None:
    """They open, never read and never answer a ping: each costs little, and is soon gone; nobody else waits."""
    web = context.system.web()
    before, files = web.memory_info().rss, web.num_fds()
    with ThreadPoolExecutor(20) as pool:
        silent = list(pool.map(lambda number: _silent(context, number // TABS_EACH), range(TABS)))
    began = time.monotonic()
    opened = [each for each in silent if each is not None]
    context.verdict.hold("F20 silent tabs", len(opened) == TABS, len(opened))
    lags: list[float] = []
    watching = threading.Thread(target=lambda: lags.extend(asyncio.run(_lags(context, dice))))
    watching.start()
    most = before
    gone = None
    while gone is None and time.monotonic() - began < 2 * DROPPED_WITHIN * context.slow:
        most = max(most, web.memory_info().rss)
        if web.num_fds() <= files + TABS // 10:
            gone = time.monotonic() - began
        time.sleep(0.25)
    watching.join()
    for each in opened:
        each.close()
    grown = most - before
    context.verdict.figures["silent dropped s"] = "never" if gone is None else round(gone)
    context.verdict.figures["KiB of a silent one"] = round(grown / TABS / 1024)
    context.verdict.hold("F20 not dropped", gone is not None and gone <= DROPPED_WITHIN * context.slow, gone)
    context.verdict.hold("F20 memory of silent tabs", grown <= TABS * SILENT_BYTES + NOISE_BYTES, f"{grown:,} bytes")
    _judge_lags(context, "beside silent ones", lags)


def _silent(context: Context, person: int) -> socket.socket | None:
    """A handshake by hand; from then on nobody reads."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    client.settimeout(20)
    try:
        client.connect(("127.0.0.1", context.system.port))
        key = base64.b64encode(os.urandom(16)).decode()
        lines = (
            f"GET /live?project={quote(context.slug)} HTTP/1.1",
            f"Host: 127.0.0.1:{context.system.port}",
            f"Origin: {context.system.url}",
            f"Cookie: {context.cookie(person)}",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            # As every browser offers.
            "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
            f"Sec-WebSocket-Key: {key}",
        )
        client.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        if b" 101 " in client.recv(64):
            return client
    except OSError:
        pass
    client.close()
    return None


# --- F35


def server_gone(context: Context, dice: random.Random, trial: int) -> None:
    """F35: the server goes away under an open page, and comes back: the page says so, and needs no reload."""
    page: Page = context.held("page", lambda: _browser(context))
    name = f"shown-{trial}-{time.time_ns()}"
    first = _tell(context, f"{name}-a", dice)
    page.goto(f"{context.system.url}/instances?q={quote(f'correlation:{name}*')}")
    page.wait_for_selector(f"{_PILL}[data-state=live]", timeout=30_000 * context.slow)
    page.evaluate("window.neverReloaded = true")
    context.verdict.hold("F35 rows", sorted(_rows(page)) == sorted(first), _rows(page))
    supervisor = context.system.supervisor()
    pause(supervisor)
    try:
        gone = time.monotonic()
        context.system.kill(context.system.web(), *context.system.recorders())
        said = _within(page, f"{_PILL}[data-state=off]", TOLD_WITHIN * context.slow)
        context.verdict.hold("F35 says nothing", said is not None, page.inner_text(_PILL))
        time.sleep(max(0.0, (60 if context.is_nightly or trial == 0 else 20) - (time.monotonic() - gone)))
    finally:
        resume(supervisor)
    context.system.await_ready(60)
    second = _tell(context, f"{name}-b", dice)
    back = _wait(page, lambda: _new(page) == f"{len(second)} new", SHOWN_WITHIN * context.slow)
    context.verdict.hold("F35 not back by itself", back is not None, _new(page))
    context.verdict.hold("F35 rows lost or doubled", sorted(_rows(page)) == sorted(first), _rows(page))
    live = _within(page, f"{_PILL}[data-state=live]", 40 * context.slow)
    context.verdict.hold("F35 not live again", live is not None, page.inner_text(_PILL))
    context.verdict.hold("F35 reloaded", page.evaluate("window.neverReloaded === true"), "the page was loaded anew")
    page.click("#new-rows")
    page.wait_for_load_state()
    context.verdict.hold("F35 all rows", sorted(_rows(page)) == sorted(first + second), _rows(page))
    for figure, seconds in (("told s", said), ("back s", back), ("live s", live)):
        context.verdict.figures[figure] = max(context.verdict.figures.get(figure, 0), round(seconds or 999, 1))


def _tell(context: Context, name: str, dice: random.Random) -> list[str]:
    """Tell of five sagas, at times of now: they stand above all that was there before."""
    names = [f"{name}-{number}" for number in range(5)]
    for each in names:
        told, began = saga(each, dice), datetime.now(UTC) - timedelta(seconds=2)
        for number, event in enumerate(told):
            event["time"] = (began + timedelta(milliseconds=100 * number)).isoformat().replace("+00:00", "Z")
        context.until(partial(_is_taken_in, context, told), 30)
    return names


def _is_taken_in(context: Context, told: list[dict[str, Any]]) -> bool:
    return context.post(told)[0] == 200


def _rows(page: Page) -> list[str]:
    """The correlations that the list shows, as often as it does."""
    found: list[str] = page.eval_on_selector_all(
        "main a[data-row]", "rows => rows.map(row => decodeURIComponent(row.getAttribute('href')))"
    )
    return [each.split("?")[0].rpartition("/")[2] for each in found]


def _new(page: Page) -> str:
    """What is said of rows that wait to be asked for."""
    button = page.query_selector("#new-rows")
    return button.inner_text().strip() if button is not None else ""


def _within(page: Page, selector: str, seconds: float) -> float | None:
    return _wait(page, lambda: page.query_selector(selector) is not None, seconds)


def _wait(page: Page, holds: Any, seconds: float) -> float | None:
    """After how many seconds it held; the page goes on meanwhile."""
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > seconds:
            return None
        page.wait_for_timeout(100)
    return time.monotonic() - began


@contextmanager
def _browser(context: Context) -> Iterator[Page]:
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome")
    program = next((found for name in names if (found := shutil.which(name))), None)
    if program is None:
        raise OSError("no Chromium on this machine")
    name, _, value = context.cookie().partition("=")
    # What talks to the browser keeps a loop of its own in this thread, in which Django would not ask the database.
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
            page = browser.new_page()
            page.context.add_cookies([{"name": name, "value": value, "url": context.system.url}])
            yield page
            browser.close()
    finally:
        del os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]
