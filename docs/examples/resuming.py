"""A stream that outlives deploys: whenever it breaks off it goes on behind the last event, at whichever server answers.

pip install openai
eval "$(./assistantd env)"      # sets OPENAI_BASE_URL and OPENAI_API_KEY, which the client reads
python docs/examples/resuming.py
"""

import json
import time
import warnings

import httpx2  # with openai before 3.0: httpx
from openai import APIConnectionError, InternalServerError, OpenAI, Stream
from openai.types.beta import AssistantStreamEvent

# OpenAI has retired this interface and says so on every call. Here it lives on.
warnings.filterwarnings("ignore", category=DeprecationWarning)

client = OpenAI()


def events(thread_id, assistant_id):
    """The events of a new run as (name, data), each of them once."""
    stream = client.beta.threads.runs.create(thread_id=thread_id, assistant_id=assistant_id, stream=True)
    path = stream.response.headers["content-location"].removeprefix("/v1")
    last_id = None
    while True:
        try:
            for event in frames(stream.response.iter_lines()):
                if event["event"] == "done":  # the run is at rest
                    return
                if event["event"] == "error":  # this server is about to end; the run is not
                    break
                last_id = event.get("id", last_id)  # what is told in place of lost events has none
                yield event["event"], json.loads(event["data"])
        except httpx2.TransportError:  # it ended without a word
            pass
        time.sleep(0.5)
        stream = follow(path, last_id)


def follow(path, last_id):
    """The events of a run behind the last that was heard, once a server answers."""
    headers = {"Last-Event-ID": last_id} if last_id else {}
    while True:
        try:
            return client.with_options(max_retries=0).get(  # they would wait longer and longer
                path,
                options={"headers": headers},
                cast_to=AssistantStreamEvent,
                stream=True,
                stream_cls=Stream[AssistantStreamEvent],
            )
        except (APIConnectionError, InternalServerError):
            time.sleep(0.5)


def frames(lines):
    """Server-sent events, each as a dictionary of its fields."""
    fields = {}
    for line in lines:
        if not line:
            if "event" in fields:
                yield fields
            fields = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value


assistant = client.beta.assistants.create(model=client.models.list().data[0].id)
thread = client.beta.threads.create(messages=[{"role": "user", "content": "Tell me a long story."}])

for name, data in events(thread.id, assistant.id):
    if name == "thread.message.created":
        said = ""
    elif name == "thread.message.delta":
        piece = data["delta"]["content"][0]["text"]["value"]
        said += piece
        print(piece, end="", flush=True)
    elif name == "thread.message.completed":  # has the whole text: if deltas were lost, here is the rest
        print(data["content"][0]["text"]["value"].removeprefix(said), end="", flush=True)
    elif name == "thread.message.incomplete":
        print("[cut short; the next message takes its place]")
    elif name.startswith("thread.run.") and "step" not in name and data["status"] not in ("queued", "in_progress"):
        print(f"\n[{data['status']}]")
