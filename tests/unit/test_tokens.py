"""Tokens are counted offline: exactly where the encoding is the model's own, never too low where nothing is counted."""

import asyncio
import random

import pytest

from orchestrator import tokens

TEXTS = {
    "": (0, 0),
    "hello world": (2, 2),
    "The quick brown fox jumps over the lazy dog.": (10, 10),
    "antidisestablishmentarianism": (6, 6),
    "2 + 2 = 4": (7, 7),
    "お誕生日おめでとう": (8, 9),
    "<|endoftext|>": (7, 7),
    "\x00": (1, 1),
}
"""Texts with their tokens in o200k_base and cl100k_base, the first ones as OpenAI's cookbook counts them."""


@pytest.mark.parametrize("text", TEXTS)
def test_texts_are_counted_as_openai_counts_them(text: str) -> None:
    assert (tokens.count("gpt-4o", text), tokens.count("gpt-4", text)) == TEXTS[text]


@pytest.mark.parametrize(
    ("model", "encoding", "exact"),
    [
        ("gpt-4o-mini", "o200k_base", True),
        ("gpt-4.1", "o200k_base", True),
        ("gpt-5.1-codex", "o200k_base", True),
        ("o1", "o200k_base", True),
        ("o3-mini", "o200k_base", True),
        ("openai/gpt-4o", "o200k_base", True),
        ("ft:gpt-4o-mini-2024-07-18:acme::abc123", "o200k_base", True),
        ("ft:gpt-3.5-turbo-0125:acme:support:abc123", "cl100k_base", True),
        ("gpt-4", "cl100k_base", True),
        ("gpt-4-turbo", "cl100k_base", True),
        ("gpt-oss-20b", "o200k_harmony", True),
        ("Qwen/Qwen3.5-9B", "qwen3.5", True),
        ("Qwen/Qwen2.5-7B-Instruct", "o200k_base", False),
        ("olmo-2", "o200k_base", False),
        ("meta-llama/Llama-3.1-8B-Instruct", "o200k_base", False),
        ("ft:", "o200k_base", False),
        ("", "o200k_base", False),
    ],
)
def test_a_models_name_tells_its_encoding(model: str, encoding: str, exact: bool) -> None:
    assert tokens.encoding(model) == (encoding, exact)


@pytest.mark.parametrize(
    ("text", "real"),
    [
        ("The quick brown fox jumps over the lazy dog, and nobody minds. " * 8, 120),
        ("1234567890 " * 20, 227),
        ("お誕生日おめでとうございます。" * 15, 142),
    ],
    ids=["prose", "digits", "japanese"],
)
def test_an_estimate_is_near_what_an_open_model_has_counted(text: str, real: int) -> None:
    message = {"role": "user", "content": text}

    assert abs(tokens.count_messages("qwen2.5-coder-0.5b-instruct", [message])[0] - real) < 0.12 * real


def test_messages_cost_what_is_around_them_and_calls_what_is_in_them() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    messages = [
        {"role": "user", "content": "hello world"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "hello world"},
        {"role": "user", "content": [{"type": "text", "text": "hello world"}]},
    ]

    plain, called, result, listed = tokens.count_messages("gpt-4o", messages)

    assert plain == result == listed == tokens.MESSAGE + 2
    assert called == tokens.MESSAGE + tokens.CALL + sum(
        tokens.count("gpt-4o", text) for text in ("get_weather", '{"city": "Paris"}')
    )


@pytest.mark.parametrize(
    ("part", "cost"),
    [
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000, "detail": "low"}}, 85),
        ({"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "high"}}, 1105),
        ({"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}, 1105),
        ({"type": "image_file", "image_file": {"file_id": "file-1", "detail": "low"}}, 85),
        ({"type": "image_file", "image_file": {"file_id": "file-1", "detail": "auto"}}, 1105),
    ],
)
def test_an_image_costs_what_its_detail_says_however_it_is_sent(part: dict[str, object], cost: int) -> None:
    message = {"role": "user", "content": [part]}

    assert tokens.count_messages("gpt-4o", [message]) == [tokens.MESSAGE + cost]
    assert tokens.count_messages("llama-3", [message]) == [tokens.bound(message)] == [tokens.TEMPLATE + cost]


def test_tools_and_schemas_cost_their_json() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}

    counted = tokens.count_offers("gpt-4o", tool, None, tool)

    assert 0 < counted <= tokens.bound_offers(tool, None, tool)
    assert counted == 2 * tokens.count_offers("gpt-4o", tool)
    assert tokens.count_offers("gpt-4o") == 0


def test_a_bound_is_never_below_the_count() -> None:
    dice = random.Random(7)
    alphabets = ("abc ", "äöü ", "日本語", "🧠👍", "0123456789", "\n\t ", "🧠aß日1 ")
    for _ in range(300):
        text = "".join(dice.choices(dice.choice(alphabets), k=dice.randrange(80)))
        message = {"role": "user", "content": text}
        for model in ("gpt-4o", "gpt-4", "qwen3.5", "qwen3"):
            assert tokens.count_messages(model, [message])[0] <= tokens.bound(message)


async def test_large_texts_are_counted_the_same_beside_the_event_loop() -> None:
    message = {"role": "user", "content": "The quick brown fox. " * 20_000}

    assert await tokens.measure("gpt-4o", [message, message]) == tokens.count_messages("gpt-4o", [message, message])


async def test_large_tools_are_counted_beside_the_event_loop() -> None:
    described = {"type": "string", "description": "The quick brown fox. " * 100}
    tool = {"type": "function", "function": {"name": "f", "parameters": {f"p{n}": described for n in range(100)}}}

    counting = asyncio.create_task(tokens.measure_offers("gpt-4o", tool, None))
    await asyncio.sleep(0)

    assert not counting.done()
    assert await counting == tokens.count_offers("gpt-4o", tool)
