"""A whole installation whose every part can be killed, frozen, cut off and restarted: what storms rage in.

    Postgres · Valkey           restarted on their ports, in order or by force, with their data or without
    scripted model server       never killed: it counts what it was asked
    api-0 … · worker-0 …        slots, each with proxies of its own before the three servers

`keep` replaces processes that ended, as a supervisor does. Servers are started from one thread that lives as long as
they do: they end with it (see orchestrator/embedded/launch.py).
"""

import asyncio
import os
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Literal
from urllib.error import URLError
from urllib.request import urlopen

import asyncpg

from orchestrator.embedded.postgres import Postgres
from orchestrator.embedded.valkey import Valkey
from orchestrator.migrate import migrate
from orchestrator.settings import Settings
from tests.chaos.slots import Kind, Slot
from tests.fakes.model_control import RemoteModelServer
from tests.integration.clusters import postgres_on
from tests.stack import API_KEY

POSTGRES = "fsync = off\ntrack_commit_timestamp = on\n"
"""It never loses a commit when it is killed (only a machine that loses power would), and knows when each one was."""
FOREIGN = ("OPENAI_", "ASSISTANTD_", "PYTHONDONTWRITEBYTECODE")
"""Variables that are not for our processes. The last makes each start compile everything again."""
PATIENCE = 60.0
POLL = 0.05

PostgresStop = Literal["fast", "immediate"]
ValkeyStop = Literal["kept", "killed", "emptied"]


class Cluster:
    """What runs. Make one with `running`."""

    def __init__(self, folder: Path, model: RemoteModelServer, *, proxied: bool) -> None:
        self.folder = folder
        self.model = model
        self.slots: list[Slot] = []
        self.environment: dict[str, str] = {}
        self._proxied = proxied
        self._names: Counter[Kind] = Counter()
        self._hands = ThreadPoolExecutor(1, "servers")
        self._postgres = Postgres(postgres_on(folder))
        with (self._postgres.cluster / "postgresql.auto.conf").open("a") as conf:
            conf.write(POSTGRES)
        self._valkey = Valkey(folder / "valkey")

    @property
    def apis(self) -> list[Slot]:
        """The slots of API processes."""
        return [slot for slot in self.slots if slot.kind == "api"]

    @property
    def workers(self) -> list[Slot]:
        """The slots of workers."""
        return [slot for slot in self.slots if slot.kind == "worker"]

    def add(self, kind: Kind, **environment: str) -> Slot:
        """A further slot, with a process in it."""
        name = f"{kind}-{self._names[kind]}"
        self._names[kind] += 1
        slot = Slot(name, kind, {**self.environment, **environment}, self.folder, proxied=self._proxied)
        self.slots.append(slot)
        slot.start()
        return slot

    def remove(self, slot: Slot) -> None:
        """End a slot's process, and forget the slot."""
        slot.close()
        self.slots.remove(slot)

    async def keep(self) -> None:
        """Replace whoever ended, for ever."""
        while True:
            for slot in self.slots:
                if slot.wanted and not slot.alive:
                    slot.start()
            await asyncio.sleep(POLL)

    async def ready(self, *slots: Slot) -> None:
        """Wait until these (by default all) serve."""
        for slot in slots or self.slots:
            await until(lambda slot=slot: _serves(slot), f"{slot.name} is ready")  # type: ignore[misc]

    async def connect(self) -> asyncpg.Connection:
        """A connection to Postgres that leads through no proxy."""
        return await asyncpg.connect(self.environment["DATABASE_URL"], timeout=PATIENCE)

    async def restart_postgres(self, how: PostgresStop = "fast", pause: float = 0.0) -> None:
        """Stop it, with a checkpoint or by force, and start it on its data after so many seconds."""
        await self._do(lambda: self._restart_postgres(how, pause))

    async def stop_postgres(self, how: PostgresStop = "fast") -> None:
        """Stop it; `start_postgres` goes on with its data."""
        await self._do(lambda: self._stop_postgres(how))

    async def start_postgres(self) -> None:
        """Start it again, on its port."""
        await self._do(self._postgres.start)

    async def restart_valkey(self, how: ValkeyStop = "kept", pause: float = 0.0) -> None:
        """Stop it and start it after so many seconds: with its data, with what a kill left of it, or with nothing."""
        await self._do(lambda: self._restart_valkey(how, pause))

    async def begin(self) -> None:
        """Start the servers, create the schema."""
        await self._do(self._postgres.start)
        await self._do(self._valkey.start)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        self.environment = {
            **kept,
            "DATABASE_URL": self._postgres.url,
            "REDIS_URL": self._valkey.url,
            "UPSTREAM_BASE_URL": self.model.base_url,
            "UPSTREAM_API_KEY": "sk-upstream",
            "ASSISTANTD_API_KEY": API_KEY,
            "ASSISTANTD_LOG_FORMAT": "json",
            "ASSISTANTD_STORAGE_URL": (self.folder / "files").as_uri(),
        }
        urls = {name: self.environment[name] for name in ("DATABASE_URL", "REDIS_URL")}
        await migrate(Settings.model_validate({**urls, "api_key": API_KEY}))

    async def end(self) -> None:
        """Stop everything."""
        for slot in self.slots:
            slot.close()
        await self._do(self._valkey.stop)
        await self._do(self._postgres.stop)
        self._hands.shutdown()

    def _stop_postgres(self, how: PostgresStop) -> None:
        process = self._postgres.process
        if process is not None and process.pid is not None:
            os.kill(process.pid, signal.SIGINT if how == "fast" else signal.SIGQUIT)
            process.wait_end(PATIENCE)

    def _restart_postgres(self, how: PostgresStop, pause: float) -> None:
        self._stop_postgres(how)
        time.sleep(pause)
        self._postgres.start()

    def _restart_valkey(self, how: ValkeyStop, pause: float) -> None:
        if how == "killed" and self._valkey.process is not None:
            self._valkey.process.kill()
            self._valkey.process.wait_end(PATIENCE)
        self._valkey.stop()
        if how == "emptied":
            shutil.rmtree(self._valkey.data_dir / "appendonlydir")
        time.sleep(pause)
        self._valkey.start()

    async def _do(self, work: Callable[[], object]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._hands, work)


@asynccontextmanager
async def running(
    folder: Path, *, apis: int = 1, workers: int = 0, proxied: bool = False, **environment: str
) -> AsyncIterator[Cluster]:
    """An installation with so many processes; `environment` is theirs. All of them serve when the block begins."""
    async with AsyncExitStack() as stack:
        model = stack.enter_context(RemoteModelServer.start())
        cluster = Cluster(folder, model, proxied=proxied)
        stack.push_async_callback(cluster.end)
        await cluster.begin()
        cluster.environment |= environment
        for _ in range(apis):
            cluster.add("api")
        for _ in range(workers):
            cluster.add("worker")
        await cluster.ready()
        yield cluster


@contextmanager
def place() -> Iterator[Path]:
    """A folder that Postgres can reach as another user."""
    with tempfile.TemporaryDirectory(prefix="assistantd-chaos-") as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


async def until(true: Callable[[], bool | Awaitable[bool]], what: str, patience: float = PATIENCE) -> None:
    """Wait until something is true. Raises TimeoutError that says what never was."""
    deadline = time.monotonic() + patience
    while True:
        held = true()
        if held if isinstance(held, bool) else await held:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"never came true: {what}")
        await asyncio.sleep(POLL)


async def _serves(slot: Slot) -> bool:
    if slot.kind == "worker":
        return slot.life.has_said("worker_ready")
    return await asyncio.to_thread(_answers, f"{slot.base_url}/readyz")


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5) as response:  # noqa: S310  # our own http
            return bool(response.status == 200)
    except (URLError, OSError):
        return False
