"""Assistants: what is stored, what is read back, what is refused."""

import openai
import pytest

from tests.api.checks import Json
from tests.api.http import WEATHER, Http

STORED: Json = {
    "object": "assistant",
    "model": "m",
    "name": None,
    "description": None,
    "instructions": None,
    "tools": [],
    "tool_resources": {},
    "metadata": {},
    "temperature": 1.0,
    "top_p": 1.0,
    "reasoning_effort": None,
    "response_format": "auto",
}


def test_case_01_only_the_model_is_required(http: Http) -> None:
    assistant = http.post("/assistants", {"model": "m"})

    assert assistant == {"id": assistant["id"], "created_at": assistant["created_at"], **STORED}
    assert assistant["id"].startswith("asst_")
    assert isinstance(assistant["temperature"], float)


def test_case_01_through_the_official_client(client: openai.OpenAI) -> None:
    made = client.beta.assistants.create(model="m", name="Ann", tools=[WEATHER])  # type: ignore[list-item]

    assert made.to_dict() == client.beta.assistants.retrieve(made.id).to_dict()
    assert (made.name, made.temperature, made.response_format, made.metadata) == ("Ann", 1.0, "auto", {})
    assert [tool.type for tool in made.tools] == ["function"]


def test_case_91_a_modification_changes_only_what_it_names(http: Http) -> None:
    before = http.assistant(instructions="Be kind.", tools=[WEATHER], temperature=0, metadata={"k": "v"})

    after = http.post(f"/assistants/{before['id']}", {"name": "Ann"})

    assert after == {**before, "name": "Ann"}
    assert http.get(f"/assistants/{before['id']}") == after


def test_null_empties_what_a_modification_names(http: Http) -> None:
    before = http.assistant(name="Ann", instructions="Be kind.", temperature=0.5, metadata={"k": "v"})

    emptied = {"name": None, "instructions": None, "temperature": None, "metadata": None}
    after = http.post(f"/assistants/{before['id']}", emptied)

    assert after == {**before, "name": None, "instructions": None, "temperature": 1.0, "metadata": {}}


def test_tools_of_a_modification_replace_the_old_ones(http: Http) -> None:
    assistant = http.assistant(tools=[WEATHER])

    assert http.post(f"/assistants/{assistant['id']}", {"tools": []})["tools"] == []


@pytest.mark.parametrize("noun", ["assistants", "threads"])
def test_case_92_metadata_is_replaced_as_a_whole_or_left_alone(http: Http, noun: str) -> None:
    made = http.post(f"/{noun}", {"metadata": {"a": "1", "b": "2"}} | ({"model": "m"} if noun == "assistants" else {}))

    replaced = http.post(f"/{noun}/{made['id']}", {"metadata": {"a": "3"}})
    untouched = http.post(f"/{noun}/{made['id']}", {})

    assert replaced["metadata"] == untouched["metadata"] == {"a": "3"}


@pytest.mark.parametrize(
    ("metadata", "code"),
    [
        ({str(n): "v" for n in range(17)}, "object_above_max_properties"),
        ({"k" * 65: "v"}, "string_above_max_length"),
        ({"k": "v" * 513}, "string_above_max_length"),
        ({"k": 1}, "invalid_type"),
        ({"k": None}, "invalid_type"),
        ("text", "invalid_type"),
    ],
)
def test_case_93_metadata_is_bounded(http: Http, metadata: Json, code: str) -> None:
    error = http.refused("POST", "/assistants", {"model": "m", "metadata": metadata})

    assert error["param"].startswith("metadata")
    assert error["code"] == code


def test_metadata_at_its_bounds_is_kept(http: Http) -> None:
    metadata = {f"{n:064}": "é" * 512 for n in range(16)}

    assert http.assistant(metadata=metadata)["metadata"] == metadata


@pytest.mark.parametrize(("field", "most"), [("name", 256), ("description", 512), ("instructions", 256_000)])
def test_case_94_texts_are_bounded(http: Http, field: str, most: int) -> None:
    assert http.assistant(**{field: "x" * most})[field] == "x" * most

    error = http.refused("POST", "/assistants", {"model": "m", field: "x" * (most + 1)})

    text = (
        f"Invalid '{field}': string too long. Expected a string with maximum length {most}, "
        f"but got a string with length {most + 1} instead."
    )
    assert (error["message"], error["param"], error["code"]) == (text, field, "string_above_max_length")


def test_case_95_an_assistant_has_at_most_128_tools(http: Http) -> None:
    assert len(http.assistant(tools=[WEATHER] * 128)["tools"]) == 128

    error = http.refused("POST", "/assistants", {"model": "m", "tools": [WEATHER] * 129})

    assert (error["param"], error["code"]) == ("tools", "array_above_max_length")


@pytest.mark.parametrize(("field", "value", "most"), [("temperature", 2.1, 2), ("top_p", 1.1, 1)])
def test_case_96_decimals_are_bounded(http: Http, field: str, value: float, most: int) -> None:
    assert http.assistant(**{field: most})[field] == most

    error = http.refused("POST", "/assistants", {"model": "m", field: value})

    text = f"Invalid '{field}': decimal above maximum value. Expected a value <= {most}, but got {value} instead."
    assert (error["message"], error["param"], error["code"]) == (text, field, "decimal_above_max_value")


def test_case_97_a_function_without_parameters_reads_back_with_defaults(http: Http) -> None:
    assistant = http.assistant(tools=[{"type": "function", "function": {"name": "f"}}])

    function = {"name": "f", "parameters": {"type": "object", "properties": {}}, "strict": False}
    assert assistant["tools"] == [{"type": "function", "function": function}]
    assert http.post("/assistants", {"model": "m", "tools": assistant["tools"]})["tools"] == assistant["tools"]


@pytest.mark.parametrize(
    ("name", "code"), [("two words", "invalid_value"), ("f" * 65, "string_above_max_length"), ("", "invalid_value")]
)
def test_case_100_function_names_follow_their_pattern(http: Http, name: str, code: str) -> None:
    error = http.refused(
        "POST", "/assistants", {"model": "m", "tools": [{"type": "function", "function": {"name": name}}]}
    )

    assert (error["param"], error["code"]) == ("tools[0].function.name", code)


@pytest.mark.parametrize(
    ("path", "body"),
    [("/assistants", {"model": "m"}), ("/threads", {}), ("/threads/runs", {"assistant_id": "asst_x"})],
)
def test_case_105_an_unknown_parameter_is_named(http: Http, path: str, body: Json) -> None:
    error = http.refused("POST", path, {**body, "foo": 1})

    expected = "Unknown parameter: 'foo'."
    assert (error["message"], error["param"], error["code"]) == (expected, "foo", "unknown_parameter")


def test_case_106_a_deleted_assistant_is_gone_for_reads_and_runs(http: Http) -> None:
    id_ = http.assistant()["id"]
    thread = http.thread("Hi")

    assert http.delete(f"/assistants/{id_}") == {"id": id_, "object": "assistant.deleted", "deleted": True}

    missing = f"No assistant found with id '{id_}'."
    runs = f"/threads/{thread['id']}/runs"
    assert http.refused("GET", f"/assistants/{id_}", status=404)["message"] == missing
    assert http.refused("DELETE", f"/assistants/{id_}", status=404)["message"] == missing
    assert http.refused("POST", runs, {"assistant_id": id_}, status=404)["message"] == missing


def test_a_deleted_assistants_runs_stay_readable(http: Http) -> None:
    run = http.finish("Hi")

    http.delete(f"/assistants/{run['assistant_id']}")

    assert http.get(f"/threads/{run['thread_id']}/runs/{run['id']}") == run


@pytest.mark.parametrize("wrong", ["wf_123", "thread_123", "x"])
def test_case_107_an_id_of_another_kind_is_refused_before_it_is_looked_up(http: Http, wrong: str) -> None:
    thread = http.thread()
    expected = f"Invalid 'assistant_id': '{wrong}'. Expected an ID that begins with 'asst'."

    in_path = http.refused("GET", f"/assistants/{wrong}")
    in_body = http.refused("POST", f"/threads/{thread['id']}/runs", {"assistant_id": wrong})

    assert in_path == in_body
    assert (in_path["message"], in_path["param"], in_path["code"]) == (expected, "assistant_id", "invalid_value")


@pytest.mark.parametrize("type_", ["code_interpreter", "file_search"])
def test_tools_that_this_release_lacks_are_refused_and_not_ignored(http: Http, type_: str) -> None:
    error = http.refused("POST", "/assistants", {"model": "m", "tools": [{"type": type_}]})

    assert (error["param"], error["code"]) == ("tools[0].type", "unsupported_tool")


def test_schemas_read_back_in_the_order_in_which_they_were_written(http: Http) -> None:
    properties = {name: {"type": "string"} for name in ("zeta", "longest_name", "a", "mid")}
    schema = {"type": "object", "properties": properties, "required": ["zeta"]}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema, "strict": True}}

    assistant = http.post("/assistants", {"model": "gpt-4o", "tools": [tool]})

    read = http.get(f"/assistants/{assistant['id']}")["tools"][0]["function"]["parameters"]
    assert list(read["properties"]) == ["zeta", "longest_name", "a", "mid"]
    assert list(read) == ["type", "properties", "required"]
