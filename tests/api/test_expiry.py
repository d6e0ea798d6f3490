"""Expiry: a run's clock starts once, and what it ends is ended everywhere. Here runs live for three seconds."""

from collections.abc import Iterator

import pytest

from tests.api.checks import Json
from tests.api.http import CALL, WEATHER, Http, names, outputs, path_of, text_of
from tests.api.test_thread_lock import check_free
from tests.fakes.model_control import RemoteModelServer
from tests.stack import Stack


@pytest.fixture(scope="module")
def expired() -> dict[str, Json]:
    """Runs by the status in which they expired, once there are any: they wait together."""
    return {}


@pytest.fixture(scope="module")
def unheard_url(working: Stack) -> Iterator[str]:
    """An API process whose runs expire soon, and whose wake-ups reach no worker."""
    broker = working.environment["REDIS_URL"].removesuffix("/0") + "/1"
    with working.api(ASSISTANTD_RUN_LIFETIME="3", REDIS_URL=broker) as base_url:
        yield base_url


@pytest.fixture
def unheard(unheard_url: str, model: RemoteModelServer) -> Iterator[Http]:
    """Plain HTTP to it."""
    http = Http(unheard_url)
    with http.client:
        yield http


@pytest.fixture
def runs(expired: dict[str, Json], hasty: Http, unheard: Http, http: Http, model: RemoteModelServer) -> dict[str, Json]:
    """One that no worker took, one that waited for outputs, and one that was talking."""
    if not expired:
        queued = unheard.start("Hi")
        talking = hasty.start('[[text="one two" hold=mid hold_after=1]]')
        waiting = hasty.wait(hasty.start(CALL, tools=[WEATHER]), "requires_action")
        assert waiting["expires_at"] == waiting["created_at"] + 3
        expired["queued"] = http.wait(queued, "expired")
        expired["in_progress"] = http.wait(talking, "expired")
        model.wait_for(lambda state: state["disconnects"] == 1)  # nobody pays for what comes too late
        expired["requires_action"] = http.wait(waiting, "expired")
        expired["required_action"] = waiting["required_action"]
    return expired


@pytest.mark.parametrize("status", ["in_progress", "requires_action"])
def test_case_31_a_run_that_is_overdue_expires_with_its_step(http: Http, runs: dict[str, Json], status: str) -> None:
    run = runs[status]

    (step,) = http.steps(run)
    assert (step["status"], step["expires_at"], step["last_error"]) == ("expired", None, None)
    assert step["expired_at"] >= run["created_at"] + 3
    assert (run["required_action"], run["last_error"], run["completed_at"]) == (None, None, None)


@pytest.mark.parametrize("status", ["queued", "in_progress", "requires_action"])
def test_case_31_an_expired_run_still_says_when_its_time_was_over(
    http: Http, runs: dict[str, Json], status: str
) -> None:
    run = runs[status]

    assert run["expires_at"] == run["created_at"] + 3
    assert (run["started_at"] is None) == (status == "queued")
    assert (run["completed_at"], run["failed_at"], run["cancelled_at"]) == (None, None, None)


def test_case_31_an_expired_run_takes_no_outputs_and_no_cancel(http: Http, runs: dict[str, Json]) -> None:
    run = runs["requires_action"]
    body = outputs({"required_action": runs["required_action"]}, "too late")

    submitted = http.refused("POST", f"{path_of(run)}/submit_tool_outputs", body)
    cancelled = http.refused("POST", f"{path_of(run)}/cancel")

    assert submitted["message"] == 'Runs in status "expired" do not accept tool outputs.'
    assert cancelled["message"] == "Cannot cancel run with status 'expired'."


def test_what_was_said_until_then_is_kept_as_incomplete(http: Http, runs: dict[str, Json]) -> None:
    message = http.messages(runs["in_progress"]["thread_id"])[-1]

    assert (message["status"], message["incomplete_details"]) == ("incomplete", {"reason": "run_expired"})
    assert text_of(message) == "one"


def test_listeners_hear_that_a_run_has_expired(http: Http, runs: dict[str, Json]) -> None:
    ending = ["thread.message.incomplete", "thread.run.step.expired", "thread.run.expired", "done"]

    assert names(http.follow(runs["in_progress"]))[-4:] == ending


@pytest.mark.parametrize("status", ["queued", "in_progress", "requires_action"])
def test_case_20_an_expired_run_frees_its_thread(http: Http, runs: dict[str, Json], status: str) -> None:
    http.post(f"/threads/{runs[status]['thread_id']}/messages", {"role": "user", "content": "Hi"})

    check_free(http, runs[status])
