"""Events that are known by their bytes say exactly what they would have said if they had been read."""

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator import openai_reply
from orchestrator.model import Delta, TextDelta
from orchestrator.openai_errors import UpstreamTrouble
from orchestrator.openai_reply import Reply
from orchestrator.openai_shape import Shape

TEXTS = [
    "Hello",
    " you",
    "",
    "\n",
    'say "hi"',
    "back\\slash",
    "Grüße",
    "🎈",
    "a\x00b",
    "\x00",
    "null",
    "Is the text here?",
]
TEXTS += ["\ud83c", "\udf88", "\u2028", "}", '","', "{}", "content", "x" * 5_000]


def event(content: Any, *, compact: bool = True, **more: Any) -> bytes:
    """A chunk as a provider may write it."""
    whole = {
        "id": "chatcmpl-1",
        "choices": [{"index": 0, "delta": {"content": content}, "finish_reason": None}],
        **more,
    }
    return b"data: " + json.dumps(whole, separators=(",", ":") if compact else None, ensure_ascii=False).encode(
        "utf-8", "surrogatepass"
    )


def escaped(content: str) -> bytes:
    """The same, all but ASCII escaped."""
    return b"data: " + json.dumps({"choices": [{"delta": {"content": content}}]}).encode()


def hear(chunks: list[bytes]) -> list[Delta] | str:
    """The deltas, or the reason why there are none."""
    return hear_by(Reply(), chunks, [])


def hear_by(reply: Reply, chunks: list[bytes], heard: list[Delta]) -> list[Delta] | str:
    """The same, by a reply whose ear puts what it is told into `heard`."""
    reply.begin(None, whole=False)
    try:
        for chunk in chunks:
            if not reply.offered(chunk):
                heard += reply.feed(chunk)
        return [*heard, *reply.flush(), reply.finish()]
    except UpstreamTrouble as trouble:
        return trouble.reason


ODD = [
    b'data: {"choices":[{"delta":{"content":"a","content":"b"}}]}',
    b'data: {"content":"Hello","choices":[{"delta":{"content":"Hello"}}]}',
    b'data: {"choices":[{"delta":{"content":"Hello","refusal":"no"}}]}',
    b'data: {"choices":[{"delta":{"content":[{"type":"text","text":"parts"}]}}]}',
    b'data: {"choices":[{"message":{"content":"Hello"}}]}',
    b'data:{"choices":[{"delta":{"content":"no space"}}]}',
    b'event: x\ndata: {"choices":[{"delta":{"content":"two lines"}}]}',
    b": ping",
    b'data: {"choices":[{"delta":{"tool_calls":[{"index":0,"id":"c","function":{"name":"f","arguments":"{}"}}]}}]}',
    b'data: {"choices":[{"delta":{"content":"!"},"finish_reason":"stop"}]}',
    b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}',
    b'data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{"content":"\xff"},"finish_reason":null}]}',
    b'data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{"content":"a\tb"},"finish_reason":null}]}',
    b'data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{"content":null},"finish_reason":null}]}',
    b'data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{"content":7},"finish_reason":null}]}',
    b'data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{"content":"a","content":"b"},"finish_reason":null}]}',
    b'data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]',
]


@pytest.mark.parametrize("seed", range(60))
def test_a_reply_is_the_same_whether_its_events_are_known_or_read(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    dice = random.Random(seed)
    makers: list[Callable[[str], bytes]] = [
        event,
        lambda text: event(text, compact=False),
        escaped,
        lambda text: event(text, created=dice.random()),
    ]
    usual = dice.choice(makers)
    blocks = [usual(dice.choice(TEXTS)) for _ in range(dice.randint(1, 40))]
    for _ in range(dice.choice([0, 0, 1, 4])):
        blocks.insert(dice.randint(0, len(blocks)), dice.choice([*ODD, dice.choice(makers)(dice.choice(TEXTS))]))
    ending = dice.choice([b"\n\n", b"\n\n", b"\r\n\r\n"])
    whole = ending.join([*blocks, b"data: [DONE]", b""])
    if dice.random() < 0.5:
        chunks = [block + ending for block in blocks] + [b"data: [DONE]" + ending]
    else:
        cuts = sorted(dice.randint(0, len(whole)) for _ in range(dice.randint(0, 12)))
        chunks = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]

    known = hear(chunks)
    told: list[Delta] = []

    def ear(text: str) -> bool:
        willing = dice.random() < 0.8
        if willing:
            told.append(TextDelta(text))
        return willing

    assert known == hear_by(Reply(ear), chunks, told)
    monkeypatch.setattr(openai_reply, "LESSONS", 0)

    assert known == hear(chunks)


def test_an_ear_is_told_of_what_only_carries_text() -> None:
    told: list[str] = []

    def ear(text: str) -> bool:
        told.append(text)
        return text != "no"

    reply = Reply(ear)
    reply.begin(None, whole=False)
    end = b"\n\n"

    assert not reply.offered(event("Not known yet") + end)
    reply.feed(event("Hello") + end)
    assert reply.offered(event(" you") + end)
    assert not reply.offered(event("no") + end)
    assert not reply.offered(event(" two") + end + event(" events") + end)
    assert not reply.offered(event(" torn")[:-1])
    reply.feed(event(" torn")[:-1])
    assert not reply.offered(event(" in between") + end)
    assert told == [" you", "no"]
    assert not Reply().offered(event(" nobody") + end)


def shape_of(data: bytes) -> Shape | None:
    return Shape.of(data, json.loads(data))


def test_an_event_that_differs_in_its_text_is_known_and_any_other_is_not() -> None:
    shape = shape_of(event("Hello").removeprefix(b"data: "))

    assert shape is not None
    assert shape.text(event(' "you"\n')) == ' "you"\n'
    assert shape.text_of_one(event("ü") + b"\n\n") == "ü"
    assert shape.text_of_one(event("a") + b"\n\n" + event("b") + b"\n\n") is None
    assert shape.text(event("Hello", created=1)) is None


@pytest.mark.parametrize(
    "data",
    [
        b'{"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}',
        b'{"choices":[{"delta":{"content":"a"}}],"usage":{"prompt_tokens":1}}',
        b'{"choices":[{"delta":{"content":"a","refusal":"no"}}]}',
        b'{"name":"a","choices":[{"delta":{"content":"a"}}]}',
        b'{"content":"a","choices":[{"delta":{"content":"\\u0061"}}]}',
        b'{"choices":[{"delta":{"content":"a"},"delta":{"content":"\\u0061"}}]}',
    ],
)
def test_an_event_that_says_more_than_a_text_or_says_it_in_doubt_has_no_shape(data: bytes) -> None:
    assert shape_of(data) is None


def test_a_reply_whose_events_all_look_different_is_not_learnt_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    lessons: list[bytes] = []

    def learn(data: bytes, _: object) -> None:
        lessons.append(data)

    monkeypatch.setattr(Shape, "of", learn)

    heard = hear([event("a", created=n) + b"\n\n" for n in range(100)] + [b"data: [DONE]\n\n"])

    assert heard[:-1] == [TextDelta("a")] * 100
    assert len(lessons) == openai_reply.LESSONS
