"""Each row of the contract's table of errors that concerns bodies and queries: message, param and code."""

import json
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from api.error_texts import NOT_JSON, invalid_request
from orchestrator.errors import InvalidRequest
from orchestrator.wire.requests import (
    CreateAssistant,
    CreateMessage,
    CreateRun,
    CreateThread,
    CreateThreadAndRun,
    ListMessagesQuery,
    ListQuery,
    ModifyAssistant,
    ModifyMessage,
    SubmitToolOutputs,
)

USER = {"role": "user", "content": "hi"}


def told(model: type[BaseModel], body: Any) -> InvalidRequest:
    """The error that a client would be told about this body."""
    with pytest.raises(ValidationError) as caught:
        model.model_validate(body)
    errors: list[Any] = [{**error, "loc": ("body", *error["loc"])} for error in caught.value.errors()]
    return invalid_request(errors, body)


def assistant(**changes: Any) -> dict[str, Any]:
    return {"model": "m", **changes}


def function(**changes: Any) -> dict[str, Any]:
    return assistant(tools=[{"type": "function", "function": {"name": "f", **changes}}])


def run(**changes: Any) -> dict[str, Any]:
    return {"assistant_id": "asst_1", **changes}


def message(**changes: Any) -> dict[str, Any]:
    return {**USER, **changes}


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"a": value}
    return value


A, M, R = CreateAssistant, CreateMessage, CreateRun
TOOL_KINDS = "'code_interpreter', 'file_search', and 'function'"

ROWS: list[tuple[type[BaseModel], Any, str, str | None, str | None]] = [
    # missing and unknown
    (A, {}, "Missing required parameter: 'model'.", "model", "missing_required_parameter"),
    (R, {}, "Missing required parameter: 'assistant_id'.", "assistant_id", "missing_required_parameter"),
    (
        SubmitToolOutputs,
        {"tool_outputs": [{"output": "x"}]},
        "Missing required parameter: 'tool_outputs[0].tool_call_id'.",
        "tool_outputs[0].tool_call_id",
        "missing_required_parameter",
    ),
    (
        A,
        assistant(tools=[{}]),
        "Missing required parameter: 'tools[0].type'.",
        "tools[0].type",
        "missing_required_parameter",
    ),
    (
        R,
        run(truncation_strategy={"type": "last_messages"}),
        "Missing required parameter: 'truncation_strategy.last_messages'.",
        "truncation_strategy.last_messages",
        "missing_required_parameter",
    ),
    (A, assistant(foo=1), "Unknown parameter: 'foo'.", "foo", "unknown_parameter"),
    (A, function(foo=1), "Unknown parameter: 'tools[0].function.foo'.", "tools[0].function.foo", "unknown_parameter"),
    (ModifyMessage, {"content": "x"}, "Unknown parameter: 'content'.", "content", "unknown_parameter"),
    (
        CreateThreadAndRun,
        run(additional_messages=[]),
        "Unknown parameter: 'additional_messages'.",
        "additional_messages",
        "unknown_parameter",
    ),
    # types
    (A, [], "Invalid type for the request body: expected an object, but got an array instead.", None, "invalid_type"),
    (
        A,
        assistant(metadata="x"),
        "Invalid type for 'metadata': expected an object, but got a string instead.",
        "metadata",
        "invalid_type",
    ),
    (
        A,
        assistant(metadata={"k": 1}),
        "Invalid type for 'metadata.k': expected a string, but got an integer instead.",
        "metadata.k",
        "invalid_type",
    ),
    (
        A,
        assistant(tools="x"),
        "Invalid type for 'tools': expected an array, but got a string instead.",
        "tools",
        "invalid_type",
    ),
    (
        A,
        assistant(tools=None),
        "Invalid type for 'tools': expected an array, but got null instead.",
        "tools",
        "invalid_type",
    ),
    (
        A,
        assistant(tools=["x"]),
        "Invalid type for 'tools[0]': expected an object, but got a string instead.",
        "tools[0]",
        "invalid_type",
    ),
    (
        A,
        assistant(tools=[{"type": 1}]),
        "Invalid type for 'tools[0].type': expected a string, but got an integer instead.",
        "tools[0].type",
        "invalid_type",
    ),
    (
        A,
        assistant(temperature="1"),
        "Invalid type for 'temperature': expected a decimal, but got a string instead.",
        "temperature",
        "invalid_type",
    ),
    (
        A,
        assistant(temperature=True),
        "Invalid type for 'temperature': expected a decimal, but got a boolean instead.",
        "temperature",
        "invalid_type",
    ),
    (
        ModifyAssistant,
        {"model": None},
        "Invalid type for 'model': expected a string, but got null instead.",
        "model",
        "invalid_type",
    ),
    (
        R,
        run(assistant_id=None),
        "Invalid type for 'assistant_id': expected a string, but got null instead.",
        "assistant_id",
        "invalid_type",
    ),
    (
        R,
        run(stream="yes"),
        "Invalid type for 'stream': expected a boolean, but got a string instead.",
        "stream",
        "invalid_type",
    ),
    (
        R,
        run(max_prompt_tokens=True),
        "Invalid type for 'max_prompt_tokens': expected an integer, but got a boolean instead.",
        "max_prompt_tokens",
        "invalid_type",
    ),
    (
        R,
        run(max_prompt_tokens=300.5),
        "Invalid type for 'max_prompt_tokens': expected an integer, but got a decimal instead.",
        "max_prompt_tokens",
        "invalid_type",
    ),
    (
        M,
        message(content=3),
        "Invalid type for 'content': expected one of a string or array of objects, but got an integer instead.",
        "content",
        "invalid_type",
    ),
    (
        M,
        message(role=3),
        "Invalid type for 'role': expected one of 'user' or 'assistant', but got an integer instead.",
        "role",
        "invalid_type",
    ),
    # choices
    (
        M,
        message(role="tooool"),
        "Invalid value: 'tooool'. Supported values are: 'user' and 'assistant'.",
        "role",
        "invalid_value",
    ),
    (
        CreateThread,
        {"messages": [USER, USER, message(role="system")]},
        "Invalid value: 'system'. Supported values are: 'user' and 'assistant'.",
        "messages[2].role",
        "invalid_value",
    ),
    (
        A,
        assistant(tools=[{"type": "browser"}]),
        f"Invalid value: 'browser'. Supported values are: {TOOL_KINDS}.",
        "tools[0].type",
        "invalid_value",
    ),
    (
        R,
        run(tool_choice="x"),
        "Invalid value: 'x'. Supported values are: 'none', 'auto', and 'required'.",
        "tool_choice",
        "invalid_value",
    ),
    (
        R,
        run(tool_choice={"type": "x"}),
        "Invalid value: 'x'. Supported values are: 'function', 'code_interpreter', and 'file_search'.",
        "tool_choice.type",
        "invalid_value",
    ),
    (
        R,
        run(response_format="json"),
        "Invalid value: 'json'. Value must be: 'auto'.",
        "response_format",
        "invalid_value",
    ),
    (
        R,
        run(response_format={"type": "xml"}),
        "Invalid value: 'xml'. Supported values are: 'text', 'json_object', and 'json_schema'.",
        "response_format.type",
        "invalid_value",
    ),
    (
        M,
        message(content=[{"type": "video"}]),
        "Invalid value: 'video'. Supported values are: 'image_file', 'image_url', and 'text'.",
        "content[0].type",
        "invalid_value",
    ),
    # lengths
    (
        M,
        message(content="x" * 256_001),
        (
            "Invalid 'content': string too long. Expected a string with maximum length 256000, but got a "
            "string with length 256001 instead."
        ),
        "content",
        "string_above_max_length",
    ),
    (
        A,
        assistant(name="x" * 257),
        (
            "Invalid 'name': string too long. Expected a string with maximum length 256, but got a string "
            "with length 257 instead."
        ),
        "name",
        "string_above_max_length",
    ),
    (
        A,
        assistant(metadata={"k" * 65: "v"}),
        (
            "Invalid 'metadata': key too long. Expected a key with maximum length 64, but got a key with "
            "length 65 instead."
        ),
        "metadata",
        "string_above_max_length",
    ),
    (
        A,
        assistant(metadata={"k": "v" * 513}),
        (
            "Invalid 'metadata.k': string too long. Expected a string with maximum length 512, but got a "
            "string with length 513 instead."
        ),
        "metadata.k",
        "string_above_max_length",
    ),
    (
        A,
        assistant(metadata={str(n): "v" for n in range(17)}),
        (
            "Invalid 'metadata': too many properties. Expected an object with at most 16 properties, but got "
            "an object with 17 properties instead."
        ),
        "metadata",
        "object_above_max_properties",
    ),
    (
        A,
        assistant(model=""),
        "Invalid 'model': empty string. Expected a string with minimum length 1, but got an empty string instead.",
        "model",
        "empty_string",
    ),
    (
        M,
        message(attachments=[{"file_id": "file-1", "tools": []}] * 12),
        (
            "Invalid 'attachments': array too long. Expected an array with maximum length 10, but got an "
            "array with length 12 instead."
        ),
        "attachments",
        "array_above_max_length",
    ),
    (
        A,
        assistant(tools=[{"type": "code_interpreter"}] * 129),
        (
            "Invalid 'tools': array too long. Expected an array with maximum length 128, but got an array "
            "with length 129 instead."
        ),
        "tools",
        "array_above_max_length",
    ),
    (
        CreateThread,
        {"messages": [USER] * 33},
        (
            "Invalid 'messages': array too long. Expected an array with maximum length 32, but got an array "
            "with length 33 instead."
        ),
        "messages",
        "array_above_max_length",
    ),
    (
        M,
        message(content=[]),
        "Invalid 'content': empty array. Expected an array with minimum length 1, but got an empty array instead.",
        "content",
        "empty_array",
    ),
    # numbers
    (
        R,
        run(max_prompt_tokens=10),
        "Invalid 'max_prompt_tokens': integer below minimum value. Expected a value >= 256, but got 10 instead.",
        "max_prompt_tokens",
        "integer_below_min_value",
    ),
    (
        A,
        assistant(temperature=3),
        "Invalid 'temperature': decimal above maximum value. Expected a value <= 2, but got 3 instead.",
        "temperature",
        "decimal_above_max_value",
    ),
    (
        A,
        assistant(top_p=-0.5),
        "Invalid 'top_p': decimal below minimum value. Expected a value >= 0, but got -0.5 instead.",
        "top_p",
        "decimal_below_min_value",
    ),
    (
        A,
        assistant(top_p=float("nan")),
        "Invalid type for 'top_p': NaN and Infinity are not JSON numbers.",
        "top_p",
        "invalid_type",
    ),
    # form
    (
        A,
        function(name="f g"),
        (
            "Invalid 'tools[0].function.name': string does not match pattern. Expected a string that matches "
            "the pattern '^[a-zA-Z0-9_-]+$'."
        ),
        "tools[0].function.name",
        "invalid_value",
    ),
    (
        R,
        run(assistant_id="wf_1"),
        "Invalid 'assistant_id': 'wf_1'. Expected an ID that begins with 'asst'.",
        "assistant_id",
        "invalid_value",
    ),
    (
        A,
        function(parameters={"type": "string"}),
        "Invalid schema for function 'f': schema must be a JSON Schema of 'type: \"object\"', got 'type: \"string\"'.",
        "tools[0].function.parameters",
        "invalid_function_parameters",
    ),
    (
        A,
        function(parameters=nested(70)),
        "Invalid 'tools[0].function.parameters': too deeply nested. Expected at most 64 levels.",
        "tools[0].function.parameters",
        "invalid_value",
    ),
    (
        A,
        function(parameters={"a": 2**64}),
        "Invalid 'tools[0].function.parameters': integer out of range. Expected a value that fits into 64 bits.",
        "tools[0].function.parameters",
        "invalid_value",
    ),
    (
        A,
        function(parameters={"a": [float("inf")]}),
        "Invalid 'tools[0].function.parameters': NaN and Infinity are not JSON numbers.",
        "tools[0].function.parameters",
        "invalid_value",
    ),
    (
        A,
        function(parameters={"a": ["x\0"]}),
        "Invalid 'tools[0].function.parameters': the string contains the character U+0000, which cannot be stored.",
        "tools[0].function.parameters",
        "invalid_value",
    ),
    (
        M,
        message(content="a\0b"),
        "Invalid 'content': the string contains the character U+0000, which cannot be stored.",
        "content",
        "invalid_value",
    ),
    (
        M,
        message(content="\ud800"),
        "Invalid 'content': the string contains an unpaired surrogate, which is not valid Unicode.",
        "content",
        "invalid_value",
    ),
    # not there yet
    (
        A,
        assistant(tools=[{"type": "file_search"}]),
        "The 'file_search' tool is not supported by this server yet.",
        "tools[0].type",
        "unsupported_tool",
    ),
    (
        R,
        run(tool_choice={"type": "code_interpreter"}),
        "The 'code_interpreter' tool is not supported by this server yet.",
        "tool_choice.type",
        "unsupported_tool",
    ),
    (
        CreateThreadAndRun,
        run(thread={"messages": [message(attachments=[{"file_id": "file-1", "tools": [{"type": "file_search"}]}])]}),
        "The 'file_search' tool is not supported by this server yet.",
        "thread.messages[0].attachments[0].tools[0].type",
        "unsupported_tool",
    ),
    (
        A,
        assistant(tool_resources={"file_search": {"vector_store_ids": ["vs_1"]}}),
        "Vector stores are not supported by this server yet.",
        "tool_resources.file_search.vector_store_ids",
        "unsupported_tool_resources",
    ),
    (
        A,
        assistant(tool_resources={"file_search": {"vector_store_ids": ["vs_1"], "vector_stores": [{}]}}),
        "Invalid 'tool_resources.file_search': 'vector_store_ids' and 'vector_stores' are mutually exclusive.",
        "tool_resources.file_search",
        "invalid_value",
    ),
    # queries
    (
        ListQuery,
        {"limit": "101"},
        "Invalid 'limit': integer above maximum value. Expected a value <= 100, but got 101 instead.",
        "limit",
        "integer_above_max_value",
    ),
    (
        ListQuery,
        {"limit": "0"},
        "Invalid 'limit': integer below minimum value. Expected a value >= 1, but got 0 instead.",
        "limit",
        "integer_below_min_value",
    ),
    (
        ListQuery,
        {"limit": "1_0"},
        "Invalid type for 'limit': expected an integer, but got a string instead.",
        "limit",
        "invalid_type",
    ),
    (
        ListQuery,
        {"order": "x"},
        "Invalid value: 'x'. Supported values are: 'asc' and 'desc'.",
        "order",
        "invalid_value",
    ),
    (ListQuery, {"run_id": "x"}, "Unknown parameter: 'run_id'.", "run_id", "unknown_parameter"),
    (
        ListMessagesQuery,
        {"after": "msg_\0"},
        "Invalid 'after': the string contains the character U+0000, which cannot be stored.",
        "after",
        "invalid_value",
    ),
]


@pytest.mark.parametrize(("model", "body", "text", "param", "code"), ROWS, ids=[f"{row[4]}-{row[3]}" for row in ROWS])
def test_a_wrong_body_gets_the_words_of_the_original(
    model: type[BaseModel], body: Any, text: str, param: str | None, code: str | None
) -> None:
    error = told(model, body)

    assert (error.message, error.param, error.code) == (text, param, code)


def test_the_first_error_of_the_document_is_told() -> None:
    body = {"top_p": 7, "foo": 1, "temperature": 9, "tools": [{"type": "x"}]}

    assert told(CreateAssistant, body).param == "top_p"
    assert told(CreateAssistant, dict(reversed(body.items()))).param == "tools[0].type"


def test_what_is_missing_stands_at_the_end_of_its_object() -> None:
    assert told(CreateMessage, {"foo": 1}).param == "foo"
    assert told(CreateThread, {"messages": [{"role": "user"}], "foo": 1}).param == "messages[0].content"


def test_values_are_repeated_shortened_and_as_something_that_utf8_can_carry() -> None:
    for value in ("x" * 100_000, "\ud800" * 50, "\0" * 50):
        for body in (message(role=value), {**USER, value: 1}):
            error = told(CreateMessage, body)
            json.dumps([error.message, error.param], ensure_ascii=False).encode()
            assert len(error.message) < 2_000
            assert "\0" not in error.message


def test_a_flood_of_unknown_keys_is_one_error() -> None:
    body = {str(number): 1 for number in range(200_000)}

    assert told(CreateThread, body).code == "unknown_parameter"


def test_a_flood_of_wrong_items_is_one_error() -> None:
    for model, body in (
        (CreateAssistant, assistant(tools=[1] * 200_000)),
        (CreateMessage, message(content=[1] * 200_000)),
    ):
        with pytest.raises(ValidationError) as caught:
            model.model_validate(body)
        assert caught.value.error_count() == 1


def test_a_body_that_is_not_there_is_no_json() -> None:
    error = invalid_request([{"type": "missing", "loc": ("body",), "msg": "", "input": None}], None)

    assert (error.message, error.param, error.code) == (NOT_JSON, None, None)


def test_an_error_without_a_text_of_its_own_still_has_path_and_code() -> None:
    error = invalid_request(
        [{"type": "new_in_pydantic", "loc": ("body", "a", 0), "msg": "Odd", "input": 1}], {"a": [1]}
    )

    assert (error.message, error.param, error.code) == ("Invalid 'a[0]': Odd", "a[0]", "invalid_value")
