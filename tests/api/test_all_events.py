"""Every event that the official client knows is told by some run; `error` is in test_envelope.py, under case 59."""

from typing import get_args

from openai.types.beta import AssistantStreamEvent

from tests.api.checks import Event
from tests.api.http import CALL, WEATHER, Http, outputs, path_of
from tests.fakes.model_control import RemoteModelServer

KNOWN = {get_args(event.model_fields["event"].annotation)[0] for event in get_args(get_args(AssistantStreamEvent)[0])}


def test_every_event_of_the_original_is_told(http: Http, hasty: Http, model: RemoteModelServer) -> None:
    assistant = http.assistant(tools=[WEATHER])["id"]
    expiring = hasty.start('[[text="one two" hold=expiry hold_after=1]]', assistant_id=assistant)
    told: list[Event] = []

    thread = {"messages": [{"role": "user", "content": CALL}]}
    told += http.stream("/threads/runs", {"assistant_id": assistant, "thread": thread})  # thread.created, calls
    waiting = told[-2].data
    submit = f"{path_of(waiting)}/submit_tool_outputs"
    told += http.stream(submit, outputs(waiting, "wet"))  # step.completed, an answer
    for said in ('[[text="one two" finish=length]]', '[[text="one two" drop=1]]'):  # incomplete, failed
        told += http.follow(http.finish(said, assistant_id=assistant))
    cancelled = http.start('[[text="one two" hold=cancel hold_after=1]]', assistant_id=assistant)
    model.wait_for(lambda state: state["gates"].get("cancel", {}).get("waiting") == 1)
    http.post(f"{path_of(cancelled)}/cancel")
    told += http.follow(cancelled)
    told += http.follow(http.wait(expiring, "expired"))

    assert {event.name for event in told} == KNOWN - {"error"} | {"done"}
    assert len(KNOWN) == 24
