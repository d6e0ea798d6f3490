"""Many streamed runs at once through one worker process: does each end, how long do all take, what do they cost?

    python -m bench.concurrent_runs --runs 500 --tokens 40 --delay 0.05

Everything is real but the model, which is scripted and paced: `tokens × delay` seconds a run. All on loopback.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from orchestrator.open_files import allow_many
from tests import stack as stacks
from tests.stack import API_KEY, Stack

HEADERS = {"Authorization": f"Bearer {API_KEY}", "Content-Type": "application/json"}


async def one(session: aiohttp.ClientSession, base: str, assistant: str, text: str) -> dict[str, Any]:
    """One streamed run on a thread of its own: did it complete, its deltas, seconds to the first and to the end."""
    body = {"assistant_id": assistant, "stream": True, "thread": {"messages": [{"role": "user", "content": text}]}}
    began, first, deltas, completed = time.monotonic(), 0.0, 0, False
    async with session.post(f"{base}/threads/runs", json=body) as response:
        if response.status != 200:
            raise RuntimeError(await response.text())
        async for line in response.content:
            if line == b"event: thread.message.delta\n":
                deltas += 1
                first = first or time.monotonic() - began
            elif line == b"event: thread.run.completed\n":
                completed = True
    return {"completed": completed, "deltas": deltas, "first": first, "total": time.monotonic() - began}


async def measure(stack: Stack, base: str, options: argparse.Namespace, processes: dict[str, int]) -> dict[str, Any]:
    """All runs at once, and what the processes used meanwhile."""
    timeout = aiohttp.ClientTimeout(total=120)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(headers=HEADERS, timeout=timeout, connector=connector) as session:
        async with session.post(f"{base}/assistants", json={"model": "gpt-4o"}) as response:
            assistant = (await response.json())["id"]
        await one(session, base, assistant, "warm up")
        seen = {name: psutil.Process(pid) for name, pid in processes.items()}
        before = {name: sum(process.cpu_times()[:2]) for name, process in seen.items()}
        began = time.monotonic()
        text = f"[[tokens={options.tokens} delay={options.delay}]]"
        runs = await asyncio.gather(*(one(session, base, assistant, text) for _ in range(options.runs)))
        wall = time.monotonic() - began
    firsts = sorted(run["first"] for run in runs)
    return {
        "runs": options.runs,
        "completed": sum(run["completed"] for run in runs),
        "deltas": sum(run["deltas"] for run in runs),
        "wall_s": round(wall, 2),
        "model_s": options.tokens * options.delay,
        "first_token_s": {"p50": round(statistics.median(firsts), 3), "p99": round(firsts[int(len(firsts) * 0.99)], 3)},
        "total_s": {"p50": round(statistics.median(run["total"] for run in runs), 3)},
        "cpu_s": {name: round(sum(process.cpu_times()[:2]) - before[name], 2) for name, process in seen.items()},
        "rss_mb": {name: round(process.memory_info().rss / 2**20) for name, process in seen.items()},
    }


def main() -> None:
    """Start the stack, measure, print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--delay", type=float, default=0.05, help="seconds before each token")
    options = parser.parse_args()
    allow_many()
    with tempfile.TemporaryDirectory() as folder, stacks.running(Path(folder), tapped=False) as stack:
        worker = stack.start_worker(ASSISTANTD_LOG_LEVEL="warning")
        base = stack.start_api(ASSISTANTD_LOG_LEVEL="warning")
        api = stack.processes[-1]
        figures = asyncio.run(measure(stack, base, options, {"worker": worker.pid, "api": api.pid}))
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
