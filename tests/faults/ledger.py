"""The ledger sender: it knows of every event what it was told, and sends again until it was told "yes".

Outcomes: ok (2xx), failed (4xx), unknown (5xx, timeout, reset). Unknown ones are sent again with the same ids, as a
real SDK does. A reader asks all the while for what was acknowledged.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from tests.faults.story import saga

BATCH = "application/cloudevents-batch+json"
SENDERS = 4
PER_BATCH = 50


@dataclass
class Ledger:
    """What was tried, what was promised, and what was heard."""

    #: Every event that was ever sent, by id.
    attempted: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: Ids that a 2xx was answered for.
    acknowledged: set[str] = field(default_factory=set)
    #: HTTP statuses of the senders, and 0 for a connection that broke or hung.
    statuses: Counter[int] = field(default_factory=Counter)
    read_statuses: Counter[int] = field(default_factory=Counter)
    #: Sums of what answers counted.
    counted: Counter[str] = field(default_factory=Counter)
    #: 4xx answers and whatever else should not be.
    complaints: list[str] = field(default_factory=list)
    #: 503 without Retry-After.
    without_retry_after: int = 0
    #: When something was acknowledged, and when it was read, by the monotonic clock.
    read_back: list[tuple[float, float]] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    #: Monotonic times of the 2xx answers, to tell when it came back.
    answered_at: list[float] = field(default_factory=list)

    def staleness(self, faults: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
        """Seconds from acknowledgement to being read: in calm, and around faults, given as (begun, back).

        What is acknowledged just before a fault or during it is read from when the system is back.
        """
        calm, hurt = [], []
        for acknowledged_at, read_at in self.read_back:
            around = [back for begun, back in faults if acknowledged_at <= back and read_at >= begun]
            if around:
                hurt.append(max(0.0, read_at - max(acknowledged_at, *around)))
            else:
                calm.append(read_at - acknowledged_at)
        return calm, hurt


class Sender:
    """Tells sagas from several threads until it is stopped, and then until all of it is acknowledged."""

    def __init__(self, address: tuple[str, int], token: str, *, seed: int, rate: float = 300.0) -> None:
        self.ledger = Ledger()
        self._address, self._token, self._seed, self._rate = address, token, seed, rate
        self._stop = threading.Event()
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._recent: list[tuple[str, float]] = []
        self._threads = [threading.Thread(target=self._tell, args=(number,)) for number in range(SENDERS)]
        self._reader = threading.Thread(target=self._read)

    def start(self) -> None:
        for thread in (*self._threads, self._reader):
            thread.start()

    def finish(self, seconds: float = 120) -> None:
        """Tell nothing new and wait until everything is acknowledged. Raises TimeoutError."""
        self._stop.set()
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(until - time.monotonic(), 0.1))
        self._done.set()
        self._reader.join(40)
        if any(thread.is_alive() for thread in self._threads):
            raise TimeoutError("some events were never acknowledged")

    def first_answer_after(self, moment: float, seconds: float) -> float | None:
        """After how many seconds the first 2xx came that was answered after a moment; None when none did in time."""
        while True:
            with self._lock:
                later = [at for at in self.ledger.answered_at if at > moment]
            if later:
                return min(later) - moment
            if time.monotonic() > moment + seconds:
                return None
            time.sleep(0.01)

    def _tell(self, number: int) -> None:
        dice = random.Random(f"{self._seed}-{number}")
        waiting: list[dict[str, Any]] = []
        count = 0
        pause = PER_BATCH * SENDERS / self._rate
        while not self._stop.is_set() or waiting:
            began = time.monotonic()
            while len(waiting) < PER_BATCH * 2 and not self._stop.is_set():
                count += 1
                waiting += saga(f"ledger-{self._seed}-{number}-{count}", dice)
            # Nearly in order, as real senders are: neighbours change places, sagas interleave.
            take, waiting = waiting[:PER_BATCH], waiting[PER_BATCH:]
            dice.shuffle(take)
            self._send(take, dice)
            time.sleep(max(0.0, pause - (time.monotonic() - began)))

    def _send(self, batch: list[dict[str, Any]], dice: random.Random) -> None:
        body = json.dumps(batch).encode()
        with self._lock:
            self.ledger.attempted.update({event["id"]: event for event in batch})
        while True:
            began = time.monotonic()
            status, headers, answer = self._request("POST", "/api/v1/events", body)
            with self._lock:
                self.ledger.statuses[status] += 1
                self.ledger.latencies.append(time.monotonic() - began)
                if 200 <= status < 300:
                    self._note(batch, json.loads(answer))
                    return
                if 400 <= status < 500 and status != 429:
                    self.ledger.complaints.append(f"{status}: {answer[:200]!r}")
                    return
                if status in (429, 503) and not headers.get("retry-after", "").isdigit():
                    self.ledger.without_retry_after += 1
            time.sleep(0.1 + 0.2 * dice.random())

    def _note(self, batch: list[dict[str, Any]], counts: dict[str, Any]) -> None:
        now = time.monotonic()
        ledger = self.ledger
        ledger.answered_at.append(now)
        ledger.counted["sent"] += len(batch)
        for name in ("accepted", "duplicates"):
            ledger.counted[name] += counts[name]
        ledger.counted["rejected"] += len(counts["rejected"])
        if counts["rejected"]:
            ledger.complaints.append(f"rejected: {counts['rejected'][:2]}")
        if counts["accepted"] + counts["duplicates"] + len(counts["rejected"]) != len(batch):
            ledger.complaints.append(f"sums do not agree: {counts}")
        ledger.acknowledged.update(event["id"] for event in batch)
        self._recent.append((batch[0]["id"], now))

    def _read(self) -> None:
        """Ask for an event that was just acknowledged, and for lists: never an error, and never older than a moment."""
        while not self._done.is_set():
            with self._lock:
                asked = self._recent[-1:]
                self._recent = []
            for event_id, acknowledged_at in asked:
                correlation_id = event_id.rpartition("/")[0]
                path = f"/api/v1/correlations/{quote(correlation_id, safe='')}/events?limit=1000"
                while not self._done.is_set():
                    status, _, answer = self._request("GET", path)
                    with self._lock:
                        self.ledger.read_statuses[status] += 1
                    if status == 200 and event_id in {item["event_id"] for item in json.loads(answer)["items"]}:
                        with self._lock:
                            self.ledger.read_back.append((acknowledged_at, time.monotonic()))
                        break
                    time.sleep(0.05)
            status, _, _ = self._request("GET", "/api/v1/instances?limit=50")
            with self._lock:
                self.ledger.read_statuses[status] += 1
            self._done.wait(0.2)

    def _request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(*self._address, timeout=30)
        try:
            headers = {"Authorization": f"Bearer {self._token}", "Content-Type": BATCH}
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        except (OSError, http.client.HTTPException):
            return 0, {}, b""
        finally:
            connection.close()
