"""The embedded servers: shared, found again after a crash, gone with their last user."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from apps.lib import embedded

ROOT = Path(__file__).resolve().parent.parent.parent
#: Holds the servers, says so, and waits to be killed.
HOLDER = """
import sys, signal
from pathlib import Path
from apps.lib import embedded
servers = embedded.start(Path(sys.argv[1]))
print("holding", flush=True)
signal.pause()
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("embedded") / "data"


@pytest.fixture
def hold(data: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts other processes that hold the servers; whatever is left of them is killed."""
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLDER, str(data)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "holding\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def running(data: Path) -> dict[str, int]:
    """The living processes of this data folder: name -> process id."""
    found = {}
    for process in psutil.process_iter(["name", "cmdline", "status"]):
        words = process.info["cmdline"] or []
        if process.info["status"] != psutil.STATUS_ZOMBIE and any(word.find(str(data)) >= 0 for word in words):
            if any(word == "apps.lib.embedded.keeper" for word in words):
                found["keeper"] = process.pid
            elif words[0].endswith("postgres"):
                found["postgres"] = process.pid
            elif "redis-server" in words[0]:
                found["redis"] = process.pid
    return found


def kill(pid: int) -> None:
    process = psutil.Process(pid)
    process.kill()
    give_up_at = time.monotonic() + 20
    # Somebody else's child stays a zombie for as long as its parent likes.
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < give_up_at:
        time.sleep(0.01)


def await_end(data: Path) -> None:
    give_up_at = time.monotonic() + 20
    while running(data) and time.monotonic() < give_up_at:
        time.sleep(0.02)
    assert running(data) == {}


def one(where: embedded.Addresses, query: str) -> object:
    with psycopg.connect(where.database_url, autocommit=True) as connection:
        row = connection.execute(query).fetchone()
        return row[0] if row else None


def test_asking_for_addresses_starts_and_writes_nothing(tmp_path: Path) -> None:
    where = embedded.addresses(tmp_path / "none")

    assert where.database_url.startswith("postgresql://postgres@/sagascope?host=")
    assert where.redis_url.startswith("unix:///")
    assert list(tmp_path.iterdir()) == []


def test_started_servers_answer_and_stop_with_their_last_user(data: Path) -> None:
    first = embedded.start(data)
    second = embedded.start(data)
    keeper = running(data)["keeper"]

    first.stop()
    assert one(second.addresses, "SELECT current_database()") == "sagascope"
    assert redis.Redis.from_url(second.addresses.redis_url).ping()
    assert running(data)["keeper"] == keeper

    second.stop()
    assert running(data) == {}


def test_a_commit_is_durable(data: Path) -> None:
    with embedded.start(data) as servers:
        assert one(servers.addresses, "SELECT current_setting('fsync')") == "on"
        assert one(servers.addresses, "SELECT current_setting('synchronous_commit')") == "on"


def test_two_processes_share_one_pair_of_servers(data: Path, hold: Callable[[], subprocess.Popen[str]]) -> None:
    other = hold()
    before = running(data)
    with embedded.start(data):
        assert running(data) == before

    other.kill()
    await_end(data)


def test_a_killed_user_leaves_no_server_behind_and_its_data_is_found_again(
    data: Path, hold: Callable[[], subprocess.Popen[str]]
) -> None:
    user = hold()
    where = embedded.addresses(data)
    with psycopg.connect(where.database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (name text)")
        connection.execute("INSERT INTO kept VALUES ('before the crash')")

    user.kill()
    await_end(data)

    with embedded.start(data) as servers:
        assert one(servers.addresses, "SELECT name FROM kept") == "before the crash"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_when_everything_is_killed_at_once_the_next_start_cleans_up(
    data: Path, hold: Callable[[], subprocess.Popen[str]]
) -> None:
    user = hold()
    before = running(data)
    kill(before["keeper"])
    user.kill()

    with embedded.start(data) as servers:
        assert one(servers.addresses, "SELECT 1") == 1
        assert set(running(data).values()).isdisjoint(before.values())


def test_a_process_id_that_now_belongs_to_somebody_else_is_no_obstacle(data: Path) -> None:
    with embedded.start(data):
        stale = (data / "postgres" / "postmaster.pid").read_text().splitlines()
    stale[0] = str(os.getppid())
    (data / "postgres" / "postmaster.pid").write_text("\n".join(stale) + "\n")
    (data / "run" / "redis.pid").write_text(f"{os.getppid()}\n")

    with embedded.start(data) as servers:
        assert one(servers.addresses, "SELECT 1") == 1
    assert psutil.pid_exists(os.getppid())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_a_user_whose_keeper_was_killed_gets_the_servers_back(data: Path) -> None:
    with embedded.start(data) as servers:
        before = running(data)
        kill(before["keeper"])

        servers.ensure()
        assert one(servers.addresses, "SELECT 1") == 1
        assert set(running(data).values()).isdisjoint(before.values())


def test_a_server_that_dies_is_started_again(data: Path) -> None:
    with embedded.start(data) as servers:
        killed = running(data)["redis"]
        kill(killed)

        client = redis.Redis.from_url(servers.addresses.redis_url, retry=None)
        give_up_at = time.monotonic() + 20
        while running(data).get("redis", killed) == killed and time.monotonic() < give_up_at:
            time.sleep(0.02)
        while time.monotonic() < give_up_at:
            try:
                assert client.ping()
                break
            except redis.ConnectionError:
                time.sleep(0.02)
        assert client.ping()


def test_a_long_path_with_odd_characters_works(tmp_path: Path) -> None:
    data = tmp_path / "a folder, 100% 'odd' & über" / ("long-" * 20)

    with embedded.start(data) as servers:
        assert one(servers.addresses, "SELECT 1") == 1
        assert redis.Redis.from_url(servers.addresses.redis_url).ping()


def test_data_of_another_major_version_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir(mode=0o700)
    (tmp_path / "postgres" / "PG_VERSION").write_text("16\n")

    with pytest.raises(embedded.EmbeddedError, match="was written by PostgreSQL 16"):
        embedded.start(tmp_path)
    assert running(tmp_path) == {}


def test_sockets_in_a_folder_of_somebody_else_are_refused(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    (tmp_path / "run").mkdir()
    os.chown(tmp_path / "run", 65534, 65534)

    with pytest.raises(embedded.EmbeddedError, match="belongs to another user"):
        embedded.start(tmp_path)
