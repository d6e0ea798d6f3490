"""What the model reads of a thread."""

from typing import Any

from orchestrator.execution.conversation import system, tell, told, units
from orchestrator.tables import Message, Run, RunStep
from orchestrator.wire.objects import text_part

RUN = Run(id="run_2", thread_id="thread_1", assistant_id="asst_1", expires_at=0, model="m", instructions="Be brief.")


def render(run: Run, history: list[Message | RunStep]) -> list[Any]:
    """All of it, as a prompt is put together."""
    return [*system(run), *tell(units(told(history)))]


def said(role: str, text: str, **fields: Any) -> Message:
    return Message(thread_id="thread_1", role=role, content=[text_part(text)], **fields)


def called(run_id: str, *outputs: str | None) -> RunStep:
    calls = [
        {"id": f"call_{place}", "type": "function", "function": {"name": "f", "arguments": "{}", "output": output}}
        for place, output in enumerate(outputs)
    ]
    details = {"type": "tool_calls", "tool_calls": calls}
    return RunStep(run_id=run_id, thread_id="thread_1", assistant_id="asst_1", type="tool_calls", step_details=details)


def test_instructions_come_first_and_turns_keep_their_order() -> None:
    history = [said("user", "hi"), said("assistant", "hello"), said("user", "bye")]

    assert render(RUN, list(history)) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "bye"},
    ]


def test_calls_of_earlier_runs_are_told_with_their_outputs() -> None:
    rendered = render(RUN, [said("user", "hi"), called("run_1", "a", "b"), said("assistant", "done", run_id="run_1")])

    assert [message["role"] for message in rendered] == ["system", "user", "assistant", "tool", "tool", "assistant"]
    assert [call["id"] for call in rendered[2]["tool_calls"]] == ["call_0", "call_1"]
    assert rendered[3] == {"role": "tool", "tool_call_id": "call_0", "content": "a"}


def test_text_and_calls_of_one_turn_become_one_message() -> None:
    rendered = render(RUN, [said("assistant", "Let me look.", run_id="run_1"), called("run_1", "a")])

    assert rendered[1]["content"] == "Let me look."
    assert len(rendered[1]["tool_calls"]) == 1


def test_calls_that_were_never_answered_stay_out() -> None:
    assert render(RUN, [said("user", "hi"), called("run_1", "a", None)])[-1]["role"] == "user"


def test_torn_messages_stay_out_and_cancelled_ones_stay_in() -> None:
    torn = said("assistant", "It is su", status="incomplete", incomplete_details={"reason": "run_failed"})
    open_ = said("assistant", "It", status="in_progress")
    cancelled = said("assistant", "It was", status="incomplete", incomplete_details={"reason": "run_cancelled"})

    assert [message["content"] for message in render(RUN, [torn, open_, cancelled])] == ["Be brief.", "It was"]


def test_image_files_stay_as_they_are_stored() -> None:
    image = {"type": "image_file", "image_file": {"file_id": "file-1", "detail": "low"}}
    message = Message(thread_id="thread_1", role="user", content=[text_part("What is it?"), image])

    assert render(RUN, [message])[-1]["content"] == [{"type": "text", "text": "What is it?"}, image]


def test_what_belongs_together_is_one_unit() -> None:
    history: list[Message | RunStep] = [
        said("user", "hi"),
        said("assistant", "Let me look.", run_id="run_1"),
        called("run_1", "a", "b"),
        called("run_1", "c"),
        said("assistant", "done", run_id="run_1"),
    ]

    found = units(told(history))

    assert [len(unit.messages) for unit in found] == [1, 3, 2, 1]
    assert [unit.said for unit in found] == [True, True, False, True]


def test_images_make_content_a_list_of_parts() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "auto"}}
    message = Message(thread_id="thread_1", role="user", content=[text_part("What is it?"), image])

    assert render(RUN, [message])[-1]["content"] == [{"type": "text", "text": "What is it?"}, image]
