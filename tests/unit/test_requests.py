"""What strict bodies accept, what they make of it, and that no text slips through them unchecked."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from orchestrator import ids
from orchestrator.errors import InvalidRequest
from orchestrator.wire.requests import (
    CompleteUpload,
    CreateAssistant,
    CreateFile,
    CreateMessage,
    CreateRun,
    CreateThread,
    CreateThreadAndRun,
    CreateUpload,
    IncludeQuery,
    ListQuery,
    ModifyAssistant,
    ModifyMessage,
    ModifyRun,
    ModifyThread,
    SubmitToolOutputs,
)

FUNCTION = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"properties": {"k": {}}}}}
SCHEMA = {
    "type": "json_schema",
    "json_schema": {"name": "s", "description": "d", "schema": {"title": "t"}, "strict": True},
}
MESSAGE = {
    "role": "user",
    "content": [
        {"type": "text", "text": "hi"},
        {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}},
    ],
    "metadata": {"k": "v"},
}
THREAD = {
    "messages": [MESSAGE, {"role": "assistant", "content": "hello"}],
    "tool_resources": {},
    "metadata": {"k": "v"},
}
ASSISTANT = {
    "model": "m",
    "name": "n",
    "description": "d",
    "instructions": "i",
    "reasoning_effort": "low",
    "tools": [FUNCTION],
    "tool_resources": {"code_interpreter": {"file_ids": []}, "file_search": {"vector_store_ids": []}},
    "metadata": {"k": "v"},
    "temperature": 1,
    "top_p": 0,
    "response_format": SCHEMA,
}
RUN = {
    "assistant_id": "asst_abc",
    "model": "m",
    "reasoning_effort": "none",
    "instructions": "i",
    "tools": [FUNCTION],
    "metadata": {"k": "v"},
    "temperature": 0.5,
    "top_p": 1,
    "stream": True,
    "max_prompt_tokens": 256,
    "max_completion_tokens": 256,
    "truncation_strategy": {"type": "last_messages", "last_messages": 1},
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "parallel_tool_calls": False,
    "response_format": {"type": "json_object"},
}
FILE = {
    "filename": "a.png",
    "purpose": "vision",
    "expires_after": {"anchor": "created_at", "seconds": 3600},
}
FULL: list[tuple[type[BaseModel], dict[str, Any]]] = [
    (CreateAssistant, ASSISTANT),
    (ModifyAssistant, ASSISTANT),
    (CreateThread, THREAD),
    (ModifyThread, {"tool_resources": {}, "metadata": {"k": "v"}}),
    (CreateMessage, MESSAGE),
    (ModifyMessage, {"metadata": {"k": "v"}}),
    (CreateRun, {**RUN, "additional_instructions": "a", "additional_messages": [MESSAGE]}),
    (CreateThreadAndRun, {**RUN, "thread": THREAD, "tool_resources": {}}),
    (ModifyRun, {"metadata": {"k": "v"}}),
    (SubmitToolOutputs, {"tool_outputs": [{"tool_call_id": "call_1", "output": "o"}], "stream": False}),
    (CreateFile, FILE),
    (CreateUpload, {**FILE, "bytes": 3, "mime_type": "image/png"}),
    (CompleteUpload, {"part_ids": ["part_1"], "md5": "m"}),
]
NAMES = [model.__name__ for model, _ in FULL]


def paths(value: Any) -> Iterator[tuple[Any, ...]]:
    """Every way to a string or number of this JSON."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        yield from ((key, *rest) for rest in paths(child))
    if not isinstance(value, dict | list):
        yield ()


def changed(body: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy of `body` with another value at the end of `path`."""
    body = copy.deepcopy(body)
    parent = body
    for step in path[:-1]:
        parent = parent[step]
    parent[path[-1]] = value
    return body


def dump(model: type[BaseModel], body: dict[str, Any]) -> dict[str, Any]:
    return model.model_validate(body).model_dump(exclude_unset=True)


@pytest.mark.parametrize(("model", "body"), FULL, ids=NAMES)
def test_a_full_body_is_taken_and_dumped_as_it_came(model: type[BaseModel], body: dict[str, Any]) -> None:
    stored = dump(model, body)

    assert stored.keys() == body.keys()
    assert dump(model, stored) == stored


@pytest.mark.parametrize(("model", "body"), FULL, ids=NAMES)
@pytest.mark.parametrize("poison", ["x\0y", "\ud800"], ids=["nul", "surrogate"])
def test_no_text_anywhere_may_hold_what_postgres_cannot(
    model: type[BaseModel], body: dict[str, Any], poison: str
) -> None:
    for path in paths(body):
        with pytest.raises(ValidationError):
            model.model_validate(changed(body, path, poison))


@pytest.mark.parametrize(("model", "body"), FULL, ids=NAMES)
def test_no_object_takes_an_unknown_key_except_free_form_ones(model: type[BaseModel], body: dict[str, Any]) -> None:
    for path in {path[:-1] for path in paths(body) if path and not isinstance(path[-1], int)}:
        if {"parameters", "schema", "metadata"} & set(path):
            continue
        with pytest.raises(ValidationError):
            model.model_validate(changed(body, (*path, "unheard_of"), 1))


def test_what_was_not_sent_is_not_in_the_dump() -> None:
    assert dump(ModifyAssistant, {"name": "x"}) == {"name": "x"}
    assert dump(CreateThread, {}) == {}


def test_defaults_that_the_original_shows_on_read_are_part_of_the_stored_form() -> None:
    body = {"model": "m", "tools": [{"type": "function", "function": {"name": "f", "strict": None}}]}
    image = {"type": "image_url", "image_url": {"url": "https://x/y"}}

    assert dump(CreateAssistant, body)["tools"] == [
        {
            "type": "function",
            "function": {"name": "f", "parameters": {"type": "object", "properties": {}}, "strict": False},
        }
    ]
    assert dump(CreateMessage, {"role": "user", "content": [image]})["content"][0]["image_url"]["detail"] == "auto"
    run = dump(CreateRun, {"assistant_id": "asst_1", "truncation_strategy": {"type": "auto"}})
    assert run["truncation_strategy"] == {"type": "auto", "last_messages": None}


def test_integers_become_decimals_where_decimals_are_meant() -> None:
    assert repr(dump(CreateAssistant, {"model": "m", "temperature": 1})["temperature"]) == "1.0"


def test_null_metadata_is_read_as_empty() -> None:
    assert dump(ModifyThread, {"metadata": None}) == {"metadata": {}}


def test_everything_of_a_run_but_its_assistant_may_be_null() -> None:
    for model in (CreateRun, CreateThreadAndRun):
        names = set(model.model_fields) - {"assistant_id", "metadata"}
        body = {"assistant_id": "asst_1", **dict.fromkeys(names)}
        assert dump(model, body) == body


@pytest.mark.parametrize("model", [CreateAssistant, CreateThread])
@pytest.mark.parametrize(
    "resources",
    [None, {}, {"code_interpreter": {"file_ids": []}}, {"file_search": {"vector_store_ids": []}}],
)
def test_empty_tool_resources_are_legal(model: type[BaseModel], resources: Any) -> None:
    body = {"tool_resources": resources} | ({"model": "m"} if model is CreateAssistant else {})

    assert dump(model, body)["tool_resources"] == resources


@pytest.mark.parametrize("nothing", [[], None])
def test_vector_stores_to_be_made_are_no_part_of_what_is_stored(nothing: Any) -> None:
    body = CreateThread.model_validate({"tool_resources": {"file_search": {"vector_stores": nothing}}})

    assert body.model_dump(exclude_unset=True) == {"tool_resources": {"file_search": {"vector_store_ids": []}}}


def test_the_largest_allowed_values_are_allowed() -> None:
    name = {"type": "function", "function": {"name": "f" * 64}}
    big = {
        "model": "m",
        "name": "x" * 256,
        "description": "x" * 512,
        "instructions": "x" * 256_000,
        "tools": [name] * 128,
        "metadata": {f"{n:064}": "v" * 512 for n in range(16)},
        "temperature": 2,
        "top_p": 1,
    }

    CreateAssistant.model_validate(big)
    CreateThread.model_validate({"messages": [{"role": "user", "content": "x" * 256_000}] * 32})
    CreateAssistant.model_validate(
        {"model": "m", "tools": [{"type": "function", "function": {"name": "f", "parameters": {"maximum": 2**63}}}]}
    )


def test_numbers_of_a_query_are_read_from_texts() -> None:
    assert ListQuery.model_validate({"limit": "7"}).limit == 7
    assert ListQuery().model_dump() == {"limit": 20, "order": "desc", "after": None, "before": None}


def test_the_only_legal_include_is_taken_under_both_spellings() -> None:
    legal = "step_details.tool_calls[*].file_search.results[*].content"

    for name in ("include", "include[]"):
        IncludeQuery.model_validate({name: [legal]})
        with pytest.raises(ValidationError):
            IncludeQuery.model_validate({name: ["x"]})


def test_the_outputs_of_one_request_are_bounded_together() -> None:
    half = {"output": "x" * 300_000}
    body = {"tool_outputs": [{"tool_call_id": "call_1", **half}, {"tool_call_id": "call_2", **half}]}

    with pytest.raises(ValidationError, match="outputs too long"):
        SubmitToolOutputs.model_validate(body)


def test_a_new_id_has_its_prefix_and_24_letters_or_digits() -> None:
    made = {ids.new("asst_") for _ in range(100)}

    assert len(made) == 100
    assert all(len(each) == 29 and each.startswith("asst_") and each[5:].isalnum() and each.isascii() for each in made)


def test_an_id_with_a_wrong_prefix_is_refused_before_it_is_looked_up() -> None:
    assert ids.check("thread_id", "thread_", "thread_x") == "thread_x"
    for wrong in ("asst_1", "", "thread_\0", "x" * 10_000):
        with pytest.raises(InvalidRequest, match="Expected an ID that begins with 'thread'") as caught:
            ids.check("thread_id", "thread_", wrong)
        assert (caught.value.param, caught.value.code) == ("thread_id", "invalid_value")
        assert len(caught.value.message) < 200
