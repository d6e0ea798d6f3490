"""What the embedded model is asked, and how its JSON becomes calls: without the model."""

import json
from itertools import pairwise
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from pydantic import ValidationError

from orchestrator.embedded.model.decoding import Arguments, CallBegins, CallEnds, CallReader, Signal
from orchestrator.embedded.model.dialogue import Dialogue, Result, read
from orchestrator.embedded.model.engine import Usage
from orchestrator.embedded.model.generation import Call, CallFilter, CallText, Event, Finished, Text
from orchestrator.embedded.model.prompts import answering, routing, shorten, signature
from orchestrator.embedded.model.replies import Reply
from orchestrator.embedded.model.requests import ChatRequest, Function
from orchestrator.embedded.model.schemas import arguments_schema, calls_schema, simplify
from orchestrator.embedded.model.server import envelope

WEATHER = {
    "name": "get_weather",
    "description": "The weather  in\na city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"enum": ["c", "f"], "description": "of temperature"}},
        "required": ["city"],
    },
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city":"Paris"}'}}


def chat(*messages: dict[str, Any], **others: Any) -> ChatRequest:
    return ChatRequest.model_validate({"model": "any", "messages": list(messages), **others})


def said(role: str, content: Any, **others: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **others}


def function(**parameters: Any) -> Function:
    return Function.model_validate({"name": "f", "parameters": parameters})


def in_pieces(text: str, length: int) -> list[Signal]:
    reader = CallReader()
    pieces = [text[start : start + length] for start in range(0, len(text), length)]
    return [signal for piece in pieces for signal in reader.feed(piece)]


@pytest.mark.parametrize("length", [1, 2, 3, 7, 1000])
def test_calls_are_read_the_same_however_their_text_is_cut(length: int) -> None:
    first = '{"q": "a \\"}{\\\\", "list": [{"x": {}}]}'
    text = f'{{"calls": [{{"function": "one", "arguments": {first}}}, {{"function":"two","arguments":{{}}}}]}}'

    signals = in_pieces(text, length)

    names = [signal.name for signal in signals if isinstance(signal, CallBegins)]
    arguments = "".join(
        "|" if isinstance(signal, CallEnds) else signal.text for signal in signals if not isinstance(signal, CallBegins)
    )
    assert names == ["one", "two"]
    assert arguments == first + "|{}|"


@pytest.mark.parametrize("length", [1, 4, 1000])
def test_an_empty_list_of_calls_says_nothing(length: int) -> None:
    assert in_pieces('{"calls": [ ]}', length) == []


def test_arguments_are_passed_on_while_they_come() -> None:
    reader = CallReader()
    reader.feed('{"calls": [{"function": "f", "arguments": ')

    assert reader.feed('{"city": "Par') == [Arguments('{"city": "Par')]
    assert reader.feed('is"}') == [Arguments('is"}'), CallEnds()]


def filtered(dialogue: Dialogue, text: str) -> list[Any]:
    passing = CallFilter(dialogue)
    return [event for signal in in_pieces(text, 5) for event in passing.take(signal)]


def test_the_same_call_is_made_only_once() -> None:
    arguments = ['{"a": 1}', '{"a":1}', '{"a": 2}']
    calls = ", ".join(f'{{"function": "f", "arguments": {text}}}' for text in arguments)

    events = filtered(Dialogue("", [], "", []), f'{{"calls": [{calls}]}}')

    assert [event for event in events if isinstance(event, Call)] == [Call("f"), Call("f")]
    assert events[-1] == CallText('{"a": 2}')


def test_a_call_that_was_answered_in_this_turn_is_not_made_again() -> None:
    dialogue = Dialogue("", [], "", [Result("f", '{"a":1}', "done")])

    assert filtered(dialogue, '{"calls": [{"function": "f", "arguments": {"a": 1}}]}') == []
    assert filtered(dialogue, '{"calls": [{"function": "f", "arguments": {"a": 2}}]}') == [
        Call("f"),
        CallText('{"a": 2}'),
    ]


def test_a_dialogue_has_its_earlier_turns_its_message_and_its_results() -> None:
    request = chat(
        said("system", "Be brief."),
        said("developer", [{"type": "text", "text": "Be kind."}]),
        said("user", "Weather in Rome?"),
        said("assistant", None, tool_calls=[{**CALL, "id": "call_0"}]),
        said("tool", "hot", tool_call_id="call_0"),
        said("assistant", "It is hot."),
        said("user", "And in Paris?"),
        said("user", "Quick!"),
        said("assistant", None, tool_calls=[CALL]),
        said("tool", "18 °C", tool_call_id="call_1"),
    )

    dialogue = read(request.messages)

    assert dialogue.instructions == "Be brief.\n\nBe kind."
    assert dialogue.earlier == [("user", "Weather in Rome?"), ("assistant", "It is hot.")]
    assert dialogue.message == "And in Paris?\n\nQuick!"
    assert [result.told() for result in dialogue.results] == ['get_weather(city="Paris") = 18 °C']


def test_results_are_told_in_the_users_message() -> None:
    asked = answering(Dialogue("Be brief.", [], "Weather?", [Result("get_weather", '{"city":"Paris"}', "18 °C, rain")]))

    assert [message["role"] for message in asked] == ["system", "user"]
    assert 'get_weather(city="Paris") = 18 °C, rain' in asked[1]["content"]


def test_a_failed_function_is_to_be_told_as_such() -> None:
    [asked] = answering(Dialogue("", [], "Price?", [Result("price", "{}", '{"error": "closed"}')]))

    assert "price() failed: closed\n\nTell the user that this did not work" in asked["content"]


def test_routing_shows_functions_and_what_was_said_but_no_instructions_to_small_models() -> None:
    dialogue = Dialogue("Use functions.", [("user", "Hi"), ("assistant", "Hello")], "And in Rome?", [])

    small = routing(dialogue, [Function.model_validate(WEATHER)], instructions=False)[-1]["content"]
    large = routing(dialogue, [Function.model_validate(WEATHER)], instructions=True)[-1]["content"]

    assert small.startswith(
        'Functions:\n- get_weather(city: string, unit?: "c"|"f" (of temperature)): The weather in a city\n'
    )
    assert small.endswith("Earlier:\nuser: Hi\nassistant: Hello\n\nMessage: And in Rome?")
    assert "Use functions." not in small
    assert "Use functions." in large


def test_the_start_of_routing_never_changes() -> None:
    dialogues = [Dialogue("", [], text, []) for text in ("one", "two")]

    asked = [routing(dialogue, [Function.model_validate(WEATHER)], instructions=False)[:-1] for dialogue in dialogues]

    assert all(one == other for one, other in pairwise(asked))


def test_a_long_text_keeps_its_start_and_its_end() -> None:
    assert shorten("short", 10) == "short"
    assert shorten("a" * 50 + "b" * 50, 13) == "aaaaa … bbbbb"


def test_a_signature_survives_odd_schemas() -> None:
    assert (
        signature(function(type="object", properties={"a": True, "b": {"type": ["string", "null"]}}))
        == "- f(a?: any, b?: string|null)"
    )
    assert signature(function(type="string")) == "- f()"


def test_the_routers_schema_offers_each_function_with_its_arguments() -> None:
    schema = calls_schema([Function.model_validate(WEATHER), Function(name="now")], 0, 4)

    weather, now = schema["properties"]["calls"]["items"]["anyOf"]
    assert weather["properties"]["function"] == {"const": "get_weather"}
    assert weather["properties"]["arguments"]["required"] == ["city"]
    assert now["properties"]["arguments"] == {"type": "object", "properties": {}, "additionalProperties": False}


def test_schemas_are_reduced_to_what_the_grammar_can_take() -> None:
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 100000, "pattern": "^(?=x)", "description": "who"},
            "age": {"type": "integer", "minimum": 0, "multipleOf": 2},
            "tags": {"type": "array", "items": {"$ref": "#/$defs/Tag"}, "uniqueItems": True, "maxItems": 3},
            "both": {"allOf": [{"$ref": "#/$defs/Tag"}, {"type": "string"}]},
        },
        "required": ["name", "missing"],
        "$defs": {"Tag": {"enum": ["a", "b"]}},
    }

    assert simplify(schema) == {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "age": {"type": "integer", "minimum": 0},
            "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
            "both": {"enum": ["a", "b"], "type": "string"},
        },
        "required": ["name"],
        "additionalProperties": False,
    }


def test_a_schema_that_refers_to_itself_ends() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#"}, "nowhere": {"$ref": "#/$defs/No"}}}

    assert json.dumps(simplify(node)).count('"next"') < 10


def test_arguments_are_always_an_object() -> None:
    assert arguments_schema(function(type="string")) == {"type": "object"}
    assert arguments_schema(function(**{"$ref": "#"})) == {"type": "object"}


@pytest.mark.parametrize(
    ("others", "told"),
    [
        ({"n": 2}, "Input should be 1"),
        ({"logprobs": True}, "Input should be False"),
        ({"frobnicate": 1}, "Extra inputs are not permitted"),
        ({"temperature": 3}, "less than or equal to 2"),
        ({"tool_choice": "required"}, "there are no tools"),
        ({"messages": []}, "at least 1 item"),
        ({"messages": [said("user", [{"type": "image_url", "image_url": {"url": "x"}}])]}, "reads text only"),
    ],
)
def test_what_cannot_be_honoured_is_refused(others: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        ChatRequest.model_validate({"model": "any", "messages": [said("user", "Hi")]} | others)


def test_a_stream_of_calls_has_openais_form() -> None:
    reply = Reply("the-model", wants_usage=True)
    events: list[Event] = [Call("f"), CallText('{"a"'), CallText(": 1}"), Finished("tool_calls", Usage(10, 5, 2))]

    frames = [frame for event in events for frame in reply.frames(event)]

    chunks = [json.loads(frame.removeprefix(b"data: ")) for frame in frames[:-1]]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks[:-1]]
    call = deltas[1]["tool_calls"][0]
    assert frames[-1] == b"data: [DONE]\n\n"
    assert deltas[0] == {"role": "assistant", "content": None, "refusal": None}
    assert call["id"].startswith("call_")
    assert len(call["id"]) == len("call_") + 24
    assert call["function"] == {"name": "f", "arguments": ""}
    assert deltas[2:4] == [{"tool_calls": [{"index": 0, "function": {"arguments": text}}]} for text in ('{"a"', ": 1}")]
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * 5
    assert chunks[-2]["choices"][0]["finish_reason"] == "tool_calls"
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] == 15


async def test_a_whole_answer_has_openais_form() -> None:
    async def events() -> Any:
        for event in (Text("Hel"), Text("lo"), Finished("stop", Usage(3, 2))):
            yield event

    whole = await Reply("the-model").whole(events())

    assert whole["choices"][0]["message"] == {"role": "assistant", "content": "Hello", "refusal": None}
    assert whole["model"] == "the-model"


@pytest.mark.parametrize(
    ("host", "status"),
    [("model:8000", 200), ("127.0.0.1:1", 200), ("evil.example", 403), ("model.evil.example:80", 403)],
)
async def test_the_server_answers_to_the_names_that_it_is_known_by(host: str, status: int) -> None:
    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.Response(text="ok")

    request = make_mocked_request("GET", "/v1/models", headers={"Host": host})

    assert (await envelope(("127.0.0.1", "model"))(request, answer)).status == status
