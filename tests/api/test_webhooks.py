"""Case 152: events of runs reach a receiver, signed so that the official clients' `webhooks.unwrap` accepts them."""

import asyncio
import base64
import hmac
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
from sqlalchemy import func, select
from sqlmodel import col

from orchestrator import db
from orchestrator.tables import WebhookDelivery
from orchestrator.webhooks import signed
from tests.api.checks import Json
from tests.api.http import Http, outputs, path_of
from tests.api.test_node_client import NODE, NPM, SOURCE
from tests.clients import install, releases
from tests.fakes.model_control import RemoteModelServer
from tests.fakes.receiver import Posted, Receiver
from tests.stack import ROOT, Stack

SECRET = "whsec_" + base64.b64encode(b"a secret of twenty-four b").decode()
OTHER = "whsec_" + base64.b64encode(b"somebody else's twenty-fo").decode()
TOLERANCE = 300
UNWRAP = """
import json, sys, openai
given = json.load(sys.stdin)
client = openai.OpenAI(api_key="sk-none")
event = client.webhooks.unwrap(given["body"], given["headers"], secret=given["secret"])
refused = []
for headers, secret in ((given["headers"], given["other"]), (given["old"], given["secret"])):
    try:
        client.webhooks.unwrap(given["body"], headers, secret=secret)
    except openai.InvalidWebhookSignatureError:
        refused.append(True)
print(json.dumps({"event": event.to_dict(), "refused": refused, "version": openai.__version__}))
"""


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.stop()


@pytest.fixture(scope="module")
def posting(working: Stack, receiver: Receiver) -> Iterator[Stack]:
    """An API process and a worker that post to the receiver, with a broker that nobody else listens to."""
    environment = {
        "REDIS_URL": working.environment["REDIS_URL"].removesuffix("/0") + "/2",
        "ASSISTANTD_WEBHOOK_URL": receiver.url,
        "ASSISTANTD_WEBHOOK_SECRET": SECRET,
        "ASSISTANTD_WEBHOOK_BACKOFF": "0.01",
        "ASSISTANTD_WEBHOOK_SWEEP_INTERVAL": "0.05",
    }
    worker = working.start_worker(**environment)
    with working.api(**environment) as base_url:
        yield replace(working, base_url=base_url)
    working.stop(worker)


@pytest.fixture
def hooked(posting: Stack, model: RemoteModelServer) -> Iterator[Http]:
    """Plain HTTP to that process."""
    http = Http(posting.base_url)
    with http.client:
        yield http


@pytest.fixture
def completed(hooked: Http, receiver: Receiver) -> tuple[Json, Posted]:
    """A run that has completed, and what was posted about it."""
    run = hooked.wait(hooked.start("Hi"), timeout=60)
    (posted,) = receiver.wait(1, run["id"])
    return run, posted


def waiting(stack: Stack, run: Json) -> int:
    """Events of this run that are not delivered."""
    about = col(WebhookDelivery.data)["id"].as_string() == run["id"]

    async def count() -> int:
        engine = db.engine(stack.settings)
        async with db.Session(engine) as session:
            found = (await session.execute(select(func.count()).where(about))).scalar_one()
        await engine.dispose()
        return int(found)

    return asyncio.run(count())


@pytest.mark.through(releases.OURS)
def test_case_152_the_official_client_unwraps_what_was_posted(completed: tuple[Json, Posted]) -> None:
    run, (headers, body) = completed
    client = openai.OpenAI(api_key="sk-none", webhook_secret=SECRET)

    event: Any = client.webhooks.unwrap(body, headers)

    assert event.id == headers["webhook-id"]
    assert event.id.startswith("evt_")
    assert (event.object, event.type) == ("event", "thread.run.completed")
    assert event.created_at >= run["created_at"]
    assert event.data.to_dict() == {"id": run["id"], "thread_id": run["thread_id"]}


def test_case_152_what_is_posted_is_signed_as_the_standard_says(completed: tuple[Json, Posted]) -> None:
    _, (headers, body) = completed
    text = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key = base64.b64decode(SECRET.removeprefix("whsec_"))

    expected = base64.b64encode(hmac.digest(key, text, "sha256")).decode()

    assert headers["webhook-signature"] == f"v1,{expected}"


@pytest.mark.through(releases.OURS)
def test_case_152_wrong_secrets_changed_bodies_and_old_ones_are_refused(completed: tuple[Json, Posted]) -> None:
    _, (headers, body) = completed
    client = openai.OpenAI(api_key="sk-none", webhook_secret=SECRET)
    now = int(time.time())
    sent_at = {age: signed(SECRET, headers["webhook-id"], now - age, body) for age in (TOLERANCE - 30, TOLERANCE + 30)}

    client.webhooks.verify_signature(body, sent_at[TOLERANCE - 30])
    for what, with_headers, secret in (
        (body, headers, OTHER),
        (body.replace(b"completed", b"failed"), headers, SECRET),
        (body, {**headers, "webhook-id": "evt_other"}, SECRET),
        (body, sent_at[TOLERANCE + 30], SECRET),
    ):
        with pytest.raises(openai.InvalidWebhookSignatureError):
            client.webhooks.unwrap(what, with_headers, secret=secret)


def for_another(completed: tuple[Json, Posted]) -> str:
    """What a client in another process is given."""
    _, (headers, body) = completed
    old = signed(SECRET, headers["webhook-id"], int(time.time()) - TOLERANCE - 30, body)
    return json.dumps({"body": body.decode(), "headers": headers, "old": old, "secret": SECRET, "other": OTHER})


@pytest.mark.timeout(install.TEST_TIMEOUT)
@pytest.mark.parametrize(
    "release",
    [pytest.param(name, marks=pytest.mark.through(releases.python(name))) for name in ("openai 1", "openai 2")],
)
def test_case_152_older_python_clients_unwrap_it_too(completed: tuple[Json, Posted], release: str) -> None:
    folder = install.python_client(ROOT / "tests" / "clients" / f"{release.replace(' ', '-')}.lock")

    done = subprocess.run(
        [sys.executable, "-S", "-c", UNWRAP],
        env={**os.environ, "PYTHONPATH": str(folder)},
        input=for_another(completed),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["version"] == releases.PYTHON[release]
    assert found["event"] == json.loads(completed[1][1])
    assert found["refused"] == [True, True]


@pytest.mark.timeout(install.TEST_TIMEOUT)
@pytest.mark.skipif(NODE is None or NPM is None, reason="needs node and npm")
@pytest.mark.parametrize(
    "release",  # the fourth knows no webhooks
    [
        pytest.param(name, marks=pytest.mark.through(releases.node(name)))
        for name in releases.NODE
        if name != "openai-4"
    ],
)
def test_case_152_node_unwraps_it_too(completed: tuple[Json, Posted], release: str, tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(install.node_clients(str(NPM)))
    script = shutil.copy(SOURCE / "webhooks.mjs", tmp_path)

    done = subprocess.run(
        [str(NODE), str(script), release],
        input=for_another(completed),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop("event") == json.loads(completed[1][1])
    assert set(found.values()) == {"InvalidWebhookSignatureError"}, found


def test_every_way_to_come_to_rest_is_told_once(hooked: Http, receiver: Receiver) -> None:
    asked = hooked.ask_for_outputs()
    hooked.post(f"{path_of(asked)}/submit_tool_outputs", outputs(asked))
    cancelled = hooked.ask_for_outputs()
    hooked.post(f"{path_of(cancelled)}/cancel")

    assert receiver.types(2, asked["id"]) == ["thread.run.requires_action", "thread.run.completed"]
    assert receiver.types(2, cancelled["id"]) == ["thread.run.requires_action", "thread.run.cancelled"]
    for said, status in (("[[fail=400]]", "failed"), ("[[tokens=9 finish=length]]", "incomplete")):
        run = hooked.finish(said)
        assert run["status"] == status
        assert receiver.types(1, run["id"]) == [f"thread.run.{status}"]


def test_what_the_receiver_refuses_comes_again_under_its_name_with_a_fresh_signature(
    hooked: Http, receiver: Receiver
) -> None:
    receiver.answers = [500, 302, 503]

    run = hooked.finish("Hi")

    posted = receiver.wait(4, run["id"])
    assert len({headers["webhook-id"] for headers, _ in posted}) == 1
    assert len({body for _, body in posted}) == 1
    for headers, body in posted:
        openai.OpenAI(api_key="sk-none").webhooks.unwrap(body, headers, secret=SECRET)


def test_a_receiver_that_was_away_hears_of_it_later(hooked: Http, posting: Stack, receiver: Receiver) -> None:
    receiver.stop()
    run = hooked.finish("Hi")
    assert waiting(posting, run) == 1

    receiver.start()

    assert receiver.types(1, run["id"]) == ["thread.run.completed"]


def test_nothing_is_noted_where_nobody_wants_to_hear(http: Http, working: Stack, receiver: Receiver) -> None:
    run = http.finish("Hi")

    assert waiting(working, run) == 0
    assert not [body for _, body in receiver.got if run["id"] in body.decode()]
