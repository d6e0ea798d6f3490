"""The requests that may be plain, as `Express` asks for them: each parses, asks `orchestrator.plain`, and shows.

An answer of None sends the request the long way, as it came. Nothing may have been done by then.
"""

import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar
from urllib.parse import parse_qsl

from fastapi import Response
from pydantic import BaseModel
from starlette.types import Receive

from api.leaving import Leaving
from api.polling import advice, poll_after
from api.responses import page, reply
from api.sse import Streams
from api.waiting import while_connected
from orchestrator import lifecycle, model_names
from orchestrator.errors import ClientError
from orchestrator.events.frames import START
from orchestrator.events.watcher import Watcher
from orchestrator.plain.verbs import Made, Plain
from orchestrator.projects import Keys
from orchestrator.resources import Resources
from orchestrator.settings import Settings
from orchestrator.tables import Run
from orchestrator.wire import objects
from orchestrator.wire.requests import (
    CreateMessage,
    CreateRun,
    CreateThreadAndRun,
    ListMessagesQuery,
    ListQuery,
    SubmitToolOutputs,
    WaitQuery,
)

Parsed = TypeVar("Parsed", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Means:
    """What the short way needs of the process."""

    settings: Settings
    plain: Plain
    keys: Keys
    streams: Streams
    watcher: Watcher
    leaving: Leaving


def means(resources: Resources, streams: Streams, watcher: Watcher, leaving: Leaving) -> Means | None:
    """Of these resources; None if there is no short way to the database."""
    settings, database = resources.settings, resources.database
    if database.direct is None:
        return None
    plain = Plain(database, database.direct, settings.run_lifetime)
    return Means(settings, plain, Keys(database.direct), streams, watcher, leaving)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: by whom, of which objects, and what it says."""

    means: Means
    project_id: str
    ids: tuple[str, ...]
    query: bytes
    body: bytes
    receive: Receive


class Verb(NamedTuple):
    """One of the requests that may be plain; `path` is its template, for the log."""

    method: str
    pattern: re.Pattern[str]
    path: str
    answer: Callable[[Asked], Awaitable[Response | None]]


async def _create_message(asked: Asked) -> Response | None:
    body = _body(asked, CreateMessage)
    (thread_id,) = asked.ids
    made = body and await asked.means.plain.add_message(asked.project_id, thread_id, body)
    return reply(objects.message(made)) if made else None


async def _list_messages(asked: Asked) -> Response | None:
    query = _query(asked, ListMessagesQuery)
    found = query and await asked.means.plain.list_messages(asked.project_id, asked.ids[0], query)
    return page(map(objects.message, found[0]), has_more=found[1]) if found else None


async def _create_run(asked: Asked) -> Response | None:
    body = _body(asked, CreateRun)
    (thread_id,) = asked.ids
    if body is None or not _usable(asked, body.model):
        return None
    made = await asked.means.plain.create_run(asked.project_id, thread_id, body)
    return await _started(asked, made, stream=body.stream)


async def _create_thread_and_run(asked: Asked) -> Response | None:
    body = _body(asked, CreateThreadAndRun)
    if body is None or not _usable(asked, body.model):
        return None
    made = await asked.means.plain.create_thread_and_run(asked.project_id, body)
    return await _started(asked, made, stream=body.stream)


async def _submit_tool_outputs(asked: Asked) -> Response | None:
    body = _body(asked, SubmitToolOutputs)
    thread_id, run_id = asked.ids
    resumed = body and await asked.means.plain.submit_tool_outputs(asked.project_id, thread_id, run_id, body)
    if not body or not resumed:
        return None
    run, cursor, step_id = resumed
    if body.stream:
        return asked.means.streams.of(thread_id, run_id, cursor, step_id)
    shown = objects.run(run)
    return reply(shown, advice(shown, asked.means.settings))


async def _list_runs(asked: Asked) -> Response | None:
    query = _query(asked, ListQuery)
    found = query and await asked.means.plain.list_runs(asked.project_id, asked.ids[0], query)
    return page(map(objects.run, found[0]), has_more=found[1]) if found else None


async def _retrieve_run(asked: Asked) -> Response | None:
    query = _query(asked, WaitQuery)
    if query is None:
        return None
    run = await _run(asked)
    if run is None:
        return None
    if query.wait and not lifecycle.at_rest(run):
        run = await _rested(asked, run, query.wait)
    if run is None:
        return None
    shown = objects.run(run)
    return reply(shown, advice(shown, asked.means.settings))


async def _rested(asked: Asked, run: Run | None, seconds: int) -> Run | None:
    """The run once it is at rest, or after so many seconds, or when the process leaves; None if it is gone by then."""
    means = asked.means
    (_, run_id) = asked.ids

    async def look() -> bool:
        nonlocal run
        run = await _run(asked)
        return run is None or lifecycle.at_rest(run)

    with means.leaving.awaited() as leaving:
        if not await while_connected(asked.receive, means.watcher.watch(run_id, seconds, look), leaving):
            await look()
    return run


async def _run(asked: Asked) -> Run | None:
    thread_id, run_id = asked.ids
    return await asked.means.plain.retrieve_run(asked.project_id, thread_id, run_id)


async def _started(asked: Asked, made: Made | None, *, stream: bool | None) -> Response | None:
    if made is None:
        return None
    run, data = made
    means = asked.means
    if stream:
        await means.plain.give_way()
        return means.streams.of(run.thread_id, run.id, START)
    return Response(data, headers=poll_after(run.created_at, means.settings), media_type="application/json")


def _usable(asked: Asked, model: str | None) -> bool:
    try:
        model_names.check(asked.means.settings, model)
    except ClientError:
        return False
    return True


def _body(asked: Asked, kind: type[Parsed]) -> Parsed | None:
    """The body; None if there is anything wrong with it. Read as FastAPI reads it."""
    if asked.query:
        return None
    try:
        return kind.model_validate(json.loads(asked.body))
    except (ValueError, RecursionError):
        return None


def _query(asked: Asked, kind: type[Parsed]) -> Parsed | None:
    """The query; None if there is anything wrong with it, or said twice."""
    pairs = parse_qsl(asked.query.decode("latin-1"), keep_blank_values=True)
    given = dict(pairs)
    try:
        return kind.model_validate(given) if len(given) == len(pairs) else None
    except ValueError:
        return None


_THREAD = "/v1/threads/(thread_[0-9A-Za-z]{1,64})"
_RUN = "(run_[0-9A-Za-z]{1,64})"
_OF_A_THREAD = "/v1/threads/{thread_id}"

VERBS: Final = (
    Verb("GET", re.compile(f"{_THREAD}/runs/{_RUN}"), f"{_OF_A_THREAD}/runs/{{run_id}}", _retrieve_run),
    Verb("POST", re.compile("/v1/threads/runs"), "/v1/threads/runs", _create_thread_and_run),
    Verb("POST", re.compile(f"{_THREAD}/runs"), f"{_OF_A_THREAD}/runs", _create_run),
    Verb(
        "POST",
        re.compile(f"{_THREAD}/runs/{_RUN}/submit_tool_outputs"),
        f"{_OF_A_THREAD}/runs/{{run_id}}/submit_tool_outputs",
        _submit_tool_outputs,
    ),
    Verb("POST", re.compile(f"{_THREAD}/messages"), f"{_OF_A_THREAD}/messages", _create_message),
    Verb("GET", re.compile(f"{_THREAD}/messages"), f"{_OF_A_THREAD}/messages", _list_messages),
    Verb("GET", re.compile(f"{_THREAD}/runs"), f"{_OF_A_THREAD}/runs", _list_runs),
)
