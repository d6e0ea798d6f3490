"""The API is killed while files arrive: a file is wholly there or not there, and what nobody owns is swept."""

import asyncio
import hashlib
import http.client
import json
import os
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import psutil
import pytest

from tests import stack as stacks
from tests.stack import API_KEY, Stack

DEADLINE = 60.0
LEASE = 3.0
"""Seconds; for the API processes that are killed while bytes arrive. A slow machine must not need longer by itself."""
ROUNDS = 2
FACTS = b'--xyz\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nvision\r\n'
FILE = b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n\r\n'
END = b"\r\n--xyz--\r\n"
LARGE = 512 * 1024 * 1024


@pytest.fixture(scope="module")
def own_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of this module's own, whose worker sweeps often; the tests start and kill API processes."""
    with stacks.running(tmp_path_factory.mktemp("chaos-files"), tapped=False) as ours:
        ours.start_worker(ASSISTANTD_STORAGE_SWEEP_INTERVAL="0.1")
        yield ours


class Api:
    """One API process."""

    def __init__(self, stack: Stack, lease: float = 600.0) -> None:
        self._stack = stack
        self.base_url = stack.start_api(ASSISTANTD_STORAGE_LEASE=str(lease))
        self._process = stack.processes[-1]

    @property
    def memory(self) -> int:
        """Bytes that the process has in memory."""
        return int(psutil.Process(self._process.pid).memory_info().rss)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self._stack.stop(self._process)

    def connect(self) -> http.client.HTTPConnection:
        """A connection of one's own."""
        address = urlsplit(self.base_url)
        return http.client.HTTPConnection(str(address.hostname), address.port, timeout=60)

    def ask(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Any:
        """The answer: bytes of a content, otherwise JSON."""
        connection = self.connect()
        try:
            headers = {"Authorization": f"Bearer {API_KEY}", "Content-Type": kind}
            connection.request(method, f"/v1{path}", body, headers, encode_chunked=not isinstance(body, bytes | None))
            answer = connection.getresponse()
            read = answer.read()
            assert answer.status == 200, read
            return read if path.endswith("/content") else json.loads(read)
        finally:
            connection.close()

    def upload(self, content: bytes) -> Any:
        """POST /files."""
        return self.ask("POST", "/files", FACTS + FILE + content + END, "multipart/form-data; boundary=xyz")

    def begin(self, *pieces: bytes) -> http.client.HTTPConnection:
        """A request that has sent these pieces and no end."""
        connection = self.connect()
        connection.putrequest("POST", "/v1/files")
        connection.putheader("Authorization", f"Bearer {API_KEY}")
        connection.putheader("Content-Type", "multipart/form-data; boundary=xyz")
        connection.putheader("Content-Length", "99999999")
        connection.endheaders()
        for piece in pieces:
            connection.send(piece)
        return connection


def until(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not what():
        assert time.monotonic() < deadline, f"{what} did not come true"
        time.sleep(0.02)


def stored(stack: Stack, folder: str = "*") -> list[Path]:
    return list((stack.folder / "files").glob(f"{folder}/**/blob_*"))


async def counted(stack: Stack, table: str) -> int:
    connection = await asyncpg.connect(stack.environment["DATABASE_URL"])
    try:
        return int(await connection.fetchval(f"SELECT count(*) FROM {table}"))  # noqa: S608  # our own names
    finally:
        await connection.close()


async def swept(stack: Stack) -> None:
    """Wait until every blob has an owner, and nothing is in the storage besides."""
    deadline = time.monotonic() + DEADLINE
    while True:
        loose = await counted(stack, "blobs WHERE file_id IS NULL AND part_id IS NULL")
        if not loose and len(stored(stack)) == await counted(stack, "blobs"):
            return
        assert time.monotonic() < deadline, f"{loose} loose blobs, {stored(stack)}"
        await asyncio.sleep(0.05)


async def test_bytes_whose_upload_was_killed_in_the_middle_are_swept(own_stack: Stack) -> None:
    api = Api(own_stack, LEASE)
    line = api.begin(FACTS, FILE, os.urandom(5_000_000))
    until(lambda: any(path.stat().st_size > 2_000_000 for path in stored(own_stack, "incoming")))

    api.kill()
    line.close()

    await swept(own_stack)
    assert await counted(own_stack, "files") == 0
    assert stored(own_stack) == []


async def test_bytes_that_arrived_before_the_kill_but_have_no_row_are_swept(own_stack: Stack) -> None:
    api = Api(own_stack, LEASE)
    line = api.begin(FACTS, FILE, os.urandom(3_000_000), b"\r\n--xyz\r\nContent-Dis")
    until(lambda: stored(own_stack, "objects"))
    assert await counted(own_stack, "files") == 0

    api.kill()
    line.close()

    await swept(own_stack)
    assert stored(own_stack) == []


async def test_whenever_the_api_is_killed_every_file_has_all_its_bytes_and_no_others_stay(own_stack: Stack) -> None:
    sums: dict[str, str] = {}
    with ThreadPoolExecutor(4) as pool:
        for _ in range(ROUNDS):
            api, over = Api(own_stack, LEASE), Event()
            clients: list[Future[None]] = [pool.submit(upload_until, api, over, sums) for _ in range(4)]
            until(lambda: any(stored(own_stack, "objects")))
            await asyncio.sleep(random.uniform(0.05, 0.4))  # the point: at any moment
            api.kill()
            over.set()
            for client in clients:
                client.result(DEADLINE)

    api = Api(own_stack)
    await swept(own_stack)
    found = api.ask("GET", "/files")["data"]
    assert {file["id"] for file in found} >= sums.keys()
    assert await counted(own_stack, "blobs") == len(found)
    for file in found:  # those too whose client never heard of it
        content = api.ask("GET", f"/files/{file['id']}/content")
        assert len(content) == file["bytes"]
        assert hashlib.sha256(content[32:]).digest() == content[:32]
        api.ask("DELETE", f"/files/{file['id']}")
    await swept(own_stack)
    assert stored(own_stack) == []
    api.kill()


def upload_until(api: Api, over: Event, sums: dict[str, str]) -> None:
    """Upload files that know their own checksum, until the server is gone."""
    while not over.is_set():
        content = os.urandom(random.choice((10, 1000, 300_000)))
        try:
            file = api.upload(hashlib.sha256(content).digest() + content)
        except (OSError, http.client.HTTPException, AssertionError):  # gone, or overtaken by its lease
            continue
        sums[file["id"]] = file["filename"]


async def test_an_upload_whose_completion_was_killed_is_pending_and_can_be_completed(own_stack: Stack) -> None:
    api = Api(own_stack)
    part = os.urandom(8_000_000)
    facts = {"filename": "a.bin", "purpose": "vision", "mime_type": "image/png", "bytes": 6 * len(part)}
    upload = api.ask("POST", "/uploads", json.dumps(facts).encode())
    data = b'--xyz\r\nContent-Disposition: form-data; name="data"; filename="data"\r\n\r\n' + part + END
    path = f"/uploads/{upload['id']}"
    parts = [api.ask("POST", f"{path}/parts", data, "multipart/form-data; boundary=xyz")["id"] for _ in range(6)]
    md5 = hashlib.md5(part * 6, usedforsecurity=False).hexdigest()
    body = json.dumps({"part_ids": parts, "md5": md5}).encode()
    line = api.connect()
    headers = {"Authorization": f"Bearer {API_KEY}", "Content-Type": "application/json"}
    line.request("POST", f"/v1{path}/complete", body, headers)
    await asyncio.sleep(0.03)  # in the middle of the checksum, or before or behind it: nothing may depend on that

    api.kill()
    line.close()
    api = Api(own_stack)
    if not await counted(own_stack, "files"):
        assert api.ask("POST", f"{path}/complete", body)["status"] == "completed"

    (file,) = api.ask("GET", "/files")["data"]
    assert api.ask("GET", f"/files/{file['id']}/content") == part * 6
    api.ask("DELETE", f"/files/{file['id']}")
    await swept(own_stack)
    api.kill()


async def test_a_file_for_which_the_disk_has_no_room_is_refused_and_nothing_of_it_stays(own_stack: Stack) -> None:
    """The system refuses the bytes behind a limit, as it does on a full disk."""
    api = Api(own_stack)
    process = psutil.Process(own_stack.processes[-1].pid)
    before, most = process.rlimit(psutil.RLIMIT_FSIZE)
    process.rlimit(psutil.RLIMIT_FSIZE, (2_000_000, most))
    line = api.connect()
    headers = {"Authorization": f"Bearer {API_KEY}", "Content-Type": "multipart/form-data; boundary=xyz"}
    line.request("POST", "/v1/files", FACTS + FILE + os.urandom(5_000_000) + END, headers)
    answer = line.getresponse()
    refusal = json.loads(answer.read())
    line.close()

    assert (answer.status, int(answer.headers["Retry-After"]) > 0) == (503, True), refusal
    assert refusal["error"].keys() == {"message", "type", "param", "code"}
    await swept(own_stack)
    assert stored(own_stack) == []
    file = api.upload(b"x" * 1_000_000)  # what has room is taken
    process.rlimit(psutil.RLIMIT_FSIZE, (before, most))
    api.ask("DELETE", f"/files/{file['id']}")
    api.kill()


async def test_case_135_a_file_of_512_mb_needs_no_memory(own_stack: Stack) -> None:
    """In and out. (Here for the process of its own, whose memory nothing else moves.)"""
    api = Api(own_stack)
    api.ask("DELETE", f"/files/{api.upload(b'x' * 1_000_000)['id']}")
    before = highest = api.memory
    block = os.urandom(1024 * 1024)

    def pieces() -> Iterator[bytes]:
        nonlocal highest
        yield FACTS + FILE
        for _ in range(LARGE // len(block)):
            yield block
            highest = max(highest, api.memory)
        yield END

    file = api.ask("POST", "/files", pieces(), "multipart/form-data; boundary=xyz")
    assert file["bytes"] == LARGE
    line = api.connect()
    line.request("GET", f"/v1/files/{file['id']}/content", headers={"Authorization": f"Bearer {API_KEY}"})
    answer = line.getresponse()
    for _ in range(LARGE // len(block)):
        assert answer.read(len(block)) == block
        highest = max(highest, api.memory)
    line.close()
    api.ask("DELETE", f"/files/{file['id']}")

    assert highest - before < 50 * 1024 * 1024
    api.kill()
