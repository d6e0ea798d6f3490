"""A client that does not read: its own stream waits, and nobody else's does."""

import asyncio
import socket

from orchestrator import ids
from orchestrator.events import frames
from orchestrator.events.follower import Follower
from orchestrator.events.frames import Frame, Track
from orchestrator.resources import Resources
from tests.integration.scene import all_sent
from tests.integration.test_events import DEADLINE, nothing, tell
from tests.integration.test_server import Served, is_full, serving, until

OTHERS = 199
LARGE = 256 * 1024
REQUEST = b"GET /stream?run=%b HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n"


def said(track: Track, count: int, text: str) -> list[Frame]:
    """That many deltas."""
    return [track.frame("thread.message.delta", frames.message_delta("msg_1", text, first=False)) for _ in range(count)]


async def heard(served: Served, run_id: str) -> bytes:
    """All that a client is sent that reads."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(REQUEST % run_id.encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_one_stalled_client_among_200_changes_nothing_for_the_others(bare: Resources) -> None:
    loud, plain = Track(ids.new("run_"), 1), Track(ids.new("run_"), 1)
    loop = asyncio.get_running_loop()
    follower = Follower(bare.subscriber, nothing, bare.settings)
    with socket.socket() as stalled:
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.setblocking(False)
        async with serving(follower) as served, asyncio.timeout(DEADLINE):
            await loop.sock_connect(stalled, ("127.0.0.1", served.port))
            await loop.sock_sendall(stalled, REQUEST % loud.run_id.encode())
            await until(lambda: len(served.server.server_state.connections) == 1)
            (connection,) = served.server.server_state.connections
            begun = said(plain, 1, "Hi")
            await tell(bare, *begun)
            others = [asyncio.create_task(heard(served, plain.run_id)) for _ in range(OTHERS)]

            told = 0
            while not is_full(connection):
                await tell(bare, *said(loud, 1, "x" * LARGE))
                await all_sent(bare)
                told += 1
            for _ in range(10):  # and more that waits for it
                await tell(bare, *said(loud, 1, "x" * LARGE), *said(plain, 5, "word"))
            end = plain.frame("thread.run.completed", b"{}")
            await tell(bare, end)
            answers = await asyncio.gather(*others)

            assert is_full(connection)  # it has waited all the time
            assert all(answer.count(b"\nevent: thread.message.delta\n") == 51 for answer in answers)
            assert all(end.data in answer and answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n") for answer in answers)

            await tell(bare, loud.frame("thread.run.completed", b"{}"))
            answer = b""
            while part := await loop.sock_recv(stalled, LARGE):
                answer += part
            assert answer.count(b"\nevent: thread.message.delta\n") == told + 10
            assert answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
