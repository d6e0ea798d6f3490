"""The runs' verbs: what clients may do to a run. What workers do is in `execution`, what may follow in `lifecycle`."""

from typing import NamedTuple

from sqlalchemy import select
from sqlmodel import col

from orchestrator import assistants, closing, ids, lifecycle, places, threads, turns
from orchestrator.db import Session
from orchestrator.errors import InvalidRequest, NotFound
from orchestrator.events.frames import START, Cursor
from orchestrator.foreign import Json
from orchestrator.pages import page
from orchestrator.tables import EPOCH, Assistant, Run, RunStep, Thread, now
from orchestrator.wire import objects
from orchestrator.wire.requests import (
    CreateRun,
    CreateThreadAndRun,
    ListQuery,
    ModifyRun,
    SubmitToolOutputs,
)

OVERRIDES = ("model", "tools", "temperature", "top_p", "reasoning_effort", "response_format")
"""What a run takes from its assistant unless it says otherwise."""
OPTIONS = ("truncation_strategy", "tool_choice", "parallel_tool_calls", "max_prompt_tokens", "max_completion_tokens")

SAID = {*OVERRIDES, *OPTIONS, "instructions", "tool_resources"}


async def create(
    session: Session, project_id: str, thread_id: str, body: CreateRun, *, lifetime: int, room: int = 32
) -> Run:
    """Queue a run on the thread, after the messages that it brings along.

    While another run is active, the request, or else the thread, says what happens: the new one is refused, or it waits
    for its turn with its messages (at most `room` may), or all that are not over are cancelled, and it takes the thread
    as soon as the active one has ended. Raises InvalidRequest, and Busy if too many of the project wait for a place.
    `lifetime` is in seconds: the run expires that long after its creation.
    """
    thread = await threads.retrieve(session, project_id, thread_id, lock=True)
    standing = await turns.standing(session, project_id, thread.id)
    active = standing.active
    policy = body.on_active_run or thread.on_active_run
    if active and policy == "reject":
        raise InvalidRequest(f"Thread {thread.id} already has an active run {active}.")
    if active and policy == "enqueue" and await turns.waiting(session, thread.id) >= room:
        text = f"Thread {thread.id} already has an active run {active}, and {room} runs that wait for their turn."
        raise InvalidRequest(text)
    assistant = await assistants.retrieve(session, project_id, body.assistant_id)
    if standing.queued:
        await places.check_queue(session, project_id)
    run = _run(thread, assistant, body, lifetime, body.additional_instructions)
    if active and policy == "interrupt":
        for other in await closing.unfinished(session, thread.id):
            await closing.stop(session, other)
        standing = await turns.standing(session, project_id, thread.id)
    if standing.active:
        return await _wait(session, run, await threads.columns(session, thread, body.additional_messages or ()))
    await threads.add_messages(session, thread, body.additional_messages or ())
    return await _start(session, run, standing)


async def create_with_thread(session: Session, project_id: str, body: CreateThreadAndRun, *, lifetime: int) -> Run:
    """Make a thread and queue a run on it. `lifetime`, and what is raised, as in `create`."""
    assistant = await assistants.retrieve(session, project_id, body.assistant_id)
    thread = await threads.create(session, project_id, body.thread)
    standing = await turns.standing(session, project_id, thread.id)
    if standing.queued:
        await places.check_queue(session, project_id)
    run = _run(thread, assistant, body, lifetime, None)
    session.publish(run.id, run.attempt, "thread.created", objects.dump(objects.thread(thread)))
    return await _start(session, run, standing)


async def _start(session: Session, run: Run, standing: turns.Standing) -> Run:
    """Store a run that owns its thread, and wake a worker if there is a place for it."""
    run.placed = not standing.crowded
    run.wake_at = lifecycle.wake_later() if run.placed else None
    session.add(run)
    await session.flush()
    turns.tell_created(session, run)
    if run.placed:
        lifecycle.wake(session, run)
    else:
        await places.seek(session, run.project_id, until=run.id)
    return run


async def _wait(session: Session, run: Run, messages: list[turns.Columns]) -> Run:
    """Store a run that waits for its turn."""
    run.waiting, run.placed, run.additional_messages = True, False, messages
    session.add(run)
    await session.flush()
    turns.tell_created(session, run)
    return run


def _run(
    thread: Thread,
    assistant: Assistant,
    body: CreateRun | CreateThreadAndRun,
    lifetime: int,
    additional: str | None,
) -> Run:
    times: dict[str, Json] = {"created_at": EPOCH, "expires_at": EPOCH + lifetime}  # known once it is stored
    return Run(
        project_id=thread.project_id,
        thread_id=thread.id,
        assistant_id=assistant.id,
        **times,
        **_settings(assistant, body, additional),
    )


def _settings(assistant: Assistant, body: CreateRun | CreateThreadAndRun, additional: str | None) -> dict[str, Json]:
    """The columns that say how the run is to be done: a snapshot, later changes of the assistant do not reach it."""
    said = given(body)
    columns = {name: getattr(assistant, name) for name in OVERRIDES}
    columns |= {name: said[name] for name in (*OVERRIDES, *OPTIONS) if name in said}
    instructions = said.get("instructions", assistant.instructions)
    columns["instructions"] = "\n\n".join(part for part in (instructions, additional) if part) or instructions
    columns["metadata_"] = body.metadata
    columns["tool_resources"] = said.get("tool_resources", {})
    return columns


def given(body: CreateRun | CreateThreadAndRun) -> dict[str, Json]:
    """What the client has said of how the run is to be done."""
    said = body.model_dump(include=SAID, exclude_unset=True)
    return {name: value for name, value in said.items() if value is not None}


async def retrieve(
    session: Session, project_id: str, thread_id: str, run_id: str, *, lock: bool = False, ending: bool = False
) -> Run:
    """The run; with `lock`, its row stays locked until this transaction ends, and before it the thread's for those who
    are `ending` it. Raises InvalidRequest, NotFound.
    """
    ids.check("run_id", "run_", run_id)
    await threads.retrieve(session, project_id, thread_id, lock=ending)
    query = select(Run).where(col(Run.id) == run_id, col(Run.thread_id) == thread_id)
    run = (await session.execute(query.with_for_update(key_share=True) if lock else query)).scalar_one_or_none()
    if run is None:
        raise NotFound("run", run_id)
    return run


async def list_(session: Session, project_id: str, thread_id: str, query: ListQuery) -> tuple[list[Run], bool]:
    """A page of the thread's runs, and whether there are more."""
    await threads.retrieve(session, project_id, thread_id)
    return await page(session, Run, query, col(Run.thread_id) == thread_id)


async def modify(session: Session, project_id: str, thread_id: str, run_id: str, body: ModifyRun) -> Run:
    """Change the metadata; nothing else of a run is the client's to change."""
    run = await retrieve(session, project_id, thread_id, run_id, lock=True)
    if "metadata" in body.model_fields_set:
        run.metadata_ = body.metadata
    await session.flush()
    return run


async def cancel(session: Session, project_id: str, thread_id: str, run_id: str) -> Json:
    """Cancel a run; returns the wire object, `cancelling` as the original had it. Raises InvalidRequest if it is
    over.
    """
    run = await retrieve(session, project_id, thread_id, run_id, lock=True, ending=True)
    answer = await closing.stop(session, run)
    if answer is None:
        raise InvalidRequest(f"Cannot cancel run with status '{run.status}'.")
    return answer


class Resumed(NamedTuple):
    """A run that got its outputs, the cursor behind which its events go on, and the step that was answered."""

    run: Run
    cursor: Cursor
    step_id: str


async def submit_tool_outputs(
    session: Session, project_id: str, thread_id: str, run_id: str, body: SubmitToolOutputs
) -> Resumed:
    """Answer all calls that the run waits for, and queue it again.

    Raises InvalidRequest, and changes nothing, if the run does not wait or the outputs are not those of its calls.
    """
    run = await retrieve(session, project_id, thread_id, run_id, lock=True)
    if run.status != "requires_action":
        raise InvalidRequest(f'Runs in status "{run.status}" do not accept tool outputs.')
    outputs = _outputs(run, body)
    placed = not (await turns.standing(session, project_id, thread_id)).crowded
    values = {"project_id": project_id, "placed": placed, "wake_at": lifecycle.wake_later() if placed else None}
    queued = await lifecycle.move(session, run, "queued", attempt="next", tell=False, required_action=None, **values)
    if queued is None:
        raise InvalidRequest(f'Runs in status "{run.status}" do not accept tool outputs.')
    step_id = await _complete_step(session, queued, outputs)
    lifecycle.told(session, queued)
    if placed:
        lifecycle.wake(session, queued)
    else:
        await places.seek(session, project_id)
    return Resumed(queued, START._replace(attempt=queued.attempt), step_id)


def _outputs(run: Run, body: SubmitToolOutputs) -> dict[str, str]:
    action = run.required_action or {"submit_tool_outputs": {"tool_calls": []}}
    expected = [call["id"] for call in action["submit_tool_outputs"]["tool_calls"]]
    given = [output.tool_call_id for output in body.tool_outputs]
    if sorted(expected) != sorted(given):
        raise InvalidRequest(f"Expected tool outputs for call_ids {expected}, got {given}")
    return {output.tool_call_id: output.output or "" for output in body.tool_outputs}


async def _complete_step(session: Session, run: Run, outputs: dict[str, str]) -> str:
    query = select(RunStep).where(col(RunStep.run_id) == run.id, col(RunStep.status) == "in_progress")
    step = (await session.execute(query)).scalar_one()
    calls = [
        {**call, "function": {**call["function"], "output": outputs.get(call["id"], call["function"]["output"])}}
        for call in step.step_details["tool_calls"]
    ]
    step.step_details = {"type": "tool_calls", "tool_calls": calls}
    step.status, step.completed_at = "completed", now()
    await session.flush()
    data = objects.dump(objects.run_step(step, closing.expiry(run)))
    session.publish(run.id, run.attempt, "thread.run.step.completed", data)
    return step.id
