"""The usual shape of such servers, beside ours, with the same model, load and machine.

What peers do, without their code: a process of the pool for each run (prefork), the official client and its typed
chunks, one ORM session and commit for each transition, an XADD a token, and one blocking XREAD for each listener. It
does less than ours: no keys, no leases, no cancel, no resuming, no limits, no housekeeping.
"""

import sys
from collections.abc import Iterator

from bench import peers_store
from bench.calls import Job
from bench.load import Generator, Load
from bench.report import ROOT, Options, Row, Table, ms, progress
from bench.stack import KEY, Stack, running
from bench.throughput import warm_up
from orchestrator.embedded.process import Process, free_port

PROCESSES = 8
INSTANT, IDEAL = "bench-instant-40", "bench-ideal"
IDEAL_FIRST = 0.05


def _start(stack: Stack) -> str:
    """Start their worker and API; returns the base URL."""
    where = {
        peers_store.DATABASE: stack.database_url,
        peers_store.REDIS: stack.environment["REDIS_URL"],
        peers_store.MODEL: stack.model_url,
    }
    port = free_port()
    worker = (
        "celery",
        "-A",
        "bench.peers_worker",
        "worker",
        "-P",
        "prefork",
        "-c",
        str(PROCESSES),
        "-n",
        "peers@bench",
    )
    api = ("uvicorn", "bench.peers_api:app", "--port", str(port), "--log-level", "warning", "--loop", "uvloop")
    for name, command in (("peers-api", api), ("peers-worker", worker)):
        log = stack.folder / f"{name}.log"
        ready = {"peers-api": b"", "peers-worker": b" ready."}[name]
        process = Process(
            name,
            [sys.executable, "-m", *command, *(("--loglevel", "info") if name == "peers-worker" else ())],
            log,
            env={**stack.environment, **where},
            cwd=ROOT,
            probe=lambda log=log, ready=ready: ready in log.read_bytes(),  # type: ignore[misc]
        )
        process.spawn()
        stack.ends.callback(process.stop, 30.0)
        process.wait_ready(60.0)
    return f"http://127.0.0.1:{port}/v1"


def _row(generator: Generator, who: str, base: str, assistant: str, seconds: float) -> Row:
    """Runs a second at an instant model with 50 clients; added time to first token of one client, and of 50."""
    fast = generator.share(Load(Job(base, "streamed", KEY, INSTANT, assistant), clients=50, seconds=seconds))
    one = generator.share(Load(Job(base, "streamed", KEY, IDEAL, assistant), clients=1, seconds=seconds))
    many = generator.share(Load(Job(base, "streamed", KEY, IDEAL, assistant), way="burst", clients=50, rounds=2))
    for felt in (fast, one, many):
        if felt.failed:
            raise RuntimeError(f"{felt.failed} calls of {who} failed: {felt.why}")
    return {
        "who": who,
        "runs/s, 50 clients": round(fast.per_second, 1),
        "added to first token, 1 client, ms": ms(one.first() - IDEAL_FIRST),
        "50 at once p50, ms": ms(many.first() - IDEAL_FIRST),
        "50 at once p99, ms": ms(many.first(0.99) - IDEAL_FIRST),
    }


def peers(options: Options) -> Iterator[Table]:
    """The usual shape of such servers beside ours: runs/s of the whole stack, added time to first token."""
    seconds, rounds = (3.0, 1) if options.quick else (8.0, 3)
    with running(options) as stack, Generator() as generator:
        assistant = stack.assistant(IDEAL)
        warm_up(stack, generator, assistant)
        addresses = {"peers' shape": _start(stack), "assistantd": stack.base_url}
        generator.share(Load(Job(addresses["peers' shape"], "streamed", KEY, INSTANT, assistant), "burst", clients=16))
        turns: dict[str, list[Row]] = {who: [] for who in addresses}
        for number in range(rounds):
            for who, base in addresses.items():
                progress(f"peers: round {number + 1} of {rounds}, {who}")
                turns[who].append(_row(generator, who, base, assistant, seconds))
        rows = [
            sorted(found, key=lambda row: float(row["runs/s, 50 clients"] or 0))[rounds // 2]
            for found in turns.values()
        ]
        first = float(rows[0]["runs/s, 50 clients"] or 1)
        rows = [{**row, "× peers' runs/s": round(float(row["runs/s, 50 clients"] or 0) / first, 1)} for row in rows]
    yield Table("peers", f"Beside prefork {PROCESSES}, typed chunks, a read for each listener", rows)
