"""What models there are, and which of them assistants and runs may have."""

from collections.abc import Iterator

import openai
import pytest

from tests.api.checks import Json
from tests.api.http import Http
from tests.fakes.model_control import RemoteModelServer
from tests.fakes.models import MODELS
from tests.stack import Stack


def test_case_149_models_are_listed_and_retrieved(client: openai.OpenAI) -> None:
    listed = list(client.models.list())

    assert [model.id for model in listed] == list(MODELS)
    for model in listed:
        assert client.models.retrieve(model.id) == model
        assert (model.object, model.owned_by) == ("model", "scripted")


def test_case_149_a_name_may_hold_slashes_written_either_way(http: Http) -> None:
    assert http.get("/models/org/scripted") == http.get("/models/org%2Fscripted")


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("name", ["nothing", "org/nothing", "", "%F0%9F%92%A9", "x" * 3000, "%00"])
def test_case_149_an_unknown_model_is_not_found(http: Http, method: str, name: str) -> None:
    error = http.refused(method, f"/models/{name}", status=404)

    assert (error["param"], error["code"]) == ("model", "model_not_found")
    assert error["message"].startswith("The model '")
    assert error["message"].endswith("' does not exist")


def test_case_149_the_official_client_raises_what_programs_catch(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="The model 'nothing' does not exist") as caught:
        client.models.retrieve("nothing")

    assert caught.value.code == "model_not_found"


def test_a_model_of_the_model_server_cannot_be_deleted(client: openai.OpenAI) -> None:
    with pytest.raises(openai.PermissionDeniedError, match="You have insufficient permissions for this operation"):
        client.models.delete("org/scripted")

    assert client.models.retrieve("org/scripted").id == "org/scripted"


UNUSABLE = ["text-embedding-3-small", "whisper-1", "dall-e-3", "tts-1-hd", "gpt-4o-mini-tts", "omni-moderation-latest"]


@pytest.mark.parametrize("name", UNUSABLE)
def test_case_108_a_model_that_does_not_converse_is_refused(http: Http, name: str) -> None:
    assistant, thread = http.assistant(), http.thread("Hi")
    body: Json = {"assistant_id": assistant["id"], "model": name}

    for path, given in {
        "/assistants": {"model": name},
        f"/assistants/{assistant['id']}": {"model": name},
        f"/threads/{thread['id']}/runs": body,
        "/threads/runs": {**body, "stream": True},
    }.items():
        error = http.refused("POST", path, given)
        assert error["message"] == f"The requested model '{name}' cannot be used with the Assistants API."
        assert (error["param"], error["code"]) == ("model", "unsupported_model")

    assert http.get(f"/threads/{thread['id']}/runs")["data"] == []
    assert http.get(f"/assistants/{assistant['id']}") == assistant


@pytest.fixture(scope="module")
def choosy_url(working: Stack) -> Iterator[str]:
    """An API process with lists of its own of what can be had and what not."""
    lists = {"ASSISTANTD_USABLE_MODELS": '["gpt-*", "org/*"]', "ASSISTANTD_UNUSABLE_MODELS": '["gpt-3.5-*"]'}
    with working.api(**lists) as base_url:
        yield base_url


@pytest.fixture
def choosy(choosy_url: str, model: RemoteModelServer) -> Iterator[Http]:
    """Plain HTTP to it."""
    http = Http(choosy_url)
    with http.client:
        yield http


def test_an_operator_may_say_which_models_there_are(choosy: Http) -> None:
    for name, code in {"o3-mini": "model_not_found", "gpt-3.5-turbo": "unsupported_model"}.items():
        error = choosy.refused("POST", "/assistants", {"model": name})
        assert (error["param"], error["code"]) == ("model", code)
    assert choosy.refused("POST", "/assistants", {"model": "x"})["message"] == "The requested model 'x' does not exist."

    for name in ("gpt-4o", "org/scripted"):
        assert choosy.assistant(model=name)["model"] == name


def test_any_other_name_is_taken_and_the_run_tells_that_there_is_no_such_model(
    http: Http, model: RemoteModelServer
) -> None:
    run = http.finish('[[fail=404 code=model_not_found message="no such model"]]', model="my-own-7b")

    assert run["last_error"] == {"code": "server_error", "message": "The model 'my-own-7b' does not exist."}
