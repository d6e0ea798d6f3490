"""The conversations of sync_client.py through the asynchronous client, statement by statement."""

import json
from collections.abc import Awaitable, Callable

import openai
from openai import AsyncOpenAI

from tests.clients.async_handler import Handler
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


async def create_and_poll(client: AsyncOpenAI) -> Facts:
    """Two polled runs: on a thread, and with the thread made by the same call."""
    assistant = await an_assistant(client)
    thread = await client.beta.threads.create(messages=[{"role": "user", "content": GREET}])
    run = await client.beta.threads.runs.create_and_poll(
        thread_id=thread.id, assistant_id=assistant, poll_interval_ms=POLL, metadata={"k": "v"}
    )
    second = await client.beta.threads.create_and_run_poll(
        assistant_id=assistant, thread={"messages": [{"role": "user", "content": GREET}]}, poll_interval_ms=POLL
    )
    return {
        "statuses": [run.status, second.status],
        "texts": [await last_text(client, thread.id), await last_text(client, second.thread_id)],
        "metadata": run.metadata,
        "usage": run.usage is not None and run.usage.total_tokens > 0,
        "times": times(run),
        "listed": [found.id == run.id async for found in client.beta.threads.runs.list(thread.id)],
    }


async def stream(client: AsyncOpenAI, message: str = GREET) -> Facts:
    """A streamed answer, with a handler."""
    handler = Handler()
    thread = await client.beta.threads.create(messages=[{"role": "user", "content": message}])
    async with client.beta.threads.runs.stream(
        thread_id=thread.id, assistant_id=await an_assistant(client), event_handler=handler
    ) as streamed:
        await streamed.until_done()
    final = await handler.get_final_run()
    return {
        "status": final.status,
        "text": handler.text,
        "contents": handler.contents,
        "final_text": text_of((await handler.get_final_messages())[0]),
        "steps": [step.type for step in await handler.get_final_run_steps()],
        "called": handler.called,
        "events": handler.events,
    }


async def stream_slowly(client: AsyncOpenAI) -> Facts:
    """A streamed answer with silences, in which the server sends comments."""
    return await stream(client, SLOW)


async def stream_without_helper(client: AsyncOpenAI) -> Facts:
    """`stream=True`: the bare events."""
    thread = await client.beta.threads.create(messages=[{"role": "user", "content": GREET}])
    names: list[str] = []
    text = ""
    events = await client.beta.threads.runs.create(thread.id, assistant_id=await an_assistant(client), stream=True)
    async for event in events:
        note(names, event.event)
        if event.event == "thread.message.delta":
            text += "".join(
                part.text.value or "" for part in event.data.delta.content or () if part.type == "text" and part.text
            )
    return {"events": names, "text": text}


async def submit_tool_outputs_stream(client: AsyncOpenAI) -> Facts:
    """A streamed run that calls a function, and the stream that goes on with its output."""
    before, after = Handler(), Handler()
    thread = await client.beta.threads.create(messages=[{"role": "user", "content": CALL}])
    async with client.beta.threads.runs.stream(
        thread_id=thread.id, assistant_id=await an_assistant(client), event_handler=before
    ) as streamed:
        await streamed.until_done()
    waiting = await before.get_final_run()
    async with client.beta.threads.runs.submit_tool_outputs_stream(
        thread_id=thread.id, run_id=waiting.id, tool_outputs=outputs(waiting), event_handler=after
    ) as streamed:
        await streamed.until_done()
    return {
        "statuses": [waiting.status, (await after.get_final_run()).status],
        "arguments": [json.loads(arguments) for arguments in before.arguments.values()],
        "same_ids": list(before.arguments) == [call["tool_call_id"] for call in outputs(waiting)],
        "text": after.text,
        "called": [before.called, after.called],
        "events": [before.events, after.events],
        "outputs": outputs_of(
            [step async for step in client.beta.threads.runs.steps.list(waiting.id, thread_id=thread.id)]
        ),
    }


async def submit_tool_outputs_and_poll(client: AsyncOpenAI) -> Facts:
    """Two parallel calls of a polled run."""
    thread = await client.beta.threads.create(messages=[{"role": "user", "content": CALL_TWICE}])
    waiting = await client.beta.threads.runs.create_and_poll(
        thread_id=thread.id, assistant_id=await an_assistant(client), poll_interval_ms=POLL
    )
    run = await client.beta.threads.runs.submit_tool_outputs_and_poll(
        thread_id=thread.id, run_id=waiting.id, tool_outputs=outputs(waiting), poll_interval_ms=POLL
    )
    return {
        "statuses": [waiting.status, run.status],
        "cities": cities(waiting),
        "text": await last_text(client, thread.id),
        "outputs": outputs_of(
            [step async for step in client.beta.threads.runs.steps.list(run.id, thread_id=thread.id)]
        ),
    }


async def stream_parallel_calls(client: AsyncOpenAI) -> Facts:
    """Two parallel calls of a streamed run: what the client put together from deltas is what the run asks for."""
    handler = Handler()
    thread = await client.beta.threads.create(messages=[{"role": "user", "content": CALL_TWICE}])
    async with client.beta.threads.runs.stream(
        thread_id=thread.id, assistant_id=await an_assistant(client), event_handler=handler
    ) as streamed:
        await streamed.until_done()
    waiting = await handler.get_final_run()
    asked = {call.id: call.function.arguments for call in calls(waiting)}
    return {"status": waiting.status, "cities": cities(waiting), "as_asked": handler.arguments == asked}


async def page_through(client: AsyncOpenAI) -> Facts:
    """25 messages in pages of 10, both ways."""
    thread = await client.beta.threads.create()
    for number in range(25):
        await client.beta.threads.messages.create(thread.id, role="user", content=str(number))
    pages = {
        order: [
            int(text_of(found)) async for found in client.beta.threads.messages.list(thread.id, limit=10, order=order)
        ]
        for order in ("asc", "desc")
    }
    return {"forward": pages["asc"], "backward": pages["desc"]}


async def defaults(client: AsyncOpenAI) -> Facts:
    """An assistant of which nothing was said but its model."""
    made = await client.beta.assistants.create(model="m")
    return {"made": made.to_dict(), "read": (await client.beta.assistants.retrieve(made.id)).to_dict()}


async def errors(client: AsyncOpenAI) -> Facts:
    """Each refusal raises the class that programs catch."""
    stranger = client.with_options(api_key="sk-wrong")
    attempts: dict[str, Awaitable[object]] = {
        "unknown": client.beta.assistants.retrieve(UNKNOWN),
        "wrong_type": client.beta.threads.create(messages="hello"),  # type: ignore[arg-type]
        "unauthenticated": stranger.beta.threads.create(),
    }
    found = {}
    for name, attempt in attempts.items():
        try:
            await attempt
        except openai.APIStatusError as error:
            found[name] = described(error)
    return found


async def files(client: AsyncOpenAI) -> Facts:
    """A file in one request, and one in an upload of three parts."""
    sent = await client.files.create(file=("naïve 文.txt", b"abc"), purpose="vision")
    upload = await client.uploads.upload_file_chunked(
        file=b"0123456789" * 25, filename="long.png", bytes=250, mime_type="image/png", purpose="vision", part_size=100
    )
    assert upload.file is not None
    contents = [(await client.files.content(id_)).read().decode() for id_ in (sent.id, upload.file.id)]
    return {"sent": sent.to_dict(), "upload": upload.to_dict(), "contents": contents}


async def an_assistant(client: AsyncOpenAI) -> str:
    """A new assistant with a function."""
    assistant = await client.beta.assistants.create(model="gpt-4o", instructions="Help.", tools=[weather_tool()])
    return assistant.id


async def last_text(client: AsyncOpenAI, thread_id: str) -> str:
    """The newest message of a thread."""
    page = await client.beta.threads.messages.list(thread_id, limit=1)
    return text_of(page.data[0])


CONVERSATIONS: dict[str, Callable[[AsyncOpenAI], Awaitable[Facts]]] = {
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
