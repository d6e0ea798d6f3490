"""The asyncio pool in real worker processes over a real Valkey: what Celery promises holds for coroutines.

Tasks leave traces in Redis lists; tests wait for them with BLPOP, never by sleeping.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, cast
from uuid import uuid4

import pytest
from celery import Celery
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from orchestrator import queue

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0


class Traces:
    """The lists that tasks write to."""

    def __init__(self, url: str) -> None:
        self.redis = Redis.from_url(url, decode_responses=True, socket_timeout=PATIENCE + 5)

    def next(self, key: str) -> str:
        found = cast("tuple[str, str] | None", self.redis.blpop([key], timeout=PATIENCE))
        assert found, f"nothing arrived in {key} within {PATIENCE:g} s"
        return found[1]

    def take(self, key: str, count: int) -> list[str]:
        return [self.next(key) for _ in range(count)]

    def left(self, key: str) -> list[str]:
        return cast("list[str]", self.redis.lrange(key, 0, -1))

    def fetching(self, queue: str) -> list[Any]:
        """The connections on which workers of this queue wait for messages."""
        clients = cast("list[Any]", self.redis.client_list())
        return [client for client in clients if client["name"] == queue and "b" in client["flags"]]


@pytest.fixture(scope="module")
def traces(url: str) -> Iterator[Traces]:
    traces = Traces(url)
    yield traces
    traces.redis.close()


class Sender:
    """Sends tasks to one queue."""

    def __init__(self, url: str, queue: str) -> None:
        self.app = Celery("pool-test-client", broker=url, set_as_current=False)
        self.app.conf.task_default_queue = self.queue = queue

    def __call__(self, task: str, *args: object, **options: object) -> str:
        options.setdefault("ignore_result", True)
        return str(self.app.send_task(f"test.{task}", args=args, **options).id)  # type: ignore[arg-type]


class Worker:
    """A worker process of its own."""

    def __init__(self, url: str, log: Path, queue: str, concurrency: int, env: dict[str, str]) -> None:
        self.log = log
        command = [sys.executable, "-m", "celery", "-A", "tests.integration.pool_app", "worker", "-P", "custom"]
        command += ["-c", str(concurrency), "--without-gossip", "--without-mingle", "-n", f"{queue}@test", "-l", "info"]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={
                    **os.environ,
                    "CELERY_CUSTOM_WORKER_POOL": "workers.pool:TaskPool",
                    "REDIS_URL": url,
                    "POOL_QUEUE": queue,
                    **env,
                },
            )

    def stop(self, how: signal.Signals) -> int:
        self.process.send_signal(how)
        return self.process.wait(PATIENCE)


class StartWorker(Protocol):
    def __call__(self, queue: str, concurrency: int, **env: str) -> Worker: ...


@contextmanager
def _workers(url: str, folder: Path) -> Iterator[StartWorker]:
    started: list[Worker] = []

    def start(queue: str, concurrency: int, **env: str) -> Worker:
        worker = Worker(url, folder / f"worker-{len(started)}.log", queue, concurrency, env)
        started.append(worker)
        return worker

    try:
        yield start
    finally:
        for worker in started:
            if worker.process.poll() is None:
                worker.process.kill()
                worker.process.wait(PATIENCE)
            sys.stdout.write(worker.log.read_text())  # pytest shows it when a test fails


@pytest.fixture(scope="module")
def shared_worker(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    with _workers(url, tmp_path_factory.mktemp("worker")) as start:
        yield start("shared", 250)


@pytest.fixture(scope="module")
def send(url: str, shared_worker: Worker) -> Sender:
    return Sender(url, "shared")


@pytest.fixture
def start(url: str, tmp_path: Path) -> Iterator[StartWorker]:
    with _workers(url, tmp_path) as start:
        yield start


@pytest.fixture
def key() -> str:
    return uuid4().hex


@pytest.fixture
def own(url: str, key: str) -> Sender:
    """Sends to a queue that this test has for itself."""
    return Sender(url, f"queue-{key}")


def eventually(holds: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (value := holds()):
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)
    return value


def unacknowledged(traces: Traces, queue: str) -> int:
    held = cast("list[str]", traces.redis.hvals("unacked"))
    return sum(json.loads(message)[2] == queue for message in held)  # message, exchange, routing key


# -- tasks that run ----------------------------------------------------------------------------------------------------


def test_two_hundred_coroutines_run_at_once_in_one_process(send: Sender, traces: Traces, key: str) -> None:
    for _ in range(200):
        send("together", key, 1.5)

    peaks = [int(peak) for peak in traces.take(f"{key}:peak", 200)]
    traces.take(f"{key}:done", 200)

    assert max(peaks) == 200
    eventually(lambda: unacknowledged(traces, send.queue) == 0)


def test_plain_functions_run_in_a_bounded_number_of_threads(send: Sender, traces: Traces, key: str) -> None:
    for _ in range(12):
        send("sync", key, 0.2)

    traces.take(f"{key}:done", 12)

    assert max(int(peak) for peak in traces.take(f"{key}:peak", 12)) == 8


async def test_a_message_of_ours_is_run_by_a_stock_consumer(
    send: Sender, url: str, traces: Traces, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.queue.QUEUE", send.queue)
    async with AsyncRedis.from_url(url) as redis:
        await redis.lpush(*queue.message("test.note", key, "Größe 🙂"))

    assert traces.next(key) == "Größe 🙂"
    eventually(lambda: unacknowledged(traces, send.queue) == 0)


def test_a_task_with_an_eta_waits_for_it(send: Sender, traces: Traces, key: str) -> None:
    sent = time.monotonic()
    send("note", key, "late", countdown=1)
    send("note", key, "early")

    assert traces.take(key, 2) == ["early", "late"]
    assert time.monotonic() - sent >= 0.9


def test_an_expired_task_does_not_run(send: Sender, traces: Traces, key: str) -> None:
    task_id = send("note", key, expires=-1)

    assert traces.next(f"revoked:{task_id}") == "expired"
    assert traces.left(key) == []


# -- tasks that fail ---------------------------------------------------------------------------------------------------


def test_an_exception_is_retried_where_the_task_says_so(send: Sender, traces: Traces, key: str) -> None:
    send("flaky", key)

    assert traces.next(key) == "done"
    assert traces.redis.get(f"{key}:attempts") == "3"


def test_a_bound_coroutine_may_ask_for_a_retry_until_the_limit(send: Sender, traces: Traces, key: str) -> None:
    task_id = send("retried", key)

    assert traces.take(key, 2) == ["0", "1"]
    assert traces.next(f"failure:{task_id}") == "ValueError"


@pytest.mark.parametrize(
    ("kind", "failure"),
    [
        ("lookup", "LookupError"),
        ("exit", "WorkerLostError"),  # what Celery calls a SystemExit
        ("cancelled", "SelfCancelledError"),
        ("child", "WorkerLostError"),
    ],
)
def test_whatever_a_coroutine_raises_is_a_failure_and_ends_nothing_else(
    send: Sender, traces: Traces, key: str, kind: str, failure: str
) -> None:
    task_id = send("fails", kind)

    assert traces.next(f"failure:{task_id}") == failure
    send("note", key)
    assert traces.next(key) == "ran"
    eventually(lambda: unacknowledged(traces, send.queue) == 0)


def test_wrong_arguments_are_a_failure(send: Sender, traces: Traces) -> None:
    assert traces.next(f"failure:{send('note')}") == "TypeError"


def test_a_plain_function_that_raises_is_a_failure(send: Sender, traces: Traces) -> None:
    assert traces.next(f"failure:{send('sync_fails')}") == "LookupError"


def test_a_soft_limit_cancels_the_coroutine_and_fails_the_task(send: Sender, traces: Traces, key: str) -> None:
    task_id = send("limited", key)

    assert traces.next(f"failure:{task_id}") == "SoftTimeLimitExceeded"


def test_a_hard_limit_fails_the_task_that_survived_the_soft_one(send: Sender, traces: Traces, key: str) -> None:
    task_id = send("stubborn", key)

    assert traces.take(key, 2) == ["soft time limit", "hard time limit"]
    assert traces.next(f"failure:{task_id}") == "TimeLimitExceeded"
    assert traces.left(f"failure:{task_id}") == []


def test_limits_can_be_set_by_the_sender(send: Sender, traces: Traces, key: str) -> None:
    task_id = send("until_released", key, time_limit=0.3)

    assert traces.next(f"failure:{task_id}") == "TimeLimitExceeded"
    assert traces.next(f"{key}:cancelled") == "hard time limit"


def test_a_hard_limit_fails_a_plain_function_though_its_thread_runs_on(send: Sender, traces: Traces, key: str) -> None:
    task_id = send("sync", key, 1.0, time_limit=0.2)

    assert traces.next(f"failure:{task_id}") == "TimeLimitExceeded"
    assert traces.next(f"{key}:done") == "1"


# -- remote control ----------------------------------------------------------------------------------------------------


def test_a_revoke_cancels_a_running_coroutine(send: Sender, traces: Traces, key: str) -> None:
    task_id = send("until_released", key)
    traces.next(f"{key}:started")

    send.app.control.revoke(task_id, terminate=True)

    assert traces.next(f"{key}:cancelled") == "terminated"
    assert traces.next(f"revoked:{task_id}") == "terminated"
    eventually(lambda: unacknowledged(traces, send.queue) == 0)


def test_inspect_knows_what_is_running(send: Sender, traces: Traces, key: str, shared_worker: Worker) -> None:
    task_id = send("until_released", key)
    traces.next(f"{key}:started")
    inspect = send.app.control.inspect(destination=["shared@test"], timeout=3)

    (active,) = (inspect.active() or {}).values()
    (stats,) = (inspect.stats() or {}).values()
    traces.redis.rpush(f"{key}:release", 1)

    assert task_id in [request["id"] for request in active]
    assert {request["worker_pid"] for request in active} == {shared_worker.process.pid}
    assert stats["pool"]["implementation"] == "workers.pool:TaskPool"
    assert stats["pool"]["max-concurrency"] == 250
    assert stats["pool"]["running"] >= 1
    traces.next(f"{key}:done")


# -- the bound ---------------------------------------------------------------------------------------------------------


def test_never_run_more_coroutines_than_the_concurrency(
    start: StartWorker, own: Sender, traces: Traces, key: str
) -> None:
    start(own.queue, 3)
    for _ in range(6):
        own("together", key, 0.1)
        own("together", key, 0.1, countdown=0.5)  # these come on top of the prefetched ones, all at once
        own("together_early", key, 0.1)

    traces.take(f"{key}:done", 18)

    assert max(int(peak) for peak in traces.take(f"{key}:peak", 18)) == 3


def test_what_exceeds_the_concurrency_stays_with_the_broker(
    start: StartWorker, own: Sender, traces: Traces, key: str
) -> None:
    worker = start(own.queue, 2)
    for _ in range(5):
        own("until_released", key)
    traces.take(f"{key}:started", 2)

    assert unacknowledged(traces, own.queue) == 2
    assert traces.redis.llen(own.queue) == 3

    traces.redis.rpush(f"{key}:release", *range(5))
    traces.take(f"{key}:done", 5)
    worker.stop(signal.SIGTERM)


# -- the end -----------------------------------------------------------------------------------------------------------


def test_a_warm_shutdown_waits_for_the_coroutines_and_then_leaves_the_lifespan(
    start: StartWorker, own: Sender, traces: Traces, key: str
) -> None:
    traces.redis.delete("lifespan")
    worker = start(own.queue, 10)
    own("until_released", key)
    own("until_released", f"{key}2")
    traces.next(f"{key}:started")
    traces.next(f"{key}2:started")

    worker.process.send_signal(signal.SIGTERM)
    traces.redis.rpush(f"{key}:release", 1)
    traces.next(f"{key}:done")
    eventually(lambda: unacknowledged(traces, own.queue) == 1)  # the first is acknowledged while the second still runs
    traces.redis.rpush(f"{key}2:release", 1)

    assert worker.process.wait(PATIENCE) == 0
    traces.next(f"{key}2:done")
    assert unacknowledged(traces, own.queue) == 0
    assert traces.left("lifespan") == ["entered", "left"]


def test_a_cold_shutdown_gives_unfinished_tasks_back_and_the_next_worker_runs_them(
    start: StartWorker, own: Sender, traces: Traces, key: str
) -> None:
    traces.redis.delete("lifespan")
    worker = start(own.queue, 3)
    for _ in range(4):
        own("until_released", key)
    traces.take(f"{key}:started", 3)

    worker.stop(signal.SIGQUIT)

    assert traces.take(f"{key}:cancelled", 3) == ["terminated"] * 3
    assert traces.left("lifespan") == ["entered", "left"]
    assert unacknowledged(traces, own.queue) == 0
    assert traces.redis.llen(own.queue) == 4

    start(own.queue, 4)
    assert sorted(traces.take(f"{key}:started", 4)) == ["again", "again", "again", "first"]
    traces.redis.rpush(f"{key}:release", *range(4))
    traces.take(f"{key}:done", 4)


def test_a_warm_shutdown_turns_cold_when_asked_again(start: StartWorker, own: Sender, traces: Traces, key: str) -> None:
    traces.redis.delete("lifespan")
    worker = start(own.queue, 3)
    own("until_released", key)
    traces.next(f"{key}:started")

    worker.process.send_signal(signal.SIGTERM)
    eventually(lambda: "Warm shutdown" in worker.log.read_text())
    worker.stop(signal.SIGQUIT)

    assert traces.next(f"{key}:cancelled") == "terminated"
    assert traces.left("lifespan") == ["entered", "left"]
    assert traces.redis.llen(own.queue) == 1


def test_a_coroutine_that_will_not_end_holds_a_cold_shutdown_for_seconds_only(
    start: StartWorker, own: Sender, traces: Traces, key: str
) -> None:
    worker = start(own.queue, 3)
    own("endless", key)
    traces.next(key)

    worker.stop(signal.SIGQUIT)

    assert "tasks_abandoned" in worker.log.read_text()
    assert traces.redis.llen(own.queue) == 1


def test_a_soft_shutdown_lets_short_tasks_finish_and_gives_long_ones_back(
    start: StartWorker, own: Sender, traces: Traces, key: str
) -> None:
    worker = start(own.queue, 10, POOL_SOFT_SHUTDOWN="1", REMAP_SIGTERM="SIGQUIT")
    own("until_released", f"{key}short")
    own("until_released", f"{key}long")
    traces.next(f"{key}short:started")
    traces.next(f"{key}long:started")

    worker.process.send_signal(signal.SIGTERM)
    traces.redis.rpush(f"{key}short:release", 1)
    worker.process.wait(PATIENCE)

    assert traces.next(f"{key}short:done")
    assert traces.next(f"{key}long:cancelled") == "terminated"
    assert unacknowledged(traces, own.queue) == 0
    assert traces.redis.llen(own.queue) == 1


def test_a_worker_that_is_asked_to_stop_tells_its_tasks_and_keeps_nothing_that_it_has_not_begun(
    start: StartWorker, own: Sender, traces: Traces, key: str
) -> None:
    leaving = start(own.queue, 10, POOL_GRACE="600")
    own("mannerly", key, "soon")
    own("mannerly", key, "now")
    traces.take(f"{key}:started", 2)

    leaving.process.send_signal(signal.SIGTERM)
    assert traces.next(f"{key}:ended") == "soon"
    own("note", key)  # the one that leaves was the first to wait for it
    staying = start(own.queue, 10)
    assert traces.next(key) == "ran"
    assert leaving.process.poll() is None

    leaving.stop(signal.SIGTERM)  # asked again

    assert traces.next(f"{key}:ended") == "now"
    assert leaving.process.returncode == 0
    eventually(lambda: unacknowledged(traces, own.queue) == 0)  # the other one says so a moment after it has ended
    staying.stop(signal.SIGTERM)


def test_a_worker_that_is_asked_to_stop_tells_its_tasks_when_the_time_is_over(
    start: StartWorker, own: Sender, traces: Traces, key: str
) -> None:
    worker = start(own.queue, 10, POOL_GRACE="0.2")
    own("mannerly", key, "now")
    traces.next(f"{key}:started")

    assert worker.stop(signal.SIGTERM) == 0
    assert traces.next(f"{key}:ended") == "now"
    assert unacknowledged(traces, own.queue) == traces.redis.llen(own.queue) == 0


def test_the_messages_of_a_killed_worker_stay_unacknowledged_until_the_visibility_timeout(
    start: StartWorker, own: Sender, traces: Traces, key: str
) -> None:
    worker = start(own.queue, 10)
    own("until_released", key)
    traces.next(f"{key}:started")

    worker.stop(signal.SIGKILL)

    assert (
        unacknowledged(traces, own.queue) == 1
    )  # nothing but the timeout brings it back: that is why housekeeping exists
    assert traces.redis.llen(own.queue) == 0


def test_a_lost_connection_to_the_broker_ends_no_coroutine(
    start: StartWorker, own: Sender, traces: Traces, key: str
) -> None:
    start(own.queue, 10)
    own("until_released", key)
    traces.next(f"{key}:started")

    # What it has fetched is noted over the same connection, so there may be a moment until it waits for more.
    for client in eventually(lambda: traces.fetching(own.queue)):
        traces.redis.client_kill_filter(_id=client["id"])

    assert traces.next(f"{key}:started") == "again"  # the broker hands it out once more: the claim must tell them apart
    traces.redis.rpush(f"{key}:release", 1, 2)
    traces.take(f"{key}:done", 2)
    own("note", key)
    assert traces.next(key) == "ran"


def test_a_lifespan_that_cannot_be_entered_ends_the_worker(start: StartWorker, own: Sender, key: str) -> None:
    own("note", key)
    worker = start(own.queue, 1, POOL_LIFESPAN="fails")

    assert worker.process.wait(PATIENCE) == 1
    assert "worker_did_not_start" in worker.log.read_text()
    assert "no database here" in worker.log.read_text()


def test_a_lifespan_that_ends_by_itself_ends_the_worker_and_gives_its_tasks_back(
    start: StartWorker, own: Sender, traces: Traces, key: str
) -> None:
    worker = start(own.queue, 5, POOL_LIFESPAN="dies")
    own("until_released", key)
    traces.next(f"{key}:started")

    traces.redis.rpush("die", 1)

    assert worker.process.wait(PATIENCE) == 1
    assert "worker_lost_its_lifespan" in worker.log.read_text()
    assert traces.redis.llen(own.queue) == 1
    assert traces.next(f"{key}:cancelled") == "shutdown"
