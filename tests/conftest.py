"""Servers, databases and browsers for the tests.

Tests that need no database start nothing. The first one that does starts an embedded PostgreSQL and Redis in a folder
that is kept between runs; pytest-xdist's workers share them, each with a database and a Redis number of its own, and
they stop with the last worker. Two runs at once take two folders. With DATABASE_URL and REDIS_URL set, those are used.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import hypothesis
import pytest
from django.conf import settings as django_settings

from apps.lib import embedded

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).resolve().parent.parent
#: Tells the workers of one run, and the programs they start, which folder the run took.
FOLDER_VARIABLE = "SAGASCOPE_TEST_DATA"
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
IN_MEMORY_LAYER = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}

hypothesis.settings.register_profile(
    "sagascope",
    deadline=None,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("sagascope")

_folder_lock: int | None = None


def pytest_configure(config: pytest.Config) -> None:
    """Point the settings at the run's servers (which are not started here) and make passwords cheap."""
    folder = os.environ.get(FOLDER_VARIABLE) or str(_take_folder())
    os.environ[FOLDER_VARIABLE] = folder
    if not _brings_servers():
        where = embedded.addresses(Path(folder))
        run = where.database_url.partition("?host=")[2]
        django_settings.DATABASES["default"].update(
            {"NAME": embedded.DATABASE, "USER": "postgres", "PASSWORD": "", "HOST": unquote(run)}
        )
        _use_redis(where.redis_url)
    else:
        _use_redis(django_settings.REDIS_URL)
    django_settings.SAGASCOPE_DATA = Path(folder)
    django_settings.CHANNEL_LAYERS = IN_MEMORY_LAYER
    django_settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    django_settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    # Connections that outlive their thread would keep the test database from being dropped.
    django_settings.DATABASES["default"]["CONN_MAX_AGE"] = 0
    # pytest-xdist would hand out the largest files first and undo the order that is made below.
    config.option.loadscopereorder = False


def pytest_collection_finish() -> None:
    """What is there now stays: the collector of garbage need not look at it again after every test."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that drive a browser come last: Playwright leaves an event loop in the thread, which async tests refuse."""
    with_browser = {item.path for item in items if "browser" in getattr(item, "fixturenames", ())}
    items.sort(key=lambda item: item.path in with_browser)


def _brings_servers() -> bool:
    return bool(os.environ.get("DATABASE_URL") and os.environ.get("REDIS_URL"))


def _take_folder() -> Path:
    """The first of our folders that no other run uses; held until this process ends."""
    global _folder_lock  # noqa: PLW0603 - the lock lives as long as the process
    base = Path(os.environ.get("SAGASCOPE_DATA") or ROOT / ".sagascope")
    if not os.access(base if base.exists() else base.parent, os.W_OK):
        base = Path(tempfile.gettempdir()) / f"sagascope-{os.getuid()}"
    for number in range(1, 100):
        folder = base / ("test" if number == 1 else f"test-{number}")
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / "run.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        _folder_lock = descriptor
        return folder
    raise pytest.UsageError(f"All test folders in {base} are in use")


def _use_redis(url: str) -> None:
    """Give every worker a Redis database of its own."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    number = 1 + int(worker.removeprefix("gw")) % 15
    if url.startswith("unix://"):
        django_settings.REDIS_URL = f"{url}?db={number}"
        django_settings.CELERY_BROKER_URL = f"{url.replace('unix://', 'redis+socket://', 1)}?virtual_host={number}"
    else:
        django_settings.REDIS_URL = django_settings.CELERY_BROKER_URL = f"{url.rstrip('/0')}/{number}"


@pytest.fixture(scope="session")
def servers() -> Iterator[embedded.Addresses]:
    """Running PostgreSQL and Redis. What this file sets up uses them; tests rather ask for `db` or `redis_client`."""
    if _brings_servers():
        yield embedded.Addresses(os.environ["DATABASE_URL"], os.environ["REDIS_URL"])
        return
    with embedded.start(Path(os.environ[FOLDER_VARIABLE])) as running:
        _trade_durability_for_speed(running.addresses)
        yield running.addresses


def _trade_durability_for_speed(where: embedded.Addresses) -> None:
    """No test pulls the plug of the machine; killing processes loses nothing even without fsync."""
    import psycopg

    with psycopg.connect(where.database_url, autocommit=True) as connection:
        for name in ("fsync", "synchronous_commit", "full_page_writes"):
            connection.execute(f"ALTER SYSTEM SET {name} = off")
        connection.execute("SELECT pg_reload_conf()")


@pytest.fixture(scope="session")
def django_db_modify_db_settings(
    servers: embedded.Addresses, django_db_modify_db_settings_parallel_suffix: None
) -> None:
    """Called by pytest-django before it makes the test database: the moment to have servers."""


@pytest.fixture(scope="session")
def django_db_setup(
    django_test_environment: None,
    django_db_blocker: Any,
    django_db_keepdb: bool,
    django_db_createdb: bool,
    django_db_modify_db_settings: None,
) -> Iterator[None]:
    """The test database, for whoever asks for it.

    pytest-django's own makes it only if a collected test is marked `django_db`. Fixtures that need it without the mark,
    such as `web_process`, would run on the server's first, empty database when nothing else was selected.
    """
    from django.db import connection

    before = connection.settings_dict["NAME"]
    with django_db_blocker.unblock():
        if _brings_servers() or django_db_keepdb:
            _make_test_database(keepdb=django_db_keepdb and not django_db_createdb)
        else:
            _copy_test_database()
    yield
    with django_db_blocker.unblock():
        # End what still uses it, so that it can be dropped.
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        if not django_db_keepdb:
            connection.creation.destroy_test_db(before, verbosity=0)


def _make_test_database(*, keepdb: bool) -> None:
    from django.test.utils import setup_databases

    setup_databases(verbosity=0, interactive=False, keepdb=keepdb, aliases={"default"}, serialized_aliases=set())


def _copy_test_database() -> None:
    """Copy the worker's database from one that is migrated once: a second instead of a minute of processor time."""
    from django.db import connection

    wanted = connection.creation._get_test_db_name()
    with _alone("template"):
        template = _migrated_database()
        with connection._nodb_cursor() as cursor:
            cursor.execute(f'DROP DATABASE IF EXISTS "{wanted}" WITH (FORCE)')
            cursor.execute(f'CREATE DATABASE "{wanted}" TEMPLATE "{template}" STRATEGY FILE_COPY')
    connection.close()
    connection.settings_dict["NAME"] = django_settings.DATABASES["default"]["NAME"] = wanted


def _migrated_database() -> str:
    """The name of a database as today's migrations make it; kept in the folder until one of them changes."""
    from django.db import connection

    digest = hashlib.sha256(f"{datetime.now(UTC).date()}".encode())  # partitions are made for the weeks to come
    for file in (ROOT / "requirements.lock", *sorted(ROOT.glob("apps/**/migrations/*.py"))):
        digest.update(str(file.relative_to(ROOT)).encode() + file.read_bytes())
    name = f"migrated_{digest.hexdigest()[:16]}"
    with connection._nodb_cursor() as cursor:
        cursor.execute("SELECT datname FROM pg_database WHERE datname LIKE 'migrated%'")
        known = {row[0] for row in cursor.fetchall()}
        if name in known:
            return name
        for old in known:
            cursor.execute(f'DROP DATABASE "{old}" WITH (FORCE)')
    given, own_name = connection.settings_dict["NAME"], connection.settings_dict["TEST"]["NAME"]
    connection.settings_dict["TEST"]["NAME"] = "migrated_half"
    _make_test_database(keepdb=False)
    connection.close()
    connection.settings_dict["NAME"] = django_settings.DATABASES["default"]["NAME"] = given
    connection.settings_dict["TEST"]["NAME"] = own_name
    with connection._nodb_cursor() as cursor:
        cursor.execute(f'ALTER DATABASE migrated_half RENAME TO "{name}"')
    return name


@contextlib.contextmanager
def _alone(what: str) -> Iterator[None]:
    """One worker of this run at a time."""
    with (Path(os.environ[FOLDER_VARIABLE]) / f"{what}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture
def redis_client(servers: embedded.Addresses) -> Iterator[Any]:
    """A client of this worker's Redis database, empty before and after."""
    import redis

    with redis.Redis.from_url(django_settings.REDIS_URL) as client:
        client.flushdb()
        yield client
        client.flushdb()


@pytest.fixture
def eager_celery() -> Iterator[None]:
    """Tasks run where they are sent, and their errors surface there."""
    from apps.config.celery import app

    before = app.conf.task_always_eager, app.conf.task_eager_propagates
    app.conf.task_always_eager = app.conf.task_eager_propagates = True
    yield
    app.conf.task_always_eager, app.conf.task_eager_propagates = before


@pytest.fixture(scope="session", autouse=True)
def quick_flush() -> None:
    """Empties the database row by row: tests leave few rows, and TRUNCATE makes files for 700 tables and indexes anew.

    What is left is what migrations leave behind, apart from rows that they made in tables of our own.
    """
    from django.core.management.commands.flush import Command

    truncate = Command.handle

    def handle(self: Command, **options: Any) -> None:
        if not _delete_all_rows():
            truncate(self, **options)

    Command.handle = handle  # type: ignore[method-assign]


#: What migrations wrote and what is written by no test.
KEPT = ("django_migrations", "django_content_type", "auth_permission")
#: With more rows than this the files are rather made anew than left full of dead rows.
MANY_ROWS = 20_000
#: Without looking at keys of other tables: all of them are emptied.
DELETE_ALL = """
DO $$
DECLARE emptied text; gone bigint; total bigint := 0;
BEGIN
  SET LOCAL session_replication_role = replica;
  FOREACH emptied IN ARRAY %s LOOP
    EXECUTE format('DELETE FROM %%I', emptied);
    GET DIAGNOSTICS gone = ROW_COUNT;
    total := total + gone;
  END LOOP;
  PERFORM set_config('sagascope.deleted', total::text, false);
END $$;
"""


def _delete_all_rows() -> bool:
    """False if there were many, or if this database's user may not do it this way."""
    from django.db import DatabaseError, connection, transaction

    tables = set(connection.introspection.django_table_names(only_existing=True, include_views=False)) - {*KEPT}
    names = "ARRAY[" + ", ".join(f"'{name}'" for name in sorted(tables)) + "]"
    # Such a request of a test's web process as is still being answered may be in the way: then once more.
    for _ in range(5):
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute(DELETE_ALL.replace("%s", names).replace("%%", "%"))
                cursor.execute("SELECT current_setting('sagascope.deleted')::bigint")
                return cursor.fetchone()[0] <= MANY_ROWS
        except DatabaseError as error:
            if "deadlock" not in str(error):
                return False
    return False


# A real web process and a real browser


@pytest.fixture(scope="session")
def web_process(servers: embedded.Addresses, django_db_setup: None) -> Iterator[str]:
    """The URL of a web process on this worker's test database, for all of its tests. Tests ask for `site`."""
    database = django_settings.DATABASES["default"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    environment = {
        **os.environ,
        "SAGASCOPE_DATA": os.environ[FOLDER_VARIABLE],
        "DATABASE_URL": _database_url(database),
        "REDIS_URL": django_settings.REDIS_URL,
        "PUBLIC_URL": url,
        "SECRET_KEY": django_settings.SECRET_KEY,
        "INGEST_RECORDERS": "1",
    }
    command = [sys.executable, "-m", "uvicorn", "apps.config.asgi:application", "--port", str(port)]
    process = subprocess.Popen([*command, "--log-level", "warning", "--no-access-log"], cwd=ROOT, env=environment)
    try:
        _await_answer(f"{url}/healthz", process)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture
def site(web_process: str, transactional_db: None, settings: Any) -> Iterator[str]:
    """A running Sagascope to post to and to browse; ticks that this process announces reach its pages."""
    from channels.layers import channel_layers

    settings.CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            "CONFIG": {"hosts": [django_settings.REDIS_URL], "prefix": "sagascope"},
        }
    }
    channel_layers.backends = {}
    yield web_process
    channel_layers.backends = {}


def _database_url(database: dict[str, Any]) -> str:
    from django.db import connection

    name = connection.settings_dict["NAME"]
    user = quote(database["USER"], safe="")
    password = f":{quote(database['PASSWORD'], safe='')}" if database["PASSWORD"] else ""
    port = f"&port={database['PORT']}" if database.get("PORT") else ""
    return f"postgresql://{user}{password}@/{name}?host={quote(database['HOST'], safe='')}{port}"


def _await_answer(url: str, process: subprocess.Popen[bytes]) -> None:
    give_up_at = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(url, timeout=20):
                return
        except OSError:
            if process.poll() is not None or time.monotonic() > give_up_at:
                raise
            time.sleep(0.05)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Headless Chromium; skips the test where there is none."""
    program = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if program is None:
        pytest.skip("no Chromium on this machine: install the package chromium")
    from playwright.sync_api import expect, sync_playwright

    # What a page should come to say, it says within this, however busy the machine: nothing here measures time.
    expect.set_options(timeout=30_000)

    # Playwright keeps an event loop running in this thread; Django would take every query for one made inside it.
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield running
        running.close()
    os.environ.pop("DJANGO_ALLOW_ASYNC_UNSAFE")


#: Told of by an event even where the browser's console is silent about it.
TELL_OF_BREACHES = """addEventListener("securitypolicyviolation", (event) => {
  console.error(`Content Security Policy: ${event.effectiveDirective} ${event.blockedURI} ${event.sample}`);
}, true);"""


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A fresh browser page (its own cookies) that fails the test on a script error or a breach of the page's CSP."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    complaints: list[str] = []
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    context.add_init_script(TELL_OF_BREACHES)
    context.on("console", lambda line: complaints.append(line.text) if "Content Security Policy" in line.text else None)
    yield opened
    context.close()
    assert not complaints
