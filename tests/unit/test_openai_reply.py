"""Every difference between providers that `openai_reply` evens out, byte by byte."""

import json
import re
from typing import Any

import pytest

from orchestrator import openai_events, openai_pieces, openai_reply
from orchestrator.model import Delta, Finished, RefusalDelta, TextDelta, ToolCallDelta, Usage
from orchestrator.openai_errors import UpstreamTrouble
from orchestrator.openai_reply import Reply

DONE = b"data: [DONE]\n\n"


def event(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return b"data: " + json.dumps({"choices": choices, **more}).encode() + b"\n\n"


def hear(*chunks: bytes) -> list[Delta]:
    reply = Reply()
    reply.begin("req_1", whole=False)
    heard = [delta for chunk in chunks for delta in reply.feed(chunk)]
    return [*heard, *reply.flush(), reply.finish()]


def text(heard: list[Delta]) -> str:
    return "".join(delta.text for delta in heard if isinstance(delta, TextDelta))


def calls(*deltas: dict[str, Any]) -> list[tuple[str | None, str | None, str]]:
    """The calls that these tool call fragments, one an event, amount to; ids and names must come first and once."""
    heard = hear(*(event({"tool_calls": [delta]}) for delta in deltas), DONE)
    found: list[tuple[str | None, str | None, str]] = []
    for delta in heard[:-1]:
        assert isinstance(delta, ToolCallDelta)
        if delta.index == len(found):
            found.append((delta.id, delta.name, delta.arguments))
        else:
            assert delta.id is None
            assert delta.name is None
            id_, name, arguments = found[delta.index]
            found[delta.index] = (id_, name, arguments + delta.arguments)
    last = heard[-1]
    assert isinstance(last, Finished)
    assert last.reason == "tool_calls"
    return found


def fragment(index: int | None, id_: str | None, name: str | None, arguments: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"function": {"name": name, "arguments": arguments}}
    return given | ({} if index is None else {"index": index}) | ({} if id_ is None else {"id": id_})


def test_a_stream_reads_the_same_wherever_it_is_torn() -> None:
    whole = event({"content": "Grüße 🎈"}) + b": ping\n\n" + event({"content": " an\nalle"}, "stop") + DONE

    for width in range(1, len(whole)):
        heard = hear(*(whole[start : start + width] for start in range(0, len(whole), width)))
        assert text(heard) == "Grüße 🎈 an\nalle"


@pytest.mark.parametrize("width", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("ending", [b"\r\n", b"\r", b"\n"])
def test_every_line_end_of_the_standard_is_understood(ending: bytes, width: int) -> None:
    whole = (event({"content": "a"}) + event({"content": "b"}, "stop") + DONE).replace(b"\n", ending)

    heard = hear(*(whole[start : start + width] for start in range(0, len(whole), width)))

    assert text(heard) == "ab"


def test_comments_other_fields_and_empty_lines_are_no_events() -> None:
    frame = b'event: x\nid: 1\n: hm\ndata:{"choices":[{"delta":{"content":"hi"}}]}\nretry: 3\n\n'

    assert text(hear(b": keep-alive\n\n\n\n\n", frame, DONE)) == "hi"


def test_data_on_several_lines_is_one_event() -> None:
    assert text(hear(b'data: {"choices":\ndata: [{"delta":{"content":"hi"}}]}\n\n', DONE)) == "hi"


def test_utf8_outside_of_escapes_survives() -> None:
    assert text(hear('data: {"choices":[{"delta":{"content":"Grüße 🎈"}}]}\n\n'.encode(), DONE)) == "Grüße 🎈"


def test_nothing_after_done_is_heard() -> None:
    assert text(hear(event({"content": "a"}) + DONE + event({"content": "b"}))) == "a"


def test_a_last_event_without_an_empty_line_counts() -> None:
    assert text(hear(event({"content": "a"}), event({"content": "b"}, "stop").rstrip())) == "ab"


def test_usage_comes_from_a_chunk_without_choices() -> None:
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 3,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }

    heard = hear(event({"content": "a"}, "stop", usage=None), event(usage=usage), DONE)

    assert heard[-1] == Finished("stop", Usage(9, 3, 4, 2), "req_1")


@pytest.mark.parametrize("count", ["-7", "1e300", "123456789012345678901234567890", "Infinity", "NaN", "null"])
def test_usage_that_cannot_be_counts_zero(count: str) -> None:
    usage = f'{{"prompt_tokens":{count},"completion_tokens":3,"prompt_tokens_details":{{"cached_tokens":{count}}}}}'

    heard = hear(event({"content": "a"}, "stop"), f'data: {{"choices":[],"usage":{usage}}}\n\n'.encode(), DONE)

    assert heard[-1] == Finished("stop", Usage(0, 3, 0, 0), "req_1")


def test_usage_that_is_missing_counts_zero() -> None:
    assert hear(event({"content": "a"}, "stop"), DONE)[-1] == Finished("stop", Usage(), "req_1")


def test_usage_adds_up() -> None:
    total = Usage(1, 2, 3, 4) + Usage(10, 20, 30, 40)

    assert total == Usage(11, 22, 33, 44)
    assert total.total_tokens == 33


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("content_filter", "content_filter"),
        ("max_tokens", "length"),
        ("tool_calls", "stop"),
        ("eos", "stop"),
        (None, "stop"),
    ],
)
def test_finish_reasons_of_a_text_are_ours(said: str | None, meant: str) -> None:
    last = hear(event({"content": "a"}, said), DONE)[-1]

    assert isinstance(last, Finished)
    assert last.reason == meant


def test_a_length_cut_within_tool_calls_stays_a_length_cut() -> None:
    last = hear(event({"tool_calls": [fragment(0, "call_1", "f", "{")]}), event({}, "length"), DONE)[-1]

    assert isinstance(last, Finished)
    assert last.reason == "length"


def test_a_reply_without_done_is_complete_once_it_gave_a_finish_reason() -> None:
    assert text(hear(event({"content": "a"}, "stop"))) == "a"


def test_a_reply_without_done_and_finish_reason_was_cut_off() -> None:
    with pytest.raises(UpstreamTrouble, match="cut_off"):
        hear(event({"content": "a"}))


def test_refusals_are_kept_apart() -> None:
    heard = hear(event({"content": None, "refusal": "I can"}), event({"refusal": "not"}, "stop"), DONE)

    assert heard[:-1] == [RefusalDelta("I can"), RefusalDelta("not")]


def test_content_in_parts_is_joined() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "thinking", "thinking": []}, {"type": "text", "text": "b"}]

    assert text(hear(event({"content": parts}), DONE)) == "ab"


def test_empty_and_unknown_deltas_are_not_heard() -> None:
    heard = hear(
        event({"role": "assistant", "content": ""}), event({"reasoning_content": "hm"}), event({}, "stop"), DONE
    )

    assert len(heard) == 1


def test_fragments_of_parallel_calls_keep_their_index() -> None:
    found = calls(
        fragment(0, "call_a", "f", ""),
        fragment(0, None, None, '{"x'),
        fragment(1, "call_b", "g", ""),
        fragment(0, None, None, '":1}'),
        fragment(1, None, None, "{}"),
    )

    assert found == [("call_a", "f", '{"x":1}'), ("call_b", "g", "{}")]


def test_indexes_are_made_contiguous() -> None:
    found = calls(fragment(1, "call_a", "f", "{}"), fragment(5, "call_b", "g", "{}"), fragment(1, None, None, " "))

    assert found == [("call_a", "f", "{} "), ("call_b", "g", "{}")]


def test_repeated_ids_and_names_are_told_once() -> None:
    found = calls(fragment(0, "call_a", "f", '{"x"'), fragment(0, "call_a", "f", ":1}"))

    assert found == [("call_a", "f", '{"x":1}')]


def test_an_id_that_changes_without_a_name_is_the_same_call() -> None:
    found = calls(fragment(0, "call_a", "f", '{"x"'), fragment(0, "call_b", None, ":1}"))

    assert found == [("call_a", "f", '{"x":1}')]


def test_whole_calls_that_all_have_index_zero_are_told_apart() -> None:
    found = calls(fragment(0, "call_a", "f", "{}"), fragment(0, "call_b", "f", "{}"))

    assert found == [("call_a", "f", "{}"), ("call_b", "f", "{}")]


def test_calls_without_index_follow_their_ids() -> None:
    found = calls(
        fragment(None, "call_a", "f", "{"),
        fragment(None, None, None, "}"),
        fragment(None, "call_b", "g", "{"),
        fragment(None, "call_b", "g", "}"),
    )

    assert found == [("call_a", "f", "{}"), ("call_b", "g", "{}")]


def test_calls_without_index_and_id_follow_their_names_and_get_ids() -> None:
    found = calls(fragment(None, None, "f", {"x": 1}), fragment(None, None, "f", {"x": 2}))

    assert [(name, json.loads(arguments)) for _, name, arguments in found] == [("f", {"x": 1}), ("f", {"x": 2})]
    ids = {id_ for id_, _, _ in found if id_ and re.fullmatch(r"call_[A-Za-z0-9]{24}", id_)}
    assert len(ids) == 2


def test_a_call_waits_for_its_name() -> None:
    found = calls(fragment(0, "call_a", None, ""), fragment(0, None, None, "{"), fragment(0, None, "f", "}"))

    assert found == [("call_a", "f", "{}")]


def test_a_call_without_arguments_gets_an_empty_object() -> None:
    found = calls(fragment(0, "call_a", "f", ""), fragment(1, "call_b", "g", "{}"), fragment(2, "call_c", "h", None))

    assert found == [("call_a", "f", "{}"), ("call_b", "g", "{}"), ("call_c", "h", "{}")]


def test_a_call_that_was_cut_off_gets_nothing() -> None:
    heard = hear(event({"tool_calls": [fragment(0, "call_a", "f", "")]}), event({}, "length"), DONE)

    assert heard[:-1] == [ToolCallDelta(0, "call_a", "f", "")]


@pytest.mark.parametrize("frames", [[DONE], [b'data: {"choices":[]}\n\n', DONE], [event({"role": "assistant"}), DONE]])
def test_an_end_without_a_beginning_is_no_reply(frames: list[bytes]) -> None:
    with pytest.raises(UpstreamTrouble, match="no_reply"):
        hear(*frames)


def test_silence_is_a_reply_if_it_is_said_to_be_one() -> None:
    assert hear(event({}, "stop"), DONE) == [Finished("stop", Usage(), "req_1")]


def test_too_many_calls_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_pieces, "MAX_CALLS", 3)

    with pytest.raises(UpstreamTrouble, match="too_many"):
        calls(*(fragment(place, f"call_{place}", "f", "{}") for place in range(4)))


def test_nul_is_stripped_from_texts_arguments_and_names() -> None:
    heard = hear(event({"content": "a\0b"}), event({"tool_calls": [fragment(0, "c\0", "f\0", "{\0}")]}), DONE)

    assert heard[:-1] == [TextDelta("ab"), ToolCallDelta(0, "c", "f", "{}")]


def test_a_delta_of_nothing_but_nul_is_not_heard() -> None:
    assert len(hear(event({"content": "\0"}, "stop"), DONE)) == 1


def test_a_surrogate_pair_in_two_events_becomes_its_character() -> None:
    heard = hear(event({"content": "a\ud83c"}), event({"content": "\udf88b"}), DONE)

    assert heard[:-1] == [TextDelta("a"), TextDelta("🎈b")]


def test_half_a_surrogate_pair_is_dropped() -> None:
    heard = hear(event({"content": "a\udf88b\ud83cc"}), event({"content": "d\ud83c"}), DONE)

    assert text(heard) == "abcd"


def test_bytes_that_are_no_utf8_are_replaced() -> None:
    assert text(hear(b'data: {"choices":[{"delta":{"content":"a\xffb"}}]}\n\n', DONE)) == "a\ufffdb"


def test_a_whole_document_is_heard_like_a_stream() -> None:
    call = {"id": "call_a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": "Hi", "tool_calls": [call, call | {"id": "call_b"}]}
    document = {
        "choices": [{"message": message, "finish_reason": "tool_calls"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2},
    }
    body = json.dumps(document).encode()
    reply = Reply()
    reply.begin(None, whole=True)

    heard = [*reply.feed(body[:9]), *reply.feed(body[9:]), *reply.flush(), reply.finish()]

    assert heard == [
        TextDelta("Hi"),
        ToolCallDelta(0, "call_a", "f", "{}"),
        ToolCallDelta(1, "call_b", "f", "{}"),
        Finished("tool_calls", Usage(1, 2), None),
    ]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"message": "Slow down", "code": "rate_limit_exceeded"}, 429),
        ({"message": "Slow down", "code": 429}, 429),
        ({"message": "Too long", "type": "invalid_request_error", "code": "context_length_exceeded"}, 400),
        ({"message": "Oh no", "type": "server_error"}, None),
        ("Oh no", None),
    ],
)
def test_an_error_within_the_stream_is_trouble(error: Any, status: int | None) -> None:
    with pytest.raises(UpstreamTrouble) as raised:
        hear(b"event: error\ndata: " + json.dumps({"error": error}).encode() + b"\n\n")

    assert raised.value.status == status


@pytest.mark.parametrize(
    "frame",
    [
        b"data: <html>",
        b"data: 1",
        b"data: []",
        b"data: null",
        b'data: {"choices":1}',
        b'data: {"choices":[1]}',
        b'data: {"choices":[{"delta":{"content":5}}]}',
        b'data: {"choices":[{"delta":{"tool_calls":[{"index":[]}]}}]}',
        b'data: {"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"name":7}}]}}]}',
        b'data: {"choices":[{"finish_reason":{}}]}',
        b'data: {"usage":{"prompt_tokens":"many"}}',
        b"data: " + b"[" * 100_000,
    ],
)
def test_what_is_not_the_known_shape_is_trouble_and_nothing_else(frame: bytes) -> None:
    with pytest.raises(UpstreamTrouble):
        hear(frame + b"\n\n")


def test_an_event_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_events, "MAX_EVENT", 1000)

    with pytest.raises(UpstreamTrouble, match="event_too_large"):
        hear(*[b"x" * 100] * 11)


def test_a_reply_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_reply, "MAX_REPLY", 1000)

    with pytest.raises(UpstreamTrouble, match="reply_too_large"):
        hear(*[event({"content": "x"})] * 100)
