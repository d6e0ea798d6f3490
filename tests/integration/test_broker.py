"""The transport that fetches and acknowledges in batches, against a real Valkey and beside kombu's own.

Connections are used as a script would use them (`drain_events`); those of `worker` behave as under Celery's hub, which
sends acknowledgements before it waits. Whole workers on this transport: test_pool, test_broker_workers.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, cast
from uuid import uuid4

import pytest
from kombu import Connection, Consumer, Producer, Queue
from kombu.asynchronous import Hub
from redis import Redis

from tests.fakes.proxy import Proxy
from workers import batches
from workers.wake import Wake

OURS, STOCK = "workers.broker:Transport", "kombu.transport.redis:Transport"
NO_LIMIT = 0
PATIENCE = 60.0


@pytest.fixture
def redis(url: str) -> Iterator["Redis"]:
    with Redis.from_url(url, decode_responses=True) as redis:
        redis.flushall()
        yield redis


@pytest.fixture
def name() -> str:
    return f"queue-{uuid4().hex}"


class Listener:
    """A consumer of one queue; `heard` are the messages, `bodies` what they say."""

    def __init__(self, connection: Connection, name: str, prefetch: int, *, no_ack: bool = False) -> None:
        self.heard: list[Any] = []
        self.connection = connection
        self.channel = cast("Any", connection.channel())
        self.broken = False
        self.channel.basic_qos(0, prefetch, False)
        self.consumer: Any = Consumer(self.channel, [Queue(name)], on_message=self._hear, no_ack=no_ack)
        self.consumer.consume()

    def _hear(self, message: Any) -> None:
        self.heard.append(message)
        if self.broken:
            raise LookupError("broken")

    @property
    def bodies(self) -> list[int]:
        return [message.decode()["number"] for message in self.heard]

    def listen(self) -> int:
        """Take one batch, or nothing within a moment; returns how many messages came."""
        before = len(self.heard)
        with suppress(TimeoutError):
            self.connection.drain_events(timeout=0.1)
        return len(self.heard) - before

    def listen_for(self, count: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while len(self.heard) < count:
            assert time.monotonic() < deadline, f"heard {len(self.heard)} of {count}"
            self.listen()


class Opens(Protocol):
    def __call__(
        self, transport: str = OURS, *, prefetch: int = NO_LIMIT, at: str | None = None, **options: Any
    ) -> Listener: ...


@pytest.fixture
def opens(url: str, redis: "Redis", name: str) -> Iterator[Opens]:
    opened: list[Listener] = []

    def open_one(
        transport: str = OURS, *, prefetch: int = NO_LIMIT, at: str | None = None, no_ack: bool = False, **options: Any
    ) -> Listener:
        options = {"polling_interval": 0.05, "socket_timeout": 5, "socket_connect_timeout": 5, **options}
        connection = Connection(at or url, transport=transport, transport_options=options)
        opened.append(Listener(connection, name, prefetch, no_ack=no_ack))
        return opened[-1]

    yield open_one
    for listener in opened:
        listener.connection.release()


@pytest.fixture
def send(url: str, name: str) -> Iterator[Callable[..., None]]:
    with Connection(url, transport=STOCK) as connection:
        producer = Producer(connection.channel(), serializer="json")

        def send(numbers: range, **options: Any) -> None:
            for number in numbers:
                producer.publish({"number": number}, routing_key=name, **options)

        yield send


def held(redis: "Redis") -> int:
    """What Redis counts as unacknowledged; both of its books must agree."""
    assert set(cast("list[str]", redis.hkeys("unacked"))) == set(
        cast("list[str]", redis.zrange("unacked_index", 0, -1))
    )
    return int(redis.hlen("unacked"))


def waiting(redis: "Redis", name: str) -> int:
    return redis.llen(name)


# -- the same as kombu's -----------------------------------------------------------------------------------------------


def test_a_message_is_noted_just_as_the_stock_transport_notes_it(
    opens: Opens, send: Callable[..., None], redis: "Redis"
) -> None:
    noted = []
    for transport in (STOCK, OURS):
        send(range(3), headers={"größe": 'a"/\\b', "nothing": None, "deep": [[1.5, {}], []]})
        listener = opens(transport)
        listener.listen_for(3)
        noted.append([json.loads(entry) for entry in cast("list[str]", redis.hvals("unacked"))])
        for message in listener.heard:
            message.ack()
        listener.consumer.cancel()

    for message, _, _ in (*noted[0], *noted[1]):
        message["properties"]["delivery_tag"] = "any"
    assert len(noted[0]) == 3
    assert noted[0] == noted[1]
    assert held(redis) == 0


@pytest.mark.parametrize(("first", "second"), [(OURS, STOCK), (STOCK, OURS)])
def test_what_one_kind_of_worker_leaves_behind_the_other_finishes(
    opens: Opens, send: Callable[..., None], redis: "Redis", name: str, first: str, second: str
) -> None:
    send(range(20))
    leaving = opens(first, prefetch=10)
    leaving.listen_for(10)
    for message in leaving.heard[:4]:
        message.ack()
    assert held(redis) == 6

    leaving.connection.release()

    assert (held(redis), waiting(redis, name)) == (0, 16)
    staying = opens(second)
    staying.listen_for(16)
    assert sorted([*leaving.bodies[:4], *staying.bodies]) == list(range(20))
    assert sum(bool(message.delivery_info.get("redelivered")) for message in staying.heard) == 6
    for message in staying.heard:
        message.ack()
    assert held(redis) == 0


def test_messages_of_a_higher_priority_come_first(opens: Opens, send: Callable[..., None]) -> None:
    send(range(5), priority=9)
    send(range(5, 8), priority=3)
    send(range(8, 9), priority=0)

    listener = opens()
    listener.listen_for(9)

    assert listener.bodies == [8, 5, 6, 7, 0, 1, 2, 3, 4]


def test_what_needs_no_acknowledgement_is_not_noted(opens: Opens, send: Callable[..., None], redis: "Redis") -> None:
    send(range(5))

    listener = opens(no_ack=True)
    listener.listen_for(5)

    assert held(redis) == 0


# -- batches -----------------------------------------------------------------------------------------------------------


def test_many_messages_cost_few_commands(opens: Opens, send: Callable[..., None], redis: "Redis") -> None:
    send(range(200))
    redis.config_resetstat()
    listener = opens()
    listener.channel.connection.cycle.looped = True

    listener.listen_for(200)
    for message in listener.heard:
        message.ack()
    listener.listen()

    calls = {command: told["calls"] for command, told in redis.info("commandstats").items()}
    assert listener.bodies == list(range(200))
    assert held(redis) == 0
    assert calls["cmdstat_brpop"] <= 14
    assert calls["cmdstat_evalsha"] <= 12
    assert calls["cmdstat_exec"] <= 2  # all acknowledgements


@pytest.mark.parametrize("limit", [1, 3, 100])
def test_never_is_more_unacknowledged_than_the_limit(
    opens: Opens, send: Callable[..., None], redis: "Redis", name: str, limit: int
) -> None:
    send(range(40))
    listener = opens(prefetch=limit)
    listener.channel.connection.cycle.looped = True

    ended = 0
    while ended < 40:
        listener.listen_for(ended + 1)
        assert held(redis) <= limit
        assert held(redis) + waiting(redis, name) == 40 - ended
        for message in listener.heard[ended : ended + max(1, limit // 2)]:
            message.ack()
            ended += 1
        listener.channel.qos.flush()

    assert listener.bodies == list(range(40))


def test_what_ended_and_is_not_struck_off_yet_counts_against_the_limit(
    opens: Opens, send: Callable[..., None], redis: "Redis"
) -> None:
    send(range(10))
    listener = opens(prefetch=3)
    listener.channel.connection.cycle.looped = True
    listener.listen_for(3)

    for message in listener.heard:
        message.ack()

    assert held(redis) == 3
    assert not listener.channel.qos.can_consume()
    listener.channel.qos.flush()
    assert held(redis) == 0
    assert listener.channel.qos.can_consume()


def test_half_of_what_waits_is_left_to_others_unless_it_is_little(
    opens: Opens, send: Callable[..., None], redis: "Redis", name: str
) -> None:
    send(range(41))
    listener = opens()

    sizes = []
    while len(listener.heard) < 41:
        sizes.append(listener.listen())

    assert [size for size in sizes if size] == [21, 11, 9]


# -- under Celery's hub ------------------------------------------------------------------------------------------------


@pytest.fixture
def hub() -> Iterator[Any]:
    """A hub whose waits end at once: something is always there to be read."""
    hub, busy = Hub(), Wake()
    busy.set()
    hub.add_reader(busy.fileno(), lambda: None)
    yield hub
    hub.close()


def register(listener: Listener, hub: Any) -> None:
    """As Celery's consumer does for each connection that it makes."""
    listener.channel.connection.register_with_event_loop(listener.connection.connection, hub)


def turn_until(hub: Any, reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < deadline
        hub.run_once()


def turn_until_heard(hub: Any, listener: Listener, count: int) -> None:
    turn_until(hub, lambda: len(listener.heard) == count)


def test_what_is_known_to_wait_comes_with_the_same_command_by_which_what_ended_is_struck_off(
    opens: Opens, send: Callable[..., None], redis: "Redis", hub: Any, name: str
) -> None:
    send(range(60))
    listener = opens(prefetch=5)
    register(listener, hub)
    turn_until_heard(hub, listener, 5)
    redis.config_resetstat()

    for ended in range(0, 55, 5):
        for message in listener.heard[ended : ended + 5]:
            message.ack()
        hub.run_once()
        assert (len(listener.heard), held(redis), waiting(redis, name)) == (ended + 10, 5, 50 - ended)

    calls = {command: told["calls"] for command, told in redis.info("commandstats").items()}
    assert listener.bodies == list(range(60))
    assert calls["cmdstat_evalsha"] == 11
    assert "cmdstat_brpop" not in calls


def test_a_limit_that_was_lowered_is_reached_before_more_is_taken(
    opens: Opens, send: Callable[..., None], redis: "Redis", hub: Any
) -> None:
    send(range(60))
    listener = opens(prefetch=20)
    register(listener, hub)
    turn_until_heard(hub, listener, 20)

    def stands(left: int, heard: int) -> bool:
        return (held(redis), len(listener.heard)) == (left, heard)

    listener.channel.basic_qos(0, 10, False)

    for ended, left, heard in ((0, 15, 20), (5, 10, 20), (10, 10, 25)):
        for message in listener.heard[ended : ended + 5]:
            message.ack()
        turn_until(hub, partial(stands, left, heard))


def test_what_ends_when_the_hub_is_about_to_wait_makes_room_at_once(
    opens: Opens, send: Callable[..., None], hub: Any
) -> None:
    send(range(10))
    listener = opens(prefetch=5)
    register(listener, hub)
    turn_until_heard(hub, listener, 5)
    hub.run_once()  # what the first wait brought is seen to, and nothing is asked for

    for message in listener.heard:
        message.ack()

    assert hub._ready  # whoever acknowledges that late can see that the hub must not wait


def test_what_ended_is_struck_off_with_the_next_message_that_comes(
    opens: Opens, send: Callable[..., None], redis: "Redis", hub: Any
) -> None:
    listener = opens()
    register(listener, hub)
    for number in range(5):
        send(range(number, number + 1))
        turn_until_heard(hub, listener, number + 1)
        assert held(redis) <= 2
        listener.heard[-1].ack()

    turn_until(hub, lambda: held(redis) == 0)  # nothing comes any more


def test_a_message_is_delivered_before_redis_has_said_that_it_is_noted(
    opens: Opens, send: Callable[..., None], redis: "Redis", hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = opens()
    register(listener, hub)
    answer, delivered = batches.answer, []

    def answered(*asked: Any) -> Any:
        delivered.append(len(listener.heard))
        return answer(*asked)

    monkeypatch.setattr(batches, "answer", answered)
    turn_until(hub, lambda: listener.channel._in_poll)  # nothing waits
    send(range(1))
    turn_until_heard(hub, listener, 1)

    assert delivered == [1]
    assert held(redis) == 1


def test_a_message_that_is_rejected_before_redis_has_noted_it_does_not_come_again(
    opens: Opens, send: Callable[..., None], redis: "Redis", hub: Any
) -> None:
    listener = opens()
    register(listener, hub)
    turn_until(hub, lambda: listener.channel._in_poll)
    redis.script_flush()  # the script is sent a second time then, after the message is rejected

    def reject(message: Any) -> None:
        listener.heard.append(message)
        message.reject()

    listener.consumer.on_message = reject
    send(range(1))
    turn_until_heard(hub, listener, 1)

    turn_until(hub, lambda: held(redis) == 0)


def test_what_was_taken_is_given_back_when_the_message_failed_that_was_delivered_meanwhile(
    opens: Opens, send: Callable[..., None], redis: "Redis", name: str, hub: Any
) -> None:
    listener = opens()
    register(listener, hub)
    turn_until(hub, lambda: listener.channel._in_poll)
    listener.broken = True
    send(range(8))
    with pytest.raises(LookupError):
        turn_until_heard(hub, listener, 1)

    listener.connection.release()

    assert (held(redis), waiting(redis, name)) == (0, 8)


def test_messages_of_a_higher_priority_come_first_of_what_waits(
    opens: Opens, send: Callable[..., None], redis: "Redis", hub: Any
) -> None:
    send(range(20), priority=3)
    listener = opens(prefetch=4)
    register(listener, hub)
    turn_until_heard(hub, listener, 4)
    send(range(20, 22), priority=0)

    for message in listener.heard[:4]:
        message.ack()
    turn_until_heard(hub, listener, 8)

    assert listener.bodies == [0, 1, 2, 3, 20, 21, 4, 5]


def test_nothing_of_a_connection_stays_with_the_hub_when_it_is_closed(opens: Opens, hub: Any) -> None:
    for _ in range(3):
        listener = opens()
        register(listener, hub)
        hub.run_once()
        listener.connection.release()

    entries = [entry for _, _, entry in hub.timer._queue if not entry.canceled]
    assert not hub.on_tick
    assert not [entry for entry in entries if entry.fun.__name__ == "flush"]


def test_a_connection_registered_again_is_asked_once(opens: Opens, hub: Any) -> None:
    listener = opens()
    for _ in range(3):
        register(listener, hub)

    assert len(hub.on_tick) == 1
    assert len([entry for _, _, entry in hub.timer._queue if entry.fun.__name__ == "flush" and not entry.canceled]) == 1


def test_a_redis_that_refuses_the_script_is_asked_by_other_commands(
    opens: Opens, send: Callable[..., None], redis: "Redis", url: str, hub: Any
) -> None:
    redis.acl_setuser("plain", enabled=True, passwords=["+secret"], keys=["*"], channels=["*"], commands=["+@all"])
    send(range(20))
    listener = opens(at=f"redis://plain:secret@{url.rpartition('@')[2]}", prefetch=4)
    register(listener, hub)
    turn_until_heard(hub, listener, 4)
    redis.acl_setuser("plain", commands=["-@scripting"], enabled=True)

    for ended in range(0, 16, 4):
        for message in listener.heard[ended : ended + 4]:
            message.ack()
        turn_until_heard(hub, listener, ended + 8)

    assert listener.bodies == list(range(20))
    assert held(redis) == 4


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_a_redis_that_forgot_the_script_is_told_again(opens: Opens, send: Callable[..., None], redis: "Redis") -> None:
    listener = opens()
    for first in (0, 10):
        redis.script_flush()
        send(range(first, first + 10))
        listener.listen_for(first + 10)

    assert listener.bodies == list(range(20))
    assert held(redis) == 20


def test_a_redis_that_is_full_stops_no_message_that_is_in_hand(
    opens: Opens, send: Callable[..., None], redis: "Redis", name: str
) -> None:
    send(range(20))
    listener = opens()
    redis.config_set("maxmemory", 1)
    try:
        listener.listen_for(2)
        for message in listener.heard:
            message.ack()
        assert (held(redis), waiting(redis, name)) == (0, 18)
    finally:
        redis.config_set("maxmemory", 0)

    listener.listen_for(20)
    assert listener.bodies == list(range(20))
    assert held(redis) == 18


def test_a_redis_that_may_not_be_written_to_is_waited_for(
    opens: Opens, send: Callable[..., None], redis: "Redis", name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.broker.PAUSE", 0.0)
    listener = opens()
    send(range(5))
    redis.config_set("replica-serve-stale-data", "yes")
    redis.replicaof("127.0.0.1", "1")
    try:
        assert listener.listen() == 0
        assert listener.listen() == 0
    finally:
        redis.replicaof("NO", "ONE")

    listener.listen_for(5)
    assert listener.bodies == list(range(5))


def test_without_leave_for_scripts_it_works_as_the_stock_transport_does(
    opens: Opens, send: Callable[..., None], redis: "Redis", url: str
) -> None:
    redis.acl_setuser("plain", enabled=True, passwords=["+secret"], keys=["*"], channels=["*"], commands=["+@all"])
    redis.acl_setuser("plain", commands=["+@all", "-@scripting"], enabled=True)
    listener = opens(at=f"redis://plain:secret@{url.rpartition('@')[2]}")
    send(range(5))

    listener.listen_for(5)

    assert listener.bodies == list(range(5))
    assert held(redis) == 5
    for message in listener.heard:
        message.ack()
    assert held(redis) == 0


def test_what_is_no_message_is_dropped_and_the_others_come(
    opens: Opens, send: Callable[..., None], redis: "Redis", name: str
) -> None:
    redis.lpush(name, "no JSON", "{}", "[1]", '{"properties": {"delivery_tag": 1}}')
    send(range(10))
    redis.lpush(name, b"\xff", "null")

    listener = opens()
    listener.listen_for(10)
    listener.listen()

    assert listener.bodies == list(range(10))
    assert (held(redis), waiting(redis, name)) == (10, 0)


def test_what_a_batch_had_left_when_its_first_message_failed_is_given_back(
    opens: Opens, send: Callable[..., None], redis: "Redis", name: str
) -> None:
    send(range(8))
    listener = opens()
    listener.broken = True
    with pytest.raises(LookupError):
        listener.listen_for(1)
    assert held(redis) == 8

    listener.connection.release()

    assert (held(redis), waiting(redis, name)) == (0, 8)


@pytest.mark.parametrize("mode", ["refuse", "cut"])
def test_acknowledgements_that_cannot_be_sent_are_kept_and_sent_later(
    opens: Opens, send: Callable[..., None], redis: "Redis", url: str, mode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.unacknowledged.PAUSE", 0.0)
    send(range(6))
    with Proxy.before(url) as proxy:
        listener = opens(at=proxy.url, prefetch=5)
        listener.channel.connection.cycle.looped = True
        listener.listen_for(5)
        proxy.set_mode(mode)

        for message in listener.heard:
            message.ack()
        listener.channel.connection.cycle.flush()

        assert held(redis) == 5
        assert not listener.channel.qos.can_consume()  # so what is kept is bounded
        proxy.set_mode("pass")
        listener.channel.connection.cycle.flush()
        assert held(redis) == 0
        assert listener.channel.qos.can_consume()


def test_what_ended_is_not_given_back_when_that_could_not_be_said(
    opens: Opens, send: Callable[..., None], redis: "Redis", url: str, name: str
) -> None:
    send(range(5))
    with Proxy.before(url) as proxy:
        listener = opens(at=proxy.url)
        listener.channel.connection.cycle.looped = True
        listener.listen_for(5)
        for message in listener.heard:
            message.ack()
        proxy.set_mode("refuse")

        listener.connection.release()

        proxy.set_mode("pass")
        assert (held(redis), waiting(redis, name)) == (5, 0)  # the visibility timeout is for these


def test_the_visibility_timeout_brings_back_a_batch_unless_another_is_at_it(
    opens: Opens, send: Callable[..., None], redis: "Redis", name: str
) -> None:
    send(range(10))
    opens().listen_for(10)
    other = opens(visibility_timeout=0)
    redis.set("unacked_mutex", "another")

    other.channel.qos.restore_visible(interval=1, num=None)
    assert (held(redis), waiting(redis, name)) == (10, 0)

    redis.delete("unacked_mutex")
    other.channel.qos.restore_visible(interval=1, num=None)
    assert (held(redis), waiting(redis, name)) == (0, 10)
