"""Cancelling: what it answers, what it leaves, and what somebody hears who is listening."""

import pytest

from tests.api.checks import check_stream, parse
from tests.api.http import Http, names, path_of, read_until, text_of
from tests.fakes.model_control import RemoteModelServer
from tests.fakes.replies import Reply


def test_case_38_a_run_in_progress_is_cancelling_and_then_cancelled(http: Http, model: RemoteModelServer) -> None:
    run = http.wait(http.start("[[text=never hold=busy]]"), "in_progress")
    model.wait_for(lambda state: state["open_streams"] == 1)

    cancelling = http.post(f"{path_of(run)}/cancel")
    cancelled = http.wait(run, "cancelled")

    assert (cancelling["status"], cancelling["cancelled_at"]) == ("cancelling", None)
    assert cancelling["expires_at"] == run["expires_at"]
    assert cancelled["cancelled_at"] >= cancelled["started_at"]
    assert (cancelled["expires_at"], cancelled["completed_at"], cancelled["last_error"]) == (None, None, None)
    model.wait_for(lambda state: state["disconnects"] == 1)  # nobody pays for what nobody hears


@pytest.mark.parametrize("status", ["queued", "requires_action"])
def test_case_39_a_run_that_waits_can_be_cancelled(http: Http, lonely: Http, status: str) -> None:
    run = lonely.start("Hi") if status == "queued" else http.ask_for_outputs()

    answer = http.post(f"{path_of(run)}/cancel")
    cancelled = http.wait(run, "cancelled")

    assert (answer["status"], answer["cancelled_at"], answer["required_action"]) == ("cancelling", None, None)
    assert cancelled["required_action"] is None
    assert [step["status"] for step in http.steps(run)] == ([] if status == "queued" else ["cancelled"])
    assert all(step["cancelled_at"] for step in http.steps(run))


def test_case_40_a_run_that_is_over_cannot_be_cancelled(http: Http) -> None:
    run = http.ask_for_outputs()
    http.post(f"{path_of(run)}/cancel")
    cancelled = http.wait(run, "cancelled")

    error = http.refused("POST", f"{path_of(run)}/cancel")

    assert error["message"] == "Cannot cancel run with status 'cancelled'."
    assert (error["param"], error["code"]) == (None, None)
    assert http.get(path_of(run)) == cancelled


@pytest.mark.parametrize("content", [b"", b"{}", b"null"])
def test_case_41_cancel_reads_no_body(http: Http, content: bytes) -> None:
    run = http.ask_for_outputs()

    response = http.client.post(f"{path_of(run)}/cancel", content=content, headers={"content-type": "application/json"})

    assert response.json()["status"] == "cancelling"


def test_case_42_a_listener_hears_the_run_being_cancelled(http: Http, model: RemoteModelServer) -> None:
    model.script(Reply.text("one two three").held("mid", after=2))
    body = {"assistant_id": http.assistant()["id"]}

    with http.streaming(f"/threads/{http.thread('Count')['id']}/runs", body) as lines:
        begun = read_until(lines, " two")
        run = parse("\n".join([*begun, ""]))[0].data
        http.post(f"{path_of(run)}/cancel")
        events = parse("\n".join([*begun, *lines, ""]))

    check_stream(events)
    assert names(events)[-5:] == [
        "thread.run.cancelling",
        "thread.message.incomplete",
        "thread.run.step.cancelled",
        "thread.run.cancelled",
        "done",
    ]
    cancelling, message, step, cancelled = (event.data for event in events[-5:-1])
    assert (cancelling["status"], cancelling["cancelled_at"]) == ("cancelling", None)
    assert message["incomplete_details"] == {"reason": "run_cancelled"}
    assert text_of(message) == "one two"
    assert step["cancelled_at"] >= step["created_at"]
    assert cancelled["cancelled_at"]
    assert http.messages(run["thread_id"])[-1] == message
    assert http.get(path_of(run)) == cancelled


def test_nothing_is_left_of_an_answer_that_was_cancelled_before_its_first_word(
    http: Http, model: RemoteModelServer
) -> None:
    model.script(Reply.text("Late.").held("word"))
    body = {"assistant_id": http.assistant()["id"]}

    with http.streaming(f"/threads/{http.thread('Hi')['id']}/runs", body) as lines:
        begun = read_until(lines, "thread.message.in_progress")
        run = parse("\n".join([*begun, next(lines), ""]))[0].data
        http.post(f"{path_of(run)}/cancel")
        rest = list(lines)

    assert [line.removeprefix("event: ") for line in rest if line.startswith("event: ")] == [
        "thread.run.cancelling",
        "thread.message.incomplete",
        "thread.run.step.cancelled",
        "thread.run.cancelled",
        "done",
    ]
    assert [message["role"] for message in http.messages(run["thread_id"])] == ["user"]
    assert http.steps(run) == []
