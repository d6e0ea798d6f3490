"""Following runs: joining, coming back, being late, going away; and comments on silent streams."""

import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest
import redis
from typing_extensions import override

from orchestrator.events import frames
from tests.api.checks import Event, Json, check_stream, parse
from tests.api.conftest import make_client
from tests.api.http import CALL, WEATHER, Http, names, outputs, path_of, read_until, text_of
from tests.fakes.model_control import RemoteModelServer
from tests.fakes.replies import Reply
from tests.stack import Stack


@pytest.fixture
def broker(stack: Stack) -> Iterator["redis.Redis"]:
    """The broker that holds the streams."""
    with redis.Redis.from_url(stack.environment["REDIS_URL"]) as broker:
        yield broker


def all_told(broker: "redis.Redis", run: Json) -> bytes:
    """All that was told of a run that rests, once it is: REST may show its end first."""
    deadline = time.monotonic() + 60
    while True:
        entries: Any = broker.xrange(f"run:{run['id']}:events")
        told = b"".join(fields[b"f"] for _, fields in entries)
        if told and frames.last_event(told) == f"thread.run.{run['status']}":
            return told
        assert time.monotonic() < deadline, told[-500:]
        time.sleep(0.02)


def test_a_follower_joins_a_run_under_way_and_misses_nothing(http: Http, model: RemoteModelServer) -> None:
    model.script(Reply.text("one two three four").held("mid", after=2))
    run = http.start("Count")
    model.wait_for(lambda state: state["gates"].get("mid", {}).get("waiting") == 1)

    with http.streaming(f"{path_of(run)}/events") as lines:
        begun = read_until(lines, '" two"')
        model.release("mid")
        events = parse("\n".join([*begun, *lines, ""]))

    check_stream(events)
    assert events == http.follow(run)
    assert names(events)[0] == "thread.run.created"
    assert names(events)[-2:] == ["thread.run.completed", "done"]


def test_a_stream_resumes_after_any_event_even_within_a_batch(http: Http) -> None:
    run = http.finish("[[tokens=30]]")  # at full speed: many deltas travel together
    events = http.follow(run)
    ids = [event.id for event in events[:-1]]
    assert len(set(ids)) == len(ids) == 30 + 10

    for place in range(len(ids) - 1):
        assert http.follow(run, last_event_id=ids[place]) == events[place + 1 :]


def test_a_client_that_comes_back_midway_hears_each_delta_once(http: Http, model: RemoteModelServer) -> None:
    model.script(Reply.text(tokens=20).held("mid", after=10))
    run = http.start("Count")
    with http.streaming(f"{path_of(run)}/events") as lines:
        begun = read_until(lines, "word9 ")
    heard = parse("\n".join([*begun, ""]))

    for place in (3, len(heard) - 1):
        with http.streaming(f"{path_of(run)}/events", headers={"Last-Event-ID": heard[place].id or ""}) as lines:
            again = [next(lines)] if place == 3 else []
            model.release("mid")
            rest = parse("\n".join([*again, *lines, ""]))
        check_stream(heard[: place + 1] + rest)
        said = [event.data for event in heard[: place + 1] + rest if event.name == "thread.message.delta"]
        assert [delta["delta"]["content"][0]["text"]["value"] for delta in said] == [f"word{n} " for n in range(20)]


def test_a_client_that_comes_back_again_and_again_while_words_flow_hears_each_event_once(http: Http) -> None:
    run = http.start("[[tokens=80 delay=0.02]]")
    heard: list[Event] = []
    while not heard or heard[-1].name != "done":
        lines: list[str] = []
        last = {"Last-Event-ID": heard[-1].id or ""} if heard else {}
        with http.streaming(f"{path_of(run)}/events", headers=last) as coming:
            while lines.count("") < 12 and (line := next(coming, None)) is not None:
                lines.append(line)
        heard += parse("\n".join([*lines, ""]))

    check_stream(heard)
    assert heard == http.follow(run)


@pytest.mark.parametrize("wrong", ["x", "1", "1-", "-1", "1-2-3", "1-x", "١-٢", "9" * 100, f"{2**63}-1", f"1-{10**30}"])
def test_a_wrong_last_event_id_is_refused(http: Http, wrong: str) -> None:
    run = http.finish("Hi")

    response = http.client.get(f"{path_of(run)}/events", headers=[(b"Last-Event-ID", wrong.encode())])

    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == "Last-Event-ID"


def test_who_comes_after_the_end_hears_the_outcome(http: Http) -> None:
    run = http.finish("Hi")
    last = http.follow(run)[-2]

    late = http.follow(run, last_event_id=last.id)

    assert late == [Event("thread.run.completed", run), Event("done", "[DONE]")]


def test_a_run_that_waits_for_outputs_is_at_rest(http: Http) -> None:
    run = http.ask_for_outputs()

    waiting = http.follow(run)
    http.wait(http.post(f"{path_of(run)}/submit_tool_outputs", outputs(run)))
    whole = http.follow(run)

    assert names(waiting)[-2:] == ["thread.run.requires_action", "done"]
    assert whole[: len(waiting) - 1] == waiting[:-1]
    assert names(whole)[-2:] == ["thread.run.completed", "done"]


@pytest.mark.parametrize("said", ["Hi", CALL])
def test_the_outcome_comes_from_postgres_when_redis_has_forgotten(http: Http, broker: "redis.Redis", said: str) -> None:
    run = http.wait(http.start(said, tools=[WEATHER]), "completed", "requires_action")
    all_told(broker, run)  # what came to Redis later would be remembered
    assert broker.delete(f"run:{run['id']}:events") == 1

    events = http.follow(run)

    assert events == [Event(f"thread.run.{run['status']}", run), Event("done", "[DONE]")]


def test_a_stream_that_is_lost_midway_still_ends_with_the_outcome(
    http: Http, model: RemoteModelServer, broker: "redis.Redis"
) -> None:
    model.script(Reply.text("one two three").held("mid", after=1))
    body = {"assistant_id": http.assistant()["id"]}

    with http.streaming(f"/threads/{http.thread('Count')['id']}/runs", body) as lines:
        begun = read_until(lines, '"one"')
        broker.flushdb()
        model.release("mid")
        events = parse("\n".join([*begun, *lines, ""]))

    check_stream(events)
    assert events[-2].data["status"] == "completed"


def test_what_is_gone_from_the_stream_is_told_from_postgres_once_the_run_rests(
    http: Http, broker: "redis.Redis"
) -> None:
    run = http.ask_for_outputs()
    told = all_told(broker, http.wait(http.post(f"{path_of(run)}/submit_tool_outputs", outputs(run))))
    whole = http.follow(run)
    middle = next(event for event in whole if event.name == "thread.message.delta")
    key, (cursor, last) = f"run:{run['id']}:events", frames.split(told)[-1]
    assert broker.delete(key) == 1
    broker.xadd(key, {"f": last}, id=str(cursor))

    late, resumed = http.follow(run), http.follow(run, last_event_id=middle.id)

    check_stream(late)
    ends = [(event.name, event.data["id"]) for event in whole if event.name.endswith(".completed")]
    assert [(event.name, event.data["id"]) for event in late if event.name.endswith(".completed")] == ends
    assert [(event.name, event.data["id"]) for event in resumed if event.name.endswith(".completed")] == ends
    assert late[-2] == Event("thread.run.completed", whole[-2].data)
    assert not [event for event in resumed if event.name.endswith((".created", ".delta"))]


def test_case_64_a_run_goes_on_when_its_client_goes_away(http: Http, model: RemoteModelServer) -> None:
    model.script(Reply.text("one two").held("mid", after=1))
    thread = http.thread("Count")

    with http.streaming(f"/threads/{thread['id']}/runs", {"assistant_id": http.assistant()["id"]}) as lines:
        next(lines)
    (run,) = http.get(f"/threads/{thread['id']}/runs")["data"]
    model.release("mid")

    assert http.wait(run)["status"] == "completed"
    assert text_of(http.messages(thread["id"])[-1]) == "one two"
    http.post(f"/threads/{thread['id']}/messages", {"role": "user", "content": "Thanks"})


class Listener(openai.AssistantEventHandler):
    """Remembers what it hears."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    @override
    def on_text_delta(self, delta, snapshot) -> None:  # type: ignore[no-untyped-def]
        self.text += delta.value or ""


def test_comments_on_a_silent_stream_do_not_disturb_the_official_client(
    http: Http, hasty_url: str, hasty: Http, model: RemoteModelServer
) -> None:
    run = http.ask_for_outputs()
    model.script(Reply.text("one two").held("mid", after=1))
    listener = Listener()
    answers = outputs(run)["tool_outputs"]

    with (
        make_client(hasty_url) as client,
        client.beta.threads.runs.submit_tool_outputs_stream(
            run_id=run["id"], thread_id=run["thread_id"], tool_outputs=answers, event_handler=listener
        ) as stream,
    ):
        next(stream)
        with hasty.streaming(f"{path_of(run)}/events") as lines:
            for _ in range(3):
                read_until(lines, ": ping")
        model.release("mid")
        stream.until_done()

    assert listener.text == "one two"
    ended = listener.current_run
    assert ended is not None
    assert ended.status == "completed"
