"""Conversations through the client as most programs use it. Each returns what a test wants to know, as plain JSON."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import openai
from openai import OpenAI

from tests.clients.facts import (
    CALL,
    CALL_TWICE,
    GREET,
    POLL,
    SLOW,
    UNKNOWN,
    Facts,
    calls,
    cities,
    described,
    note,
    outputs,
    outputs_of,
    text_of,
    times,
    weather_tool,
)
from tests.clients.sync_handler import Handler


def create_and_poll(client: OpenAI) -> Facts:
    """Two polled runs: on a thread, and with the thread made by the same call."""
    assistant = an_assistant(client)
    thread = client.beta.threads.create(messages=[{"role": "user", "content": GREET}])
    run = client.beta.threads.runs.create_and_poll(
        thread_id=thread.id, assistant_id=assistant, poll_interval_ms=POLL, metadata={"k": "v"}
    )
    second = client.beta.threads.create_and_run_poll(
        assistant_id=assistant, thread={"messages": [{"role": "user", "content": GREET}]}, poll_interval_ms=POLL
    )
    return {
        "statuses": [run.status, second.status],
        "texts": [last_text(client, thread.id), last_text(client, second.thread_id)],
        "metadata": run.metadata,
        "usage": run.usage is not None and run.usage.total_tokens > 0,
        "times": times(run),
        "listed": [found.id == run.id for found in client.beta.threads.runs.list(thread.id)],
    }


def stream(client: OpenAI, message: str = GREET) -> Facts:
    """A streamed answer, with a handler."""
    handler = Handler()
    thread = client.beta.threads.create(messages=[{"role": "user", "content": message}])
    with client.beta.threads.runs.stream(
        thread_id=thread.id, assistant_id=an_assistant(client), event_handler=handler
    ) as streamed:
        streamed.until_done()
    final = handler.get_final_run()
    return {
        "status": final.status,
        "text": handler.text,
        "contents": handler.contents,
        "final_text": text_of(handler.get_final_messages()[0]),
        "steps": [step.type for step in handler.get_final_run_steps()],
        "called": handler.called,
        "events": handler.events,
    }


def stream_slowly(client: OpenAI) -> Facts:
    """A streamed answer with silences, in which the server sends comments."""
    return stream(client, SLOW)


def stream_without_helper(client: OpenAI) -> Facts:
    """`stream=True`: the bare events."""
    thread = client.beta.threads.create(messages=[{"role": "user", "content": GREET}])
    names: list[str] = []
    text = ""
    for event in client.beta.threads.runs.create(thread.id, assistant_id=an_assistant(client), stream=True):
        note(names, event.event)
        if event.event == "thread.message.delta":
            text += "".join(
                part.text.value or "" for part in event.data.delta.content or () if part.type == "text" and part.text
            )
    return {"events": names, "text": text}


def submit_tool_outputs_stream(client: OpenAI) -> Facts:
    """A streamed run that calls a function, and the stream that goes on with its output."""
    before, after = Handler(), Handler()
    thread = client.beta.threads.create(messages=[{"role": "user", "content": CALL}])
    with client.beta.threads.runs.stream(
        thread_id=thread.id, assistant_id=an_assistant(client), event_handler=before
    ) as streamed:
        streamed.until_done()
    waiting = before.get_final_run()
    with client.beta.threads.runs.submit_tool_outputs_stream(
        thread_id=thread.id, run_id=waiting.id, tool_outputs=outputs(waiting), event_handler=after
    ) as streamed:
        streamed.until_done()
    return {
        "statuses": [waiting.status, after.get_final_run().status],
        "arguments": [json.loads(arguments) for arguments in before.arguments.values()],
        "same_ids": list(before.arguments) == [call["tool_call_id"] for call in outputs(waiting)],
        "text": after.text,
        "called": [before.called, after.called],
        "events": [before.events, after.events],
        "outputs": outputs_of(client.beta.threads.runs.steps.list(waiting.id, thread_id=thread.id)),
    }


def submit_tool_outputs_and_poll(client: OpenAI) -> Facts:
    """Two parallel calls of a polled run."""
    thread = client.beta.threads.create(messages=[{"role": "user", "content": CALL_TWICE}])
    waiting = client.beta.threads.runs.create_and_poll(
        thread_id=thread.id, assistant_id=an_assistant(client), poll_interval_ms=POLL
    )
    run = client.beta.threads.runs.submit_tool_outputs_and_poll(
        thread_id=thread.id, run_id=waiting.id, tool_outputs=outputs(waiting), poll_interval_ms=POLL
    )
    return {
        "statuses": [waiting.status, run.status],
        "cities": cities(waiting),
        "text": last_text(client, thread.id),
        "outputs": outputs_of(client.beta.threads.runs.steps.list(run.id, thread_id=thread.id)),
    }


def stream_parallel_calls(client: OpenAI) -> Facts:
    """Two parallel calls of a streamed run: what the client put together from deltas is what the run asks for."""
    handler = Handler()
    thread = client.beta.threads.create(messages=[{"role": "user", "content": CALL_TWICE}])
    with client.beta.threads.runs.stream(
        thread_id=thread.id, assistant_id=an_assistant(client), event_handler=handler
    ) as streamed:
        streamed.until_done()
    waiting = handler.get_final_run()
    asked = {call.id: call.function.arguments for call in calls(waiting)}
    return {"status": waiting.status, "cities": cities(waiting), "as_asked": handler.arguments == asked}


def page_through(client: OpenAI) -> Facts:
    """25 messages in pages of 10, both ways."""
    thread = client.beta.threads.create()
    for number in range(25):
        client.beta.threads.messages.create(thread.id, role="user", content=str(number))
    pages = {
        order: [
            int(text_of(message)) for message in client.beta.threads.messages.list(thread.id, limit=10, order=order)
        ]
        for order in ("asc", "desc")
    }
    return {"forward": pages["asc"], "backward": pages["desc"]}


def defaults(client: OpenAI) -> Facts:
    """An assistant of which nothing was said but its model."""
    made = client.beta.assistants.create(model="m")
    return {"made": made.to_dict(), "read": (client.beta.assistants.retrieve(made.id)).to_dict()}


def errors(client: OpenAI) -> Facts:
    """Each refusal raises the class that programs catch."""
    stranger = client.with_options(api_key="sk-wrong")
    attempts: dict[str, Callable[[], object]] = {
        "unknown": lambda: client.beta.assistants.retrieve(UNKNOWN),
        "wrong_type": lambda: client.beta.threads.create(messages="hello"),  # type: ignore[arg-type]
        "unauthenticated": lambda: stranger.beta.threads.create(),
    }
    found = {}
    for name, attempt in attempts.items():
        try:
            attempt()
        except openai.APIStatusError as error:
            found[name] = described(error)
    return found


def files(client: OpenAI) -> Facts:
    """A file in one request, and one in an upload of three parts."""
    sent = client.files.create(file=("naïve 文.txt", b"abc"), purpose="vision")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "long.png")
        path.write_bytes(b"0123456789" * 25)
        upload = client.uploads.upload_file_chunked(file=path, mime_type="image/png", purpose="vision", part_size=100)
    assert upload.file is not None
    contents = [(client.files.content(id_)).read().decode() for id_ in (sent.id, upload.file.id)]
    return {"sent": sent.to_dict(), "upload": upload.to_dict(), "contents": contents}


def an_assistant(client: OpenAI) -> str:
    """A new assistant with a function."""
    assistant = client.beta.assistants.create(model="gpt-4o", instructions="Help.", tools=[weather_tool()])
    return assistant.id


def last_text(client: OpenAI, thread_id: str) -> str:
    """The newest message of a thread."""
    return text_of(client.beta.threads.messages.list(thread_id, limit=1).data[0])


CONVERSATIONS: dict[str, Callable[[OpenAI], Facts]] = {
    "defaults": defaults,
    "create_and_poll": create_and_poll,
    "stream": stream,
    "stream_slowly": stream_slowly,
    "stream_without_helper": stream_without_helper,
    "submit_tool_outputs_stream": submit_tool_outputs_stream,
    "submit_tool_outputs_and_poll": submit_tool_outputs_and_poll,
    "stream_parallel_calls": stream_parallel_calls,
    "page_through": page_through,
    "errors": errors,
    "files": files,
}
