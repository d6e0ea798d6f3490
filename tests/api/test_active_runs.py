"""What becomes of a run while another is active, where somebody has chosen: it waits for its turn, or takes it."""

import asyncio

import openai
import pytest

from tests.api.checks import Json, check_stream, parse
from tests.api.http import CALL, WEATHER, Http, names, outputs, path_of, read_until, text_of
from tests.fakes.model_control import RemoteModelServer
from tests.fakes.replies import Reply

ENQUEUE = {"on_active_run": "enqueue"}
INTERRUPT = {"on_active_run": "interrupt"}


def user(said: str) -> Json:
    return {"role": "user", "content": said}


def another(http: Http, run: Json, said: str | None = None, **fields: object) -> Json:
    """A further run on a run's thread."""
    brought = {} if said is None else {"additional_messages": [user(said)]}
    body = {"assistant_id": run["assistant_id"], **brought, **fields}
    return http.post(f"/threads/{run['thread_id']}/runs", body)


def texts(http: Http, run: Json) -> list[str]:
    return [text_of(message) for message in http.messages(run["thread_id"])]


def test_an_enqueued_run_waits_until_the_active_one_has_ended_and_then_sees_all_of_it(
    http: Http, model: RemoteModelServer
) -> None:
    model.script(Reply.text("first answer").held("first", after=1), Reply.text("second answer"))
    first = http.wait(http.start("first question"), "in_progress")

    second = another(http, first, "second question", **ENQUEUE)

    assert (second["status"], second["expires_at"]) == ("queued", second["created_at"] + 600)
    assert len(http.messages(first["thread_id"])) == 2  # the second question is not there yet
    assert [run["id"] for run in http.get(f"/threads/{first['thread_id']}/runs")["data"]] == [second["id"], first["id"]]
    model.release("first")
    assert http.wait(second, "completed", "queued", "in_progress")
    http.wait(second)
    assert texts(http, first) == ["first question", "first answer", "second question", "second answer"]
    asked = model.requests()[-1]["body"]["messages"]
    assert [message["content"] for message in asked] == ["first question", "first answer", "second question"]


def test_a_stream_of_an_enqueued_run_is_like_any_other_with_a_pause_in_it(
    http: Http, hasty: Http, model: RemoteModelServer
) -> None:
    active = http.ask_for_outputs()
    body = {"assistant_id": active["assistant_id"], "stream": True, **ENQUEUE}

    with hasty.streaming(f"/threads/{active['thread_id']}/runs", body) as lines:
        begun = read_until(lines, "event: thread.run.queued")
        pinged = read_until(lines, ": ping")
        http.post(f"{path_of(active)}/submit_tool_outputs", outputs(active))
        events = parse("\n".join([*begun, *pinged, *lines, ""]))

    check_stream(events)
    assert names(events)[:3] == ["thread.run.created", "thread.run.queued", "thread.run.in_progress"]
    assert names(events)[-2:] == ["thread.run.completed", "done"]


def test_a_waiting_run_is_cancelled_at_once_and_its_messages_never_appear(http: Http) -> None:
    active = http.ask_for_outputs()
    waiting = another(http, active, "never mind", **ENQUEUE)

    answer = http.post(f"{path_of(waiting)}/cancel")
    cancelled = http.get(path_of(waiting))
    http.post(f"{path_of(active)}/submit_tool_outputs", outputs(active))
    http.wait(active)

    assert (answer["status"], cancelled["status"]) == ("cancelling", "cancelled")
    assert cancelled["started_at"] is None
    assert names(http.follow(waiting)) == [
        "thread.run.created",
        "thread.run.queued",
        "thread.run.cancelling",
        "thread.run.cancelled",
        "done",
    ]
    assert "never mind" not in texts(http, active)


def test_messages_are_refused_while_runs_are_active_or_wait(http: Http) -> None:
    active = http.ask_for_outputs()
    another(http, active, **ENQUEUE)

    error = http.refused("POST", f"/threads/{active['thread_id']}/messages", user("x"))

    assert error["message"] == f"Can't add messages to {active['thread_id']} while a run {active['id']} is active."
    http.delete(f"/threads/{active['thread_id']}")


def test_a_waiting_run_expires_while_it_waits(http: Http, hasty: Http) -> None:
    active = http.ask_for_outputs()

    expired = hasty.wait(another(hasty, active, "too late", **ENQUEUE), "expired")

    assert expired["started_at"] is None
    assert names(http.follow(expired))[-2:] == ["thread.run.expired", "done"]
    assert http.get(path_of(active))["status"] == "requires_action"


def test_the_next_run_begins_when_the_active_one_expires_or_is_cancelled(http: Http, hasty: Http) -> None:
    expiring = hasty.ask_for_outputs()
    second = another(http, expiring, tools=[WEATHER], **ENQUEUE)
    third = another(http, expiring, tools=[], **ENQUEUE)

    http.wait(second, "requires_action")
    http.post(f"{path_of(second)}/cancel")

    assert http.wait(third)["status"] == "completed"
    assert http.get(path_of(expiring))["status"] == "expired"


async def test_twenty_runs_enqueued_at_once_run_one_after_another_in_their_order(
    http: Http, async_client: openai.AsyncOpenAI, model: RemoteModelServer
) -> None:
    assistant = http.assistant()
    thread = http.post("/threads", {"messages": [user("Hi")], **ENQUEUE})

    async def make(number: int) -> None:
        await async_client.beta.threads.runs.create(
            thread["id"], assistant_id=assistant["id"], additional_messages=[{"role": "user", "content": str(number)}]
        )

    await asyncio.gather(*(make(number) for number in range(20)))
    made = http.get(f"/threads/{thread['id']}/runs", order="asc", limit=100)["data"]
    ended = [await asyncio.to_thread(http.wait, run) for run in made]

    assert [run["status"] for run in ended] == ["completed"] * 20
    assert [run["started_at"] for run in ended] == sorted(run["started_at"] for run in ended)
    sizes = [len(request["body"]["messages"]) for request in model.requests()]
    assert sizes == [2 + 2 * turn for turn in range(20)]  # each began when the one before it had answered


def test_interrupt_takes_the_thread_and_keeps_what_was_said_so_far(http: Http, model: RemoteModelServer) -> None:
    model.script(Reply.text("one two three").held("mid", after=2), Reply.text("new answer"))
    assistant, thread = http.assistant(), http.thread("Count")
    runs = f"/threads/{thread['id']}/runs"

    with http.streaming(runs, {"assistant_id": assistant["id"]}) as lines:
        begun = read_until(lines, " two")
        old = parse("\n".join([*begun, ""]))[0].data
        new = another(http, old, "Stop", **INTERRUPT)
        events = parse("\n".join([*begun, *lines, ""]))

    check_stream(events)
    assert names(events)[-5:] == [
        "thread.run.cancelling",
        "thread.message.incomplete",
        "thread.run.step.cancelled",
        "thread.run.cancelled",
        "done",
    ]
    assert http.wait(new)["status"] == "completed"
    assert texts(http, new) == ["Count", "one two", "Stop", "new answer"]
    assert http.messages(thread["id"])[1]["incomplete_details"] == {"reason": "run_cancelled"}
    model.wait_for(lambda state: state["disconnects"] == 1)  # nobody pays for what nobody hears


def test_interrupt_takes_the_place_of_runs_that_wait_too(http: Http) -> None:
    active = http.ask_for_outputs()
    waiting = another(http, active, "too late", **ENQUEUE)

    new = another(http, active, "Stop", tools=[], **INTERRUPT)

    assert http.wait(new)["status"] == "completed"
    assert [http.get(path_of(run))["status"] for run in (active, waiting)] == ["cancelled", "cancelled"]
    assert "too late" not in texts(http, new)


def test_a_thread_says_what_its_runs_do_unless_they_say_it_themselves(http: Http) -> None:
    plain = http.thread("Hi")
    thread = http.post("/threads", ENQUEUE)
    assert "on_active_run" not in plain
    assert http.get(f"/threads/{thread['id']}")["on_active_run"] == "enqueue"
    assert http.post(f"/threads/{thread['id']}", {"metadata": {}})["on_active_run"] == "enqueue"

    body = {"assistant_id": http.assistant()["id"], "tools": [WEATHER], "additional_messages": [user(CALL)]}
    active = http.post(f"/threads/{thread['id']}/runs", body)
    waiting = http.post(f"/threads/{thread['id']}/runs", body)
    refused = http.refused("POST", f"/threads/{thread['id']}/runs", {**body, "on_active_run": "reject"})
    back = http.post(f"/threads/{thread['id']}", {"on_active_run": None})

    assert waiting["status"] == "queued"
    assert refused["message"] == f"Thread {thread['id']} already has an active run {active['id']}."
    assert "on_active_run" not in back
    http.delete(f"/threads/{thread['id']}")


def test_a_thread_that_comes_with_its_run_can_say_it_too(http: Http) -> None:
    body = {"assistant_id": http.assistant()["id"], "thread": {"messages": [user("Hi")], **INTERRUPT}}

    run = http.post("/threads/runs", body)

    assert http.get(f"/threads/{run['thread_id']}")["on_active_run"] == "interrupt"
    assert http.wait(run)["status"] == "completed"


@pytest.mark.parametrize("where", ["threads", "runs"])
def test_other_words_are_refused(http: Http, where: str) -> None:
    path = "/threads" if where == "threads" else f"/threads/{http.thread()['id']}/runs"
    body = {} if where == "threads" else {"assistant_id": http.assistant()["id"]}

    error = http.refused("POST", path, {**body, "on_active_run": "rollback"})

    assert error["message"] == (
        "Invalid value: 'rollback'. Supported values are: 'reject', 'enqueue', and 'interrupt'."
    )
    assert error["param"] == "on_active_run"


def test_a_run_that_makes_its_thread_meets_no_active_run_and_takes_no_such_wish(http: Http) -> None:
    error = http.refused("POST", "/threads/runs", {"assistant_id": http.assistant()["id"], **ENQUEUE})

    assert error["message"] == "Unknown parameter: 'on_active_run'."


def test_no_more_runs_wait_than_the_server_allows(http: Http) -> None:
    active = http.ask_for_outputs()
    for _ in range(32):
        another(http, active, **ENQUEUE)

    body = {"assistant_id": active["assistant_id"], **ENQUEUE}
    error = http.refused("POST", f"/threads/{active['thread_id']}/runs", body)

    text = (
        f"Thread {active['thread_id']} already has an active run {active['id']}, and 32 runs that wait for their turn."
    )
    assert error["message"] == text
    http.delete(f"/threads/{active['thread_id']}")


def test_who_follows_a_waiting_run_hears_that_its_thread_is_deleted(http: Http) -> None:
    active = http.ask_for_outputs()
    body = {"assistant_id": active["assistant_id"], **ENQUEUE}

    with http.streaming(f"/threads/{active['thread_id']}/runs", body) as lines:
        begun = read_until(lines, "event: thread.run.queued")
        http.delete(f"/threads/{active['thread_id']}")
        events = parse("\n".join([*begun, *lines, ""]))

    assert names(events)[-2:] == ["thread.run.cancelled", "done"]


def test_the_official_client_sends_the_wish_as_an_extra_field(http: Http, client: openai.OpenAI) -> None:
    active = http.ask_for_outputs()

    run = client.beta.threads.runs.create_and_poll(
        assistant_id=active["assistant_id"], thread_id=active["thread_id"], tools=[], extra_body=INTERRUPT
    )

    assert run.status == "completed"
