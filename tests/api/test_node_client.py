"""The official Node client, in the last release of each major line. The API sends comments often."""

import json
import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients import install, releases, replay
from tests.stack import API_KEY, Stack

NODE = shutil.which("node")
NPM = shutil.which("npm")
pytestmark = [
    pytest.mark.skipif(NODE is None or NPM is None, reason="needs node and npm"),
    pytest.mark.timeout(install.TEST_TIMEOUT),
]

SOURCE = Path(install.__file__).parent / "node"
CONVERSATIONS = {"openai": 100}
"""How many random conversations a release has; the newest is the one that is strict about overlaps."""
SILENT = {"openai-4": {"run"}, "openai-5": {"run"}, "openai-6": {"run"}}
"""Events that a release declares and never tells."""
KNOWS_NO_INCOMPLETE = {"openai-4"}
"""Releases whose streams raise when a run ends as incomplete, whatever a server does: they wait for another end."""
Told = dict[str, Any]


@pytest.fixture(scope="module")
def address(stack: Stack) -> Iterator[str]:
    """An API process that sends comments often."""
    with stack.api(ASSISTANTD_STREAM_PING="0.1") as base_url:
        yield base_url


@pytest.fixture(scope="module")
def player() -> Iterator[str]:
    """The base URL of a server that plays streams."""
    with replay.playing(replay.all_streams()) as base_url:
        yield base_url


@pytest.fixture(scope="module")
def modules() -> Path:
    """The folder with all releases."""
    return install.node_clients(str(NPM))


@pytest.fixture(
    scope="module",
    params=[pytest.param(release, marks=pytest.mark.through(releases.node(release))) for release in releases.NODE],
)
def release(request: pytest.FixtureRequest) -> str:
    """The package's name."""
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def told_by_all(
    modules: Path, stack: Stack, address: str, player: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Told]:
    """What each release of the client told."""
    stack.model.reset()
    folders = {release: tmp_path_factory.mktemp(release) for release in releases.NODE}
    return install.all_told(
        lambda release: tell(release, folders[release], modules, stack, address, player), releases.NODE
    )


@pytest.fixture(scope="module")
def told(release: str, told_by_all: dict[str, Told]) -> Told:
    """What one of them told."""
    return told_by_all[release]


def tell(release: str, folder: Path, modules: Path, stack: Stack, address: str, player: str) -> Told:
    """What client.mjs prints under one release of the client."""
    (folder / "node_modules").symlink_to(modules)
    for module in SOURCE.glob("*.mjs"):
        shutil.copy(module, folder)
    done = subprocess.run(
        [str(NODE), str(folder / "client.mjs"), release],
        env={**stack.environment, "OPENAI_BASE_URL": address, "OPENAI_API_KEY": API_KEY},
        input=json.dumps(
            {
                "base_url": player,
                "requests": {name: replay.request_for(stream) for name, stream in replay.all_streams().items()},
                "scripts": [script(seed, release) for seed in range(CONVERSATIONS.get(release, 20))],
            }
        ),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: Told = json.loads(done.stdout)
    assert told["version"] == releases.NODE[release]
    return told


def script(seed: int, release: str) -> str:
    """What a user says so that the model says and calls one thing and another, in several turns."""
    chance = random.Random(seed)
    turns = []
    for _ in range(chance.randint(1, 4)):
        said = f"tokens={chance.randint(1, 9)} " if chance.random() < 0.5 else ""
        calls = [f'tool{n}=get_weather:{{"city":"{"x" * chance.randint(0, 40)}"}}' for n in range(chance.randint(1, 5))]
        turns.append(f"[[{said}{' '.join(calls)}]]")
    ends = ["[[tokens=5]]", '[[refusal="I would rather not."]]']
    return " ".join(
        [*turns, chance.choice(ends if release in KNOWS_NO_INCOMPLETE else [*ends, "[[tokens=3 finish=length]]"])]
    )


def test_case_01_an_assistant_of_a_model_alone_has_every_default(told: Told) -> None:
    made = told["defaults"]["made"]

    assert made == told["defaults"]["read"]
    assert (made["object"], made["model"], made["tools"], made["tool_resources"]) == ("assistant", "m", [], {})
    assert (made["temperature"], made["top_p"], made["response_format"], made["metadata"]) == (1, 1, "auto", {})
    assert [made[name] for name in ("name", "description", "instructions")] == [None] * 3


def test_case_09_deltas_begin_empty_and_add_up_to_the_final_text(told: Told) -> None:
    text = "Hello from the model."

    assert told["streamText"] == {
        "text": text,
        "contents": [[{"type": "text", "text": {"value": text, "annotations": []}}]],
        "first": {"index": 0, "type": "text", "text": {"value": "Hello", "annotations": []}},
    }


def test_case_15_a_node_program_streams_a_run_that_calls_functions(told: Told) -> None:
    facts = told["streamCalls"]

    assert facts.get("raised") is None
    assert facts["statuses"] == ["requires_action", "completed"]
    assert [json.loads(arguments) for _, arguments in facts["calls"]] == [{"city": "Paris"}, {"city": "Rome"}]
    assert facts["assembled"] == facts["calls"]
    assert facts["texts"] == ["Rain, and sun."] * 2


def test_its_listeners_are_told_of_everything_in_order(told: Told, release: str) -> None:
    before, after = told["streamCalls"]["called"]
    end = [name for name in ("run", "end") if name not in SILENT.get(release, ())]

    calls = ["runStepCreated", "toolCallCreated", "runStepDelta", "toolCallDelta", "toolCallDone", *end]
    message = ["messageCreated", "textCreated", "messageDelta", "textDelta", "textDone", "messageDone"]
    assert before == ["connect", "event", *calls]
    assert after == ["connect", "event", "runStepDone", "runStepCreated", *message, *end]
    assert told["streamCalls"]["events"][0][-1] == "thread.run.requires_action"
    assert told["streamCalls"]["events"][1][-1] == "thread.run.completed"


def test_case_05_a_node_program_polls_a_run(told: Told) -> None:
    facts = {"status": "completed", "text": "Hello from the model.", "usage": True, "times": [True, True, None]}
    assert told["createAndPoll"] == facts


def test_case_30_a_node_program_walks_through_all_pages(told: Told) -> None:
    assert told["pageThrough"] == {"found": [*range(25)]}


def test_cases_24_and_25_a_node_program_catches_the_usual_classes_of_errors(told: Told) -> None:
    assert told["errors"] == {
        "unknown": ["NotFoundError", 404, None],
        "wrongType": ["BadRequestError", 400, "invalid_type"],
        "unauthenticated": ["AuthenticationError", 401, "invalid_api_key"],
    }


def test_case_54_random_conversations_never_overlap_their_steps_and_messages(told: Told, release: str) -> None:
    assert told["random"].get("raised") is None
    assert len(told["random"]["ends"]) == CONVERSATIONS.get(release, 20)
    assert set(told["random"]["ends"]) <= {"completed", "incomplete"}


@pytest.mark.parametrize("name", sorted(replay.all_streams()))
def test_case_159_a_stream_of_the_originals_form_is_read_as_it_was_meant(told: Told, release: str, name: str) -> None:
    facts = told["replayed"][name]

    expected = replay.outcome(replay.all_streams()[name])
    assert {key: facts[key] for key in expected} == expected
    assert facts["called"][-1] == "end"
    if name == "error":
        assert facts["raised"] == {"class": "APIError", "text": "Sorry, something went wrong."}
    elif name == "silence":
        assert facts["raised"]["class"] == "APIUserAbortError"
    elif name == "incomplete" and release in KNOWS_NO_INCOMPLETE:
        assert facts["raised"]["text"] == "Final run has not been received"
    else:
        assert facts["raised"] is None


def test_every_event_of_a_stream_is_told_to_its_listeners_by_one_stream_or_another(
    told: Told, release: str, modules: Path
) -> None:
    types = "".join(
        (modules / release / "lib" / f"{name}.d.ts").read_text() for name in ("AssistantStream", "EventStream")
    )
    blocks = re.findall(r"interface (?:AssistantStreamEvents|BaseEvents)\b[^{]*\{(.*?)\n\}", types, re.DOTALL)

    listed = set(re.findall(r"^ {4}(\w+): \(", "".join(blocks), re.MULTILINE))

    assert len(listed) > 15
    assert {name for facts in told["replayed"].values() for name in facts["called"]} == listed - SILENT.get(
        release, set()
    )


def test_every_method_of_the_clients_resources_works(told: Told) -> None:
    assert told["helpers"] == {"unknown": [], "raised": {}, "later": ["vectorStores"]}
