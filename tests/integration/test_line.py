"""A line to Redis of our own: answers find who asked, and whoever waits hears that it is lost."""

import asyncio
from collections.abc import Iterator

import hiredis
import pytest
from pydantic import SecretStr
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import TimeoutError as TookTooLong

from orchestrator import broker, ids
from orchestrator.events.line import Line, Push, Shared, pack
from orchestrator.resources import Resources
from orchestrator.settings import Settings
from tests.fakes.proxy import Proxy

DEADLINE = 60.0


@pytest.fixture
def proxy(bare_settings: Settings) -> Iterator[Proxy]:
    """What stands between a line and Redis."""
    with Proxy.before(bare_settings.redis_url.get_secret_value()) as proxy:
        yield proxy


async def number_of(shared: Shared) -> int:
    """The number that Redis gave to the connection."""
    (number,) = await shared.ask(pack("CLIENT", "ID"))
    return int(number)


async def test_each_gets_its_own_answers_in_order_and_a_refusal_is_an_answer(bare: Resources) -> None:
    line = await Line.opened(bare.redis, DEADLINE)
    key = ids.new("run_")

    several = line.ask(pack("SET", key, "x") + pack("LPUSH", key, "y") + pack("GET", key), 3)
    one = line.ask(pack("ECHO", "z"))

    done, refused, read = await several
    assert (done, read) == (b"OK", b"x")
    assert isinstance(refused, hiredis.ReplyError)
    assert await one == [b"z"]
    line.close()


async def test_who_is_cancelled_leaves_the_answers_of_others_alone(bare: Resources) -> None:
    line = await Line.opened(bare.redis, DEADLINE)

    first, second = line.ask(pack("ECHO", "1")), line.ask(pack("ECHO", "2"))
    first.cancel()

    assert await second == [b"2"]
    line.close()


async def test_what_is_said_unasked_is_heard_between_answers(bare: Resources) -> None:
    heard: list[Push] = []
    line = await Line.opened(bare.redis, DEADLINE, heard.append)
    channel = ids.new("run_")

    line.say(pack("SUBSCRIBE", channel))
    (answer,) = await line.ask(pack("PUBLISH", channel, "x"))

    assert answer == 1
    assert [push[0] for push in heard] == [b"subscribe", b"message"]
    line.close()


async def test_all_who_wait_are_told_when_nothing_comes_any_more(bare_settings: Settings, proxy: Proxy) -> None:
    redis = broker.connect(bare_settings.model_copy(update={"redis_url": SecretStr(proxy.url)}))
    line = await Line.opened(redis, DEADLINE)
    line._timeout = 0.1
    proxy.set_mode("blackhole")

    asked = [line.ask(pack("PING")) for _ in range(3)]

    for each in asked:
        with pytest.raises(TookTooLong):
            await asyncio.wait_for(each, DEADLINE)
    with pytest.raises(ConnectionLost):
        await line.ask(pack("PING"))
    await redis.aclose()


async def test_what_is_asked_over_a_line_that_was_closed_meanwhile_is_asked_again(bare: Resources) -> None:
    shared = Shared(bare.redis, DEADLINE)
    first = await number_of(shared)

    await bare.redis.client_kill_filter(_id=str(first))

    assert await asyncio.wait_for(number_of(shared), DEADLINE) != first
    await shared.close()


async def test_all_who_ask_at_once_share_one_line(bare: Resources) -> None:
    shared = Shared(bare.redis, DEADLINE)

    numbers = await asyncio.gather(*(number_of(shared) for _ in range(20)))

    assert len(set(numbers)) == 1
    await shared.close()


async def test_one_who_leaves_while_the_line_is_opened_keeps_nobody_from_it(bare: Resources) -> None:
    shared = Shared(bare.redis, DEADLINE)
    first, second = asyncio.create_task(number_of(shared)), asyncio.create_task(number_of(shared))
    await asyncio.sleep(0)

    first.cancel()

    assert await asyncio.wait_for(second, DEADLINE)
    await shared.close()


async def test_who_asks_while_nobody_listens_is_told_so(bare_settings: Settings, unused_tcp_port: int) -> None:
    nowhere = SecretStr(f"redis://127.0.0.1:{unused_tcp_port}/0")
    redis = broker.connect(bare_settings.model_copy(update={"redis_url": nowhere}))
    shared = Shared(redis, DEADLINE)

    with pytest.raises(ConnectionLost):
        await shared.ask(pack("PING"))

    await shared.close()
    await redis.aclose()
