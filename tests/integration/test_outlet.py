"""The short way of deltas, over TCP: the client hears the same as by the long one."""

import asyncio

import pytest

from api.outlet import Outlet
from orchestrator import ids
from orchestrator.events.follower import Follower
from orchestrator.events.frames import Track
from orchestrator.resources import Resources
from tests.integration.scene import all_sent
from tests.integration.test_events import DEADLINE, nothing, tell
from tests.integration.test_server import serving, until
from tests.integration.test_stalled_client import REQUEST, said

FIRST = b"GET /stream?run=%b HTTP/1.1\r\nHost: server\r\n\r\n"
TOLD = 20


async def test_deltas_go_to_the_socket_as_they_are_heard_and_the_next_request_goes_on_behind_them(
    bare: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[bytes] = []
    write = Outlet.write

    def counted(outlet: Outlet, data: bytes) -> None:
        written.append(data)
        write(outlet, data)

    monkeypatch.setattr(Outlet, "write", counted)
    track = Track(ids.new("run_"), 1)
    async with serving(Follower(bare.subscriber, nothing, bare.settings)) as served, asyncio.timeout(DEADLINE):
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(FIRST % track.run_id.encode())
        begun = track.frame("thread.run.in_progress", b"{}")
        await tell(bare, begun)
        await reader.readuntil(begun.data)
        told = said(track, TOLD, "word")
        for delta in told:
            await tell(bare, delta)
            await all_sent(bare)
            await reader.readuntil(delta.data)  # each arrives before the next is told
        end = track.frame("thread.run.completed", b"{}")
        await tell(bare, end)
        rest = await reader.readuntil(b"\r\n0\r\n\r\n")
        writer.write(REQUEST % track.run_id.encode())
        again = await reader.read()
        writer.close()
        await writer.wait_closed()
        await until(lambda: not served.server.server_state.connections)

    assert written
    assert set(written) <= {delta.data for delta in told}
    assert end.data in rest
    assert begun.data in again
    assert again.count(b"\nevent: thread.message.delta\n") == TOLD
    assert again.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
