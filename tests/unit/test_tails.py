"""Deltas wait for their stream: in order, within bounds, without holes; nothing else waits, nor anything behind it."""

import random
from collections import defaultdict
from collections.abc import Iterator

import hiredis
import pytest

from orchestrator.events import frames
from orchestrator.events.backlog import Batch
from orchestrator.events.frames import START, Cursor, Track
from orchestrator.events.tails import LAG, MOST, Attempt, Tails

RUN = "run_1"
NOBODY: set[Attempt] = set()
FIRM = {(RUN, 1)}


class Streams:
    """What Redis makes of commands: it appends, or refuses what is no news, and passes on."""

    def __init__(self) -> None:
        self.entries: dict[str, list[bytes]] = defaultdict(list)
        self.published: list[tuple[str, bytes]] = []
        self.forgotten: list[str] = []

    def take(self, commands: list[bytes]) -> None:
        for command, key, *rest in asked(commands):
            if command == "PUBLISH":
                self.published.append((key, rest[0]))
            elif command == "EXPIRE":
                self.forgotten.append(key)
            else:
                place = Cursor.parse(rest[3])
                assert place == frames.last_cursor(rest[-1])
                if place > self.last(key):
                    self.entries[key].append(rest[-1])

    def last(self, key: str) -> Cursor:
        return frames.last_cursor(self.entries[key][-1]) if self.entries[key] else START


def asked(commands: list[bytes]) -> Iterator[tuple[str, str, bytes, bytes, bytes, bytes, bytes]]:
    reader = hiredis.Reader()
    for command in commands:
        reader.feed(command)
        name, key, *rest = reader.gets()
        yield (name.decode(), key.decode(), *rest)
        assert reader.gets() is False


@pytest.fixture
def tails() -> Tails:
    return Tails(str, 60)


@pytest.fixture
def streams() -> Streams:
    return Streams()


@pytest.fixture
def track() -> Track:
    return Track(RUN, 1)


def said(track: Track, count: int, text: str = "word ") -> Batch:
    return track.texts("msg_1", [text] * count, first=False)


def joined(*batches: Batch) -> bytes:
    return b"".join(frame.data for batch in batches for frame in batch)


def test_deltas_behind_deltas_are_published_at_once_and_appended_together(
    tails: Tails, streams: Streams, track: Track
) -> None:
    begun = [track.frame("thread.run.in_progress", b"{}")]
    first, second, third = said(track, 1), said(track, 1), said(track, 2)
    streams.take(tails.commands([begun], FIRM, 0.0))
    for batch in (first, second, third):
        streams.take(tails.commands([batch], NOBODY, 1.0))

    assert [data for _, data in streams.published] == [joined(batch) for batch in (begun, first, second, third)]
    assert streams.entries[RUN] == [joined(begun), joined(first)]
    assert tails.due() == 1.0 + LAG

    streams.take(tails.commands([], NOBODY, 1.0 + LAG))

    assert streams.entries[RUN][2:] == [joined(second, third)]
    assert len(streams.published) == 4
    streams.take(tails.commands([], NOBODY, 1.0 + 2 * LAG))
    assert tails.due() is None


def test_what_is_no_delta_takes_along_what_waits_and_the_end_says_when_all_is_forgotten(
    tails: Tails, streams: Streams, track: Track
) -> None:
    first, second = said(track, 1), said(track, 1)
    end = [*said(track, 1), track.frame("thread.run.completed", b"{}")]
    streams.take(tails.commands([first], NOBODY, 0.0))
    streams.take(tails.commands([second], NOBODY, 0.0))
    streams.take(tails.commands([end], FIRM, 0.0))

    assert streams.entries[RUN] == [joined(first), joined(second, end)]
    assert streams.published[-1] == (RUN, joined(end))
    assert tails.due() is None
    assert streams.forgotten == [RUN, RUN]


def test_what_may_not_have_arrived_is_told_again_with_what_waited_before_it(
    tails: Tails, streams: Streams, track: Track
) -> None:
    first, second, third = said(track, 1), said(track, 1), said(track, 1)
    other = said(Track("run_2", 1), 1)
    streams.take(tails.commands([first], NOBODY, 0.0))
    streams.take(tails.commands([second], NOBODY, 0.0))
    tails.commands([third, other], NOBODY, 0.0)  # lost

    assert sorted(tails.taken_back()) == sorted([other, [*second, *third]])
    assert tails.taken_back() == []
    assert tails.due() is None
    streams.take(tails.commands([[*second, *third]], NOBODY, 0.0))
    assert streams.entries[RUN] == [joined(first), joined(second, third)]


def test_nothing_waits_beyond_the_bound_nor_when_the_process_ends(tails: Tails, streams: Streams, track: Track) -> None:
    first, long, short, last = said(track, 1), said(track, 1, "x" * MOST), said(track, 1), said(track, 1)
    for batch in (first, long, short):
        streams.take(tails.commands([batch], NOBODY, 0.0))
    assert streams.entries[RUN] == [joined(first), joined(long)]

    tails.hurry()
    streams.take(tails.commands([last], NOBODY, 0.0))

    assert streams.entries[RUN][2:] == [joined(short, last)]
    assert tails.due() is None


def test_no_entry_has_a_hole_whatever_was_dropped(tails: Tails, streams: Streams, track: Track) -> None:
    first, second, _dropped, third, _gone, fourth = (said(track, 2) for _ in range(6))
    streams.take(tails.commands([first], NOBODY, 0.0))
    streams.take(tails.commands([second], NOBODY, 0.0))
    streams.take(tails.commands([[*third, *fourth]], NOBODY, 0.0))

    assert streams.entries[RUN] == [joined(batch) for batch in (first, second, third, fourth)]


def test_no_message_has_a_hole_for_listeners_look_between_messages(
    tails: Tails, streams: Streams, track: Track
) -> None:
    first, _dropped, second = (said(track, 2) for _ in range(3))
    streams.take(tails.commands([[*first, *second]], NOBODY, 0.0))
    third, _gone, fourth = (said(track, 2) for _ in range(3))
    streams.take(tails.commands([[*third, *fourth]], FIRM, 0.0))

    assert streams.published == [(RUN, joined(batch)) for batch in (first, second, third, fourth)]


@pytest.mark.parametrize("seed", range(60))
def test_whatever_fails_every_stream_is_whole_and_behind_only_in_the_middle_of_a_text(seed: int) -> None:
    chance = random.Random(seed)
    tails, streams, now = Tails(str, 60), Streams(), 0.0
    tracks = [Track(f"run_{number}", 1) for number in range(3)]
    told: dict[str, Batch] = {track.run_id: [] for track in tracks}
    again: dict[str, Batch] = {}
    firm: set[Attempt] = set()
    for _ in range(80):
        now += chance.choice((0.0, 0.005, 0.1, LAG))
        for track in chance.sample(tracks, chance.randrange(3)):
            fresh = said(track, chance.choice((1, 1, 1, 3)))
            if chance.random() < 0.2:
                fresh.append(track.frame("thread.run.in_progress", b"{}"))
                firm.add((track.run_id, 1))
            told[track.run_id] += fresh
            again.setdefault(track.run_id, []).extend(fresh)
        commands = tails.commands(list(again.values()), firm, now)
        arrived = chance.choice((len(commands), len(commands), chance.randrange(len(commands) + 1)))
        streams.take(commands[:arrived])
        firm = set()
        if arrived == len(commands) and chance.random() < 0.9:  # otherwise only the answer was lost
            again = {}
            for key, entries in streams.entries.items():
                behind = told[key] and streams.last(key) < told[key][-1].cursor
                assert not behind or frames.last_event(entries[-1]) == "thread.message.delta"
        else:
            again = {batch[0].run_id: batch for batch in tails.taken_back()}
            firm = {(run_id, 1) for run_id in again}
    streams.take(tails.commands(list(again.values()), firm, now))
    streams.take(tails.commands([], NOBODY, now + LAG))

    for run_id, frames_ in told.items():
        heard = dict(pair for entry in streams.entries[run_id] for pair in frames.split(entry))
        assert heard == {frame.cursor: frame.data for frame in frames_}
        live = dict(pair for key, data in streams.published if key == run_id for pair in frames.split(data))
        assert live == heard
