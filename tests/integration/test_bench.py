"""The parts that benches measure with: a model that official clients understand, a listener that counts torn tokens."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from functools import partial

import openai
import orjson
import pytest
from openai.types.chat import ChatCompletionMessageParam

import bench.__main__ as command
from bench.client import CHAT, Client, Connection
from bench.model_server import Server
from bench.report import Options, Table
from bench.scripts import FUNCTION, UnknownScriptError, script, seconds_of
from bench.undisturbed import undisturbed

STREAMED = {"stream": True, "messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture
async def model() -> AsyncIterator[str]:
    """The base URL of the scripted model."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(partial(Server, loop), "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    server.close()


class Wire(asyncio.Transport):
    """What was written, for a connection whose other end is the test."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)


async def test_the_official_client_hears_every_token_of_a_scripted_reply(model: str) -> None:
    async with openai.AsyncOpenAI(base_url=model, api_key="k", max_retries=0) as client:
        stream = await client.chat.completions.create(
            model="bench-paced-7-1-1",
            messages=[{"role": "user", "content": "Hello"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == " lorem" * 7
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 7


async def test_a_scripted_model_calls_functions_for_as_many_rounds_as_its_name_says(model: str) -> None:
    async with openai.AsyncOpenAI(base_url=model, api_key="k", max_retries=0) as client:
        async with client.chat.completions.stream(
            model="bench-tools-1-3", messages=[{"role": "user", "content": "Hello"}]
        ) as first:
            asked = (await first.get_final_completion()).choices[0]
        calls = asked.message.tool_calls or []
        answers: list[ChatCompletionMessageParam] = [
            {"role": "tool", "tool_call_id": call.id, "content": "7"} for call in calls
        ]
        async with client.chat.completions.stream(model="bench-tools-1-3", messages=answers) as second:
            said = (await second.get_final_completion()).choices[0]

    assert asked.finish_reason == "tool_calls"
    assert [orjson.loads(call.function.arguments)["place"] for call in calls] == ["0-0", "0-1", "0-2"]
    assert {call.function.name for call in calls} == {FUNCTION}
    assert said.finish_reason == "stop"


async def test_the_load_generator_counts_what_the_model_sends_and_keeps_its_connection(model: str) -> None:
    client = Client(model)

    many = await client.hear("/chat/completions", orjson.dumps({"model": "bench-instant-40", **STREAMED}), CHAT)
    few = await client.hear("/chat/completions", orjson.dumps({"model": "bench-paced-5-1-1", **STREAMED}), CHAT)
    none = await client.hear("/chat/completions", orjson.dumps({"model": "unknown", **STREAMED}), CHAT)
    kept = len(client._free)
    await client.close()

    assert (many.status, many.tokens, many.ended) == (200, 40, True)
    assert (few.status, few.tokens, few.ended) == (200, 5, True)
    assert 0 < few.first <= few.total
    assert (none.status, none.ended) == (404, False)
    assert b"no such script" in none.body
    assert kept == 1


@pytest.mark.parametrize("size", [1, 2, 7, 19, 61, 4096])
async def test_tokens_are_counted_once_wherever_reads_tear_them(size: int) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    sent = head + script("bench-instant-40", 0)[0].data
    connection, wire = Connection(), Wire()
    connection.connection_made(wire)

    asked = asyncio.ensure_future(connection.request(b"GET /", CHAT, keep=False))
    await asyncio.sleep(0)
    for start in range(0, len(sent), size):
        connection.data_received(sent[start : start + size])
    answer = await asked

    assert wire.written == b"GET /"
    assert (answer.tokens, answer.ended) == (40, True)
    assert answer.reads == sorted(answer.reads)
    assert len(answer.reads) <= 40


def test_a_script_is_as_long_as_its_name_says() -> None:
    first, total = seconds_of("bench-ideal")

    assert (round(first, 3), round(total, 3)) == (0.05, 0.45)
    assert [round(second, 3) for second in seconds_of("bench-2s")] == [0.04, 2.0]
    with pytest.raises(UnknownScriptError):
        script("gpt-4o", 0)


def test_a_comparison_with_nothing_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "compare", "--quick"])

    with pytest.raises(SystemExit, match="2"):
        command.main()

    assert "--against TREE" in capsys.readouterr().err


def test_a_bench_that_is_interrupted_ends_what_it_started_and_says_so_in_its_status(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended = []

    def interrupted(_options: Options) -> Iterator[Table]:
        """Begins, and is interrupted."""
        try:
            yield from ()
            raise KeyboardInterrupt
        finally:
            ended.append(True)

    monkeypatch.setattr(sys, "argv", ["bench", "limits"])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(command, "allow_many", lambda: None)
    monkeypatch.setitem(command.SCENARIOS, "limits", interrupted)

    with pytest.raises(SystemExit, match="130"):
        command.main()

    assert ended


@pytest.mark.parametrize(
    ("taken", "best"),
    [([0.0], 0), ([0.5, 0.01], 1), ([0.5, 0.2, 0.8], 1)],
    ids=["quiet", "again", "the least disturbed"],
)
def test_a_round_of_which_the_host_took_a_part_is_measured_again(
    monkeypatch: pytest.MonkeyPatch, taken: list[float], best: int
) -> None:
    clock, rounds = [0.0], iter(range(len(taken)))
    monkeypatch.setattr("bench.undisturbed._stolen", lambda: clock[0])

    def measure() -> int:
        number = next(rounds)
        clock[0] += taken[number]
        return number

    found, stolen = undisturbed(measure, tries=3)

    assert (found, next(rounds, None)) == (best, None)
    assert stolen == pytest.approx(taken[best])
