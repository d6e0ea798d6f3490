"""llama.cpp in this process: the one place that knows the library, whose types are unknown to the checker.

The library's own HTTP server listens on a unix socket in a private folder, and we talk to it there: its handlers then
run in its own threads, without the interpreter's lock, and a generation ends when we hang up. Nobody else can reach it.
"""

import math
import os
from collections.abc import AsyncGenerator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import orjson

from orchestrator.embedded.model.catalogue import ModelError
from orchestrator.embedded.model.scratch import scratch_folder
from orchestrator.foreign import Json

URL = "http://llama/v1/chat/completions"
MOST_THREADS = 8
PROMPT_CACHE_MIB = 64
SILENCE_TIMEOUT = 300.0
EVENT = b"data: "


@dataclass(frozen=True)
class EngineOptions:
    """`context` is what each of the `slots` has; `threads` 0 means as many as the CPUs that we may use suggest."""

    slots: int = 2
    context: int = 4096
    threads: int = 0


@dataclass(frozen=True)
class Usage:
    """Tokens that were read and written; cached ones are among those read."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(self.prompt + other.prompt, self.completion + other.completion, self.cached + other.cached)


@dataclass(frozen=True)
class Piece:
    """What came: some text, or why it ended, or how much it was."""

    text: str = ""
    finish: str | None = None
    usage: Usage | None = None


class EngineError(Exception):
    """The engine refused a prompt, or broke while it answered."""

    def __init__(
        self, status: int, kind: str, message: str, *, tokens: int | None = None, context: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message
        self.tokens = tokens
        self.context = context

    @property
    def is_too_long(self) -> bool:
        """Whether the prompt does not fit into the context."""
        return self.kind == "exceed_context_size_error"


class Engine:
    """A loaded model. Loading blocks for some seconds; leaving the context unloads it."""

    def __init__(self, path: Path, options: EngineOptions) -> None:
        self.options = options
        self._path = path
        self._server: Json = None
        self._session: aiohttp.ClientSession | None = None
        self._socket: Path | None = None
        self._cleanup = ExitStack()

    def __enter__(self) -> "Engine":
        try:
            import xllamacpp
        except ModuleNotFoundError as error:
            raise ModelError("llama.cpp is not installed. Install assistantd with the extra 'embedded'.") from error
        except ImportError as error:
            raise ModelError(f"llama.cpp cannot be loaded: {error}. On Debian: apt install libgomp1") from error
        with ExitStack() as cleanup:
            self._socket = cleanup.enter_context(scratch_folder()) / "llama.sock"
            try:
                self._server = xllamacpp.Server(self._parameters(xllamacpp.CommonParams(), self._socket))
            except (RuntimeError, ValueError) as error:
                raise ModelError(f"{self._path} could not be loaded. Is there enough memory? ({error})") from error
            self._cleanup = cleanup.pop_all()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._server = None  # its destructor ends the threads and frees the model
        self._cleanup.close()

    async def open(self) -> None:
        """Make the session. Connections are not kept: the library closes idle ones at moments of its own."""
        if self._socket is None:
            raise ModelError("The model is not loaded.")
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(path=str(self._socket), force_close=True, limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=SILENCE_TIMEOUT),
        )

    async def close(self) -> None:
        """Hang up."""
        if self._session is not None:
            await self._session.close()

    async def stream(self, prompt: Json) -> AsyncGenerator[Piece, None]:
        """Let the model answer `prompt`, a body of llama.cpp's own. Closing the iterator ends the generation."""
        if self._session is None:
            raise EngineError(503, "server_error", "The model is not open.")
        body = orjson.dumps(prompt | {"stream": True, "stream_options": {"include_usage": True}, "cache_prompt": True})
        try:
            async with self._session.post(URL, data=body, headers={"Content-Type": "application/json"}) as response:
                if response.status != 200:
                    raise _refusal(response.status, await response.read())
                async for line in response.content:
                    if line.startswith(EVENT) and not line.startswith(b"data: [DONE]"):
                        yield _piece(orjson.loads(line.removeprefix(EVENT)))
        except (aiohttp.ClientError, TimeoutError) as error:
            raise EngineError(500, "server_error", "The model stopped answering.") from error

    def _parameters(self, parameters: Json, socket: Path) -> Json:
        parameters.model.path = str(self._path)
        parameters.hostnames = [str(socket)]
        parameters.n_parallel = self.options.slots
        parameters.n_ctx = self.options.slots * self.options.context
        # Threads meet after each layer, so one that has to share its CPU holds up all: words get one thread less than
        # there are CPUs, as our own stack runs beside them. (2 busy CPUs: 9 tokens/s by one thread, 3 by two.)
        parameters.cpuparams.n_threads = self.options.threads or max(1, cpus() - 1)
        parameters.cpuparams_batch.n_threads = self.options.threads or cpus()
        parameters.n_threads_http = self.options.slots + 2
        parameters.cache_ram_mib = PROMPT_CACHE_MIB
        parameters.fit_params = False
        parameters.ui = False
        parameters.verbosity = 0
        parameters.offline = True
        return parameters


def cpus() -> int:
    """How many CPUs this process may use, as its affinity and its container allow, but not more than help."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        count = min(count, math.ceil(int(quota) / int(period)))
    return max(1, min(count, MOST_THREADS))


def _piece(chunk: Json) -> Piece:
    if "error" in chunk:
        raise EngineError(500, "server_error", str(chunk["error"].get("message", "The model broke off.")))
    usage = None
    if counted := chunk.get("usage"):
        cached = (counted.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
        usage = Usage(counted["prompt_tokens"], counted["completion_tokens"], cached)
    if not chunk["choices"]:
        return Piece(usage=usage)
    choice = chunk["choices"][0]
    return Piece(choice["delta"].get("content") or "", choice["finish_reason"], usage)


def _refusal(status: int, body: bytes) -> EngineError:
    try:
        error = orjson.loads(body)["error"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return EngineError(500, "server_error", "The model refused to answer.")
    tokens, context = error.get("n_prompt_tokens"), error.get("n_ctx")
    return EngineError(status, error.get("type", ""), error.get("message", ""), tokens=tokens, context=context)
