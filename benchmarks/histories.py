"""Long histories: 5,000, 25,000 and 50,000 entries of each engine, imported by the command and over HTTP.

Bars: seconds until everything is recorded and readable; the most memory that the process ever held with the longest
history, as a multiple of what it held with the shortest, which is a tenth; and that every event of the document was
accepted. What is held is the document's text once, where its entries lie, and what is open; neither the entries nor
their events. A history whose times jump back all the time is tried as well: what comes late makes recording look back.

The machine may be shared. Import and PostgreSQL take turns, so the CPU time of both together is what an import takes
where nobody else computes; the bar is for that time, or for the seconds by the clock where these are fewer. The load of
the machine, which is printed, says how far to trust either: two processes that share a core lengthen each other's CPU
time as well.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from stage import ROOT, servers, verdict, web_process

SIZES = (5_000, 25_000, 50_000)
SECONDS = 10.0
#: Peak of memory with the longest history, as a multiple of the peak with the shortest.
FLAT = 1.25
BASE_MS = 1_795_000_000_000
STEPS = 40


class Cost(NamedTuple):
    """What an import took."""

    seconds: float
    #: CPU time of the importing process and of PostgreSQL.
    cpu_seconds: float
    #: The most memory that the importing process ever held.
    peak_bytes: int
    accepted: int


# --- histories --------------------------------------------------------------------------------------------------------


def temporal(size: int, *, jumps: bool = False) -> Any:
    """Activities one after the other; with `jumps` each second one tells a time before that of the first."""
    order = {"payloads": [{"metadata": {"encoding": "anNvbi9wbGFpbg=="}, "data": "eyJvcmRlciI6IHsiaWQiOiAibyJ9fQ=="}]}
    events: list[dict[str, Any]] = []

    def add(kind: str, attributes: dict[str, Any]) -> int:
        number = len(events) + 1
        words = kind.lower().split("_")
        key = words[0] + "".join(word.capitalize() for word in words[1:]) + "EventAttributes"
        second = size - number if jumps and number % 6 > 2 else number
        events.append(
            {"eventId": str(number), "eventTime": _iso(second), "eventType": f"EVENT_TYPE_{kind}", key: attributes}
        )
        return number

    who = {"workflowId": f"temporal-{size}-{jumps}", "originalExecutionRunId": _run(size, jumps)}
    add("WORKFLOW_EXECUTION_STARTED", {**who, "workflowType": {"name": "order"}, "taskQueue": {"name": "q"}})
    while len(events) < size:
        name = {"name": f"step-{len(events) % STEPS}"}
        begun = add("ACTIVITY_TASK_SCHEDULED", {"activityId": str(len(events)), "activityType": name, "input": order})
        started = add("ACTIVITY_TASK_STARTED", {"scheduledEventId": str(begun), "attempt": 1, "identity": "worker"})
        about = {"scheduledEventId": str(begun), "startedEventId": str(started), "result": order}
        add("ACTIVITY_TASK_COMPLETED", about)
    return {"events": events[:size]}


def temporal_jumping_back(size: int) -> Any:
    """The same, with times that jump back all the time."""
    return temporal(size, jumps=True)


def cadence(size: int) -> Any:
    """The same as Cadence's command line prints it."""
    entries = temporal(size)["events"]
    found = []
    for entry in entries:
        (key,) = [name for name in entry if name.endswith("EventAttributes")]
        kind = key.removesuffix("EventAttributes")
        numbers = {"scheduledEventId", "startedEventId"}
        attributes = {name: int(each) if name in numbers else each for name, each in entry[key].items()}
        attributes |= {name: "e30=" for name in ("input", "result") if name in attributes}
        if "workflowId" in attributes:
            attributes |= {"workflowId": f"cadence-{size}", "taskList": {"name": "q"}}
        nanoseconds = (BASE_MS + int(entry["eventId"]) * 1000) * 1_000_000
        found.append(
            {
                "eventId": int(entry["eventId"]),
                "timestamp": nanoseconds,
                "eventType": kind[0].upper() + kind[1:],
                key: attributes,
            }
        )
    return found


def stepfunctions(size: int) -> Any:
    """States one after the other, as `GetExecutionHistory` answers."""
    arn = f"arn:aws:states:eu-west-1:111122223333:execution:Order:stepfunctions-{size}"
    events: list[dict[str, Any]] = []

    def add(kind: str, details: dict[str, Any], name: str) -> None:
        number = len(events) + 1
        moment = BASE_MS / 1000 + number
        events.append({"id": number, "previousEventId": number - 1, "timestamp": moment, "type": kind, name: details})

    add("ExecutionStarted", {"input": "{}"}, "executionStartedEventDetails")
    while len(events) < size:
        state = f"step-{len(events) % STEPS}"
        add("TaskStateEntered", {"name": state, "input": '{"order": "o"}'}, "stateEnteredEventDetails")
        task = {"resourceType": "lambda", "resource": "invoke"}
        add("TaskScheduled", {**task, "parameters": '{"order": "o"}'}, "taskScheduledEventDetails")
        add("TaskStarted", task, "taskStartedEventDetails")
        add("TaskSucceeded", {**task, "output": '{"b": 2}'}, "taskSucceededEventDetails")
        add("TaskStateExited", {"name": state, "output": '{"b": 2}'}, "stateExitedEventDetails")
    return {"describe": {"executionArn": arn}, "history": {"events": events[:size]}}


def zeebe(size: int) -> Any:
    """Service tasks one after the other, each with its job: an exporter's records of one process instance."""
    instance = 2_251_799_813_685_249 + size
    process = {"bpmnProcessId": "order", "version": 1, "processDefinitionKey": 7, "processInstanceKey": instance}
    records: list[dict[str, Any]] = []

    def add(value_type: str, intent: str, key: int, value: dict[str, Any]) -> None:
        position = size * 10 + len(records)
        about = {"partitionId": 1, "position": position, "sourceRecordPosition": position, "key": key}
        moment = {"timestamp": BASE_MS + len(records) * 1000, "recordType": "EVENT"}
        records.append(about | moment | {"valueType": value_type, "intent": intent, "value": process | value})

    add("PROCESS_INSTANCE", "ELEMENT_ACTIVATED", instance, {"bpmnElementType": "PROCESS", "elementId": "order"})
    while len(records) < size:
        element, job = instance + len(records) + 1, instance + 10_000_000 + len(records)
        name = f"step-{len(records) % STEPS}"
        task = {"bpmnElementType": "SERVICE_TASK", "elementId": name, "flowScopeKey": instance}
        work = {"elementId": name, "elementInstanceKey": element, "type": "work", "retries": 3, "variables": {"a": 1}}
        add("PROCESS_INSTANCE", "ELEMENT_ACTIVATED", element, task)
        add("JOB", "CREATED", job, work)
        add("JOB", "COMPLETED", job, work)
        add("PROCESS_INSTANCE", "ELEMENT_COMPLETED", element, task)
    return records[:size]


def conductor(size: int) -> Any:
    """A workflow's tasks: three events each, so a third as many rows."""
    rows = [
        {"taskId": f"t-{n}", "referenceTaskName": f"step_{n}", "taskDefName": f"step_{n % STEPS}", "taskType": "work"}
        | {"status": "COMPLETED", "scheduledTime": BASE_MS + n * 1000, "startTime": BASE_MS + n * 1000 + 1}
        | {"endTime": BASE_MS + n * 1000 + 2, "inputData": {"order": "o"}, "outputData": {"b": 2}, "seq": n}
        for n in range(size // 3)
    ]
    times = {"startTime": BASE_MS, "createTime": BASE_MS, "endTime": BASE_MS + size * 1000}
    return {"workflowId": f"conductor-{size}", "workflowName": "order", "status": "COMPLETED", "tasks": rows} | times


def dapr(size: int) -> Any:
    """Activities one after the other, as the workflow API answers."""
    started = {"name": "order", "workflowInstance": {"instanceId": f"dapr-{size}"}, "input": '{"order": "o"}'}
    events: list[dict[str, Any]] = [{"eventId": -1, "executionStarted": started}]
    number = 0
    while len(events) < size:
        about = {"taskExecutionId": f"t-{number}"}
        events += [
            {"eventId": number, "taskScheduled": {"name": f"step-{number % STEPS}", "input": '"o"', **about}},
            {"eventId": -1, "orchestratorStarted": {}},
            {"eventId": -1, "taskCompleted": {"taskScheduledId": number, "result": '{"b": 2}', **about}},
        ]
        number += 1
    return {"events": [{**event, "timestamp": _iso(at)} for at, event in enumerate(events[:size])]}


def airflow(size: int) -> Any:
    """A DAG run of as many mapped task instances as the events need, two each."""
    run = {"dag_id": "order", "dag_run_id": f"airflow-{size}", "run_type": "manual", "state": "success"}
    run |= {"start_date": _iso(0), "end_date": _iso(size)}
    tasks = [
        {"dag_id": "order", "dag_run_id": run["dag_run_id"], "task_id": f"step-{n % STEPS}", "map_index": n}
        | {"try_number": 1, "state": "success", "queued_when": _iso(n), "start_date": _iso(n), "end_date": _iso(n + 1)}
        for n in range(size // 3)
    ]
    return {"dag_runs": [run], "task_instances": tasks}


HISTORIES: dict[str, Callable[[int], Any]] = {
    "temporal": temporal,
    "cadence": cadence,
    "zeebe": zeebe,
    "conductor": conductor,
    "stepfunctions": stepfunctions,
    "dapr": dapr,
    "airflow": airflow,
    "temporal, times that jump back": temporal_jumping_back,
}


def _iso(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(BASE_MS // 1000 + second))


def _run(size: int, jumps: bool) -> str:
    return f"0195c0de-0000-7000-8000-{size + jumps:012}"


# --- measuring --------------------------------------------------------------------------------------------------------


def main() -> int:
    """Import everything in both ways and print the verdicts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", action="append", help="only this one; may be given several times")
    parser.add_argument("--way", choices=["command", "http"], help="only this way")
    options = parser.parse_args()
    names = [name for name in HISTORIES if not options.engine or name in options.engine]
    results: list[bool] = []
    with servers() as data:
        if options.way != "http":
            for name in names:
                results += _judged(name, "command", lambda *given: _by_command(data, *given))
        if options.way != "command":
            token = _token()
            for name in names:
                # A process for each: what one leaves behind would hide what the next one takes.
                with web_process() as port:
                    _warm_up(port, token)
                    results += _judged(name, "http", lambda *given, port=port: _over_http(port, token, *given))
    return 0 if all(results) else 1


def _judged(name: str, way: str, imported: Callable[[str, bytes], Cost]) -> Iterator[bool]:
    engine = name.partition(",")[0]
    costs = []
    for size in SIZES:
        body = json.dumps(HISTORIES[name](size)).encode()
        cost = imported(engine, body)
        costs.append(cost)
        print(
            f"      {name}, {way}, {size:,}: {len(body) / 1e6:.1f} MB, {cost.accepted:,} events, {cost.seconds:.2f} s,"
            f" CPU {cost.cpu_seconds:.2f} s, peak {cost.peak_bytes / 1e6:.0f} MB, load {os.getloadavg()[0]:.1f}",
            flush=True,
        )
    what = f"{name}, {way}, {SIZES[-1]:,}"
    yield verdict(f"{what}: imported", min(costs[-1][:2]), SECONDS, unit=" s", at_most=True)
    growth = costs[-1].peak_bytes / costs[0].peak_bytes
    yield verdict(f"{what}: peak of memory against {SIZES[0]:,}", growth, FLAT, at_most=True)


def _token() -> str:
    from apps.projects.models import Project
    from apps.projects.tokens import create_token

    # Not the project of the command: there the same histories would be duplicates.
    project, _ = Project.objects.get_or_create(slug="bench-http", defaults={"name": "Bench by HTTP"})
    return create_token(project, ["ingest"], name="bench")


#: manage.py, which at its end says the most memory that it ever held. Nobody else knows: what the operating system
#: tells of a child that has ended (`ru_maxrss`) is never less than what its parent held when it began.
_COMMAND = """
import atexit, runpy, sys
atexit.register(lambda: print(*[line for line in open("/proc/self/status") if line.startswith("VmHWM:")]))
sys.argv[0] = "manage.py"
runpy.run_path("manage.py", run_name="__main__")
"""


def _by_command(data: Path, engine: str, body: bytes) -> Cost:
    """`manage.py import_history`, with its start-up."""
    from apps.projects.models import Project

    Project.objects.get_or_create(slug="bench", defaults={"name": "Bench"})
    with tempfile.NamedTemporaryFile(dir=data, suffix=".json") as file:
        file.write(body)
        file.flush()
        command = [sys.executable, "-c", _COMMAND, "import_history", engine, file.name, "--project", "bench"]
        started, cpu = time.perf_counter(), _postgres_cpu()
        process = subprocess.Popen(command, cwd=ROOT, env=os.environ, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    said, _, peak = said.rpartition("VmHWM:")
    counts = said.rpartition(": ")[2]
    if process.returncode or " 0 rejected" not in counts or " 0 duplicates" not in counts:
        raise SystemExit(f"{engine} was not imported: {said}")
    accepted = int(counts.partition(" accepted")[0])
    spent = used.ru_utime + used.ru_stime + _postgres_cpu() - cpu
    return Cost(seconds, spent, int(peak.split()[0]) * 1024, accepted)


def _over_http(port: int, token: str, engine: str, body: bytes) -> Cost:
    web = _processes(port)
    cpu = _cpu(web) + _postgres_cpu()
    for process in web:
        # Resets the highest mark of its memory: proc(5), clear_refs.
        Path(f"/proc/{process}/clear_refs").write_text("5")
    started = time.perf_counter()
    status, counts = _post(port, token, engine, body)
    seconds = time.perf_counter() - started
    if status != 200 or counts["rejected"] or counts["duplicates"]:
        raise SystemExit(f"{engine} was refused: {status} {str(counts)[:500]}")
    peak = max(_peak(process) for process in web)
    return Cost(seconds, _cpu(web) + _postgres_cpu() - cpu, peak, counts["accepted"])


def _warm_up(port: int, token: str) -> None:
    """What a process does once in its life belongs to no import."""
    _post(port, token, "temporal", json.dumps(temporal(50)).encode())


def _post(port: int, token: str, engine: str, body: bytes) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    connection.request("POST", f"/api/v1/histories/{engine}", body, headers)
    answer = connection.getresponse()
    counts = json.loads(answer.read())
    connection.close()
    return answer.status, counts


def _processes(port: int) -> list[int]:
    """The web process on this port and its children."""
    import psutil

    (owner,) = [each.pid for each in psutil.Process().children() if any(word == str(port) for word in each.cmdline())]
    return [owner, *(child.pid for child in psutil.Process(owner).children(recursive=True))]


def _cpu(processes: list[int]) -> float:
    import psutil

    return sum(sum(psutil.Process(each).cpu_times()[:2]) for each in processes)


def _postgres_cpu() -> float:
    """CPU time of all of PostgreSQL so far, with the backends that have ended."""
    import psutil
    from django.db import connection

    connection.ensure_connection()
    main = psutil.Process(connection.connection.info.backend_pid).parent()
    return sum(main.cpu_times()[:4]) + _cpu([child.pid for child in main.children()])


def _peak(process: int) -> int:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"the memory of process {process} is not known")


if __name__ == "__main__":
    sys.exit(main())
