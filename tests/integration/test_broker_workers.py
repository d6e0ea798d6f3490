"""Whole workers on the transport that fetches in batches: beside a stock one, and when Redis is restarted."""

import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.embedded.valkey import Valkey
from tests.integration.test_pool import Sender, StartWorker, Traces, _workers, eventually, unacknowledged

QUEUE = "shared"


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    valkey = Valkey(tmp_path / "valkey", durable=True)
    valkey.start()
    yield valkey
    valkey.stop()


@pytest.fixture
def traces(valkey: Valkey) -> Iterator[Traces]:
    traces = Traces(valkey.url)
    yield traces
    traces.redis.close()


@pytest.fixture
def start(valkey: Valkey, tmp_path: Path) -> Iterator[StartWorker]:
    with _workers(valkey.url, tmp_path) as start:
        yield start


@pytest.fixture
def send(valkey: Valkey) -> Sender:
    return Sender(valkey.url, QUEUE)


def test_a_stock_worker_and_ours_share_a_queue_and_each_task_runs_once(
    start: StartWorker, send: Sender, traces: Traces
) -> None:
    workers = start(QUEUE, 5), start(QUEUE, 5, POOL_BROKER="stock")
    for number in range(150):
        send("note", "ran", str(number))

    ran = Counter(traces.take("ran", 150))

    assert set(ran.values()) == {1}
    eventually(lambda: unacknowledged(traces, QUEUE) == 0)
    for worker in workers:
        assert worker.stop(signal.SIGTERM) == 0
    assert traces.left("ran") == []
    assert traces.redis.exists("unacked", "unacked_index", QUEUE) == 0


def test_a_worker_that_starts_on_a_full_redis_works_once_there_is_room(
    start: StartWorker, send: Sender, traces: Traces
) -> None:
    for number in range(5):
        send("note", "ran", str(number))
    traces.redis.config_set("maxmemory", 1)
    worker = start(QUEUE, 5, POOL_LIFESPAN="silent")
    eventually(lambda: "used memory > 'maxmemory'" in worker.log.read_text())

    traces.redis.config_set("maxmemory", 0)

    assert sorted(traces.take("ran", 5)) == ["0", "1", "2", "3", "4"]
    eventually(lambda: unacknowledged(traces, QUEUE) == 0)
    assert worker.stop(signal.SIGTERM) == 0


def test_a_worker_outlives_a_restart_of_redis_and_acknowledges_what_comes_after(
    valkey: Valkey, start: StartWorker, send: Sender, traces: Traces
) -> None:
    start(QUEUE, 50)
    for number in range(20):
        send("until_released", f"task-{number}")
    for number in range(20):
        traces.next(f"task-{number}:started")

    valkey.stop()
    valkey.start()

    for number in range(20, 120):
        send("note", "ran", str(number))
    assert set(traces.take("ran", 100)) == {str(number) for number in range(20, 120)}
    eventually(lambda: unacknowledged(traces, QUEUE) <= 20)  # the hundred are struck off, whatever became of the twenty
