"""Frames and cursors: what the API cuts, compares and relays."""

import orjson
import pytest

from orchestrator.events import frames
from orchestrator.events.frames import Cursor, Track


def batch(attempt: int, count: int) -> tuple[list[bytes], bytes]:
    track = Track("run_1", attempt)
    single = [track.frame("thread.message.delta", b'{"text":"a\\n\\nid: 9-9"}').data for _ in range(count)]
    return single, b"".join(single)


def test_a_frame_carries_its_cursor_its_event_and_one_line_of_data() -> None:
    frame = Track("run_1", 3).frame("thread.run.queued", b'{"id":"run_1"}')

    assert frame.data == b'id: 3-1\nevent: thread.run.queued\ndata: {"id":"run_1"}\n\n'
    assert frame.cursor == Cursor(3, 1)


def test_frames_of_many_texts_are_those_that_are_made_one_by_one() -> None:
    texts = ["Hello", ' "you"\n', "\u2028 and \x85", "Grüße", "", "\u2029"]
    single, together = Track("run_1", 3), Track("run_1", 3)
    made = [
        single.frame("thread.message.delta", frames.message_delta("msg_1", text, first=place == 0))
        for place, text in enumerate(texts)
    ]

    assert [*together.texts("msg_1", texts[:2], first=True), *together.texts("msg_1", texts[2:], first=False)] == made
    alone = Track("run_1", 3)
    assert [alone.text("msg_1", text, first=place == 0) for place, text in enumerate(texts)] == made
    assert all(len(frame.data.decode().splitlines()) == 4 for frame in made)
    assert orjson.loads(made[2].data.split(b"data: ")[1])["delta"]["content"][0]["text"]["value"] == texts[2]


def test_frames_of_some_events_are_those_that_are_made_one_by_one() -> None:
    alone, together = Track("run_1", 2), Track("run_1", 2)
    events = [("thread.run.step.created", b'{"a":1}'), ("thread.message.created", '{"\u2028":"ü\x85"}'.encode())]

    made = [*together.frames(events), together.frame("done", b"{}")]

    assert made == [alone.frame(event, data) for event, data in [*events, ("done", b"{}")]]


def test_cursors_compare_by_attempt_first() -> None:
    assert Cursor(2, 1) > Cursor(1, 99)
    assert Cursor.parse("2-10") > Cursor.parse(b"2-9")


@pytest.mark.parametrize("text", ["", "1", "a-1", "1-2-3", "-1-2", "1-", "٣-1", "1 - 2", "1-9999999999999999999"])
def test_what_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a cursor"):
        Cursor.parse(text)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_batch_knows_its_ends_and_can_be_cut(count: int) -> None:
    single, joined = batch(4, count)

    assert frames.first_cursor(joined) == Cursor(4, 1)
    assert frames.last_cursor(joined) == Cursor(4, count)
    assert frames.split(joined) == [(Cursor(4, place + 1), frame) for place, frame in enumerate(single)]


def test_the_last_event_of_a_batch_is_found_behind_others() -> None:
    track = Track("run_1", 1)
    joined = track.frame("thread.message.delta", b"{}").data + track.frame("thread.run.completed", b"{}").data

    assert frames.last_event(joined) == "thread.run.completed"
    assert frames.last_event(joined) in frames.RESTING


def test_no_character_of_the_data_ends_a_line_for_anybody() -> None:
    frame = Track("run_1", 1).frame("thread.message.delta", orjson.dumps("a\u2028b\u2029c\u0085d…"))

    assert frame.data.decode().splitlines() == [
        "id: 1-1",
        "event: thread.message.delta",
        'data: "a\\u2028b\\u2029c\\u0085d…"',
        "",
    ]


def test_only_the_first_delta_of_a_text_has_annotations() -> None:
    first = frames.message_delta("msg_1", 'say "hi"\n', first=True)
    later = frames.message_delta("msg_1", "…", first=False)

    assert first.endswith(b'"text":{"value":"say \\"hi\\"\\n","annotations":[]}}]}}')
    assert later.endswith('"text":{"value":"…"}}]}}'.encode())
