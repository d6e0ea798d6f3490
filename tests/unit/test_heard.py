"""What a listener has heard: nothing is relayed behind a hole, and what is missing of a text is known."""

import orjson
import pytest

from orchestrator.events import frames
from orchestrator.events.frames import START, Cursor, Track
from orchestrator.events.heard import Heard, Part, untold

WORDS = ['Say "\\n', "élan vital \u2028", '"text":{"value":"no"}', '"type":"refusal","refusal":"no"', "", " \\ end"]


class Story:
    """The frames of one attempt."""

    def __init__(self, attempt: int = 1) -> None:
        self.track = Track("run_1", attempt)

    def tell(self, event: str, id_: str = "run_1") -> bytes:
        return self.track.frame(f"thread.{event}", orjson.dumps({"id": id_, "object": "x"})).data

    def open(self, message: str = "msg_1", step: str = "step_1") -> list[bytes]:
        told = [self.tell(f"run.step.{change}", step) for change in ("created", "in_progress")]
        return [*told, *(self.tell(f"message.{change}", message) for change in ("created", "in_progress"))]

    def say(self, text: str, *, first: bool = False) -> bytes:
        return self.track.frame("thread.message.delta", frames.message_delta("msg_1", text, first=first)).data

    def decline(self, text: str) -> bytes:
        return self.track.frame("thread.message.delta", frames.refusal_delta("msg_1", 0, text)).data

    def close(self, message: str = "msg_1", step: str = "step_1") -> list[bytes]:
        return [self.tell("message.completed", message), self.tell("run.step.completed", step)]


def test_a_whole_run_is_relayed_as_it_is() -> None:
    heard, story = Heard(START), Story()
    told = [
        *story.open(),
        *(story.say(word, first=not place) for place, word in enumerate(WORDS)),
        *story.close(),
        *story.open("msg_2", "step_2"),
        *story.close("msg_2", "step_2"),
        story.tell("run.completed"),
    ]

    assert [heard.follow(frame) for frame in told] == told
    assert not heard.hole
    assert heard.open == {}
    assert heard.ended == {"msg_1", "step_1", "msg_2", "step_2"}


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize("said", range(len(WORDS) + 1))
def test_what_is_missing_of_a_text_can_be_cut_off_it(said: int, size: int) -> None:
    heard, story = Heard(START), Story()
    told = [*story.open(), *(story.say(word, first=not place) for place, word in enumerate(WORDS[:said]))]
    for place in range(0, len(told), size):  # however they travel together
        heard.follow(b"".join(told[place : place + size]))

    assert untold("".join(WORDS), heard.open["msg_1"].text) == "".join(WORDS[said:])
    assert heard.open["msg_1"].refusal == Part()


def test_what_is_missing_of_a_refusal_can_be_cut_off_it() -> None:
    heard, story = Heard(START), Story()
    told = [*story.open(), story.say("Hm. ", first=True), *map(story.decline, WORDS[:3])]
    for frame in told:
        heard.follow(frame)

    assert untold("".join(WORDS), heard.open["msg_1"].refusal) == "".join(WORDS[3:])
    assert untold("Hm. ", heard.open["msg_1"].text) == ""


def test_nothing_is_cut_off_a_text_that_begins_otherwise() -> None:
    heard, story = Heard(START), Story()
    for frame in (*story.open(), story.say("Hello", first=True)):
        heard.follow(frame)

    assert untold("Hallo, you", heard.open["msg_1"].text) is None
    assert untold("Hell", heard.open["msg_1"].text) is None
    assert untold("Hello", heard.open["msg_1"].text) == ""
    assert untold("Hello", Part()) == "Hello"


@pytest.mark.parametrize(
    "next_", ["run.step.created", "message.created", "run.completed", "run.requires_action", "run.failed"]
)
def test_what_does_not_follow_from_what_was_heard_tells_of_a_hole(next_: str) -> None:
    heard, story = Heard(START), Story()
    for frame in (*story.open(), story.say("Hel", first=True)):
        heard.follow(frame)

    assert heard.follow(story.tell(next_, "step_2")) == b""

    assert heard.hole
    assert heard.follow(story.say("lo")) == b""
    assert heard.open.keys() == {"step_1", "msg_1"}


def test_a_batch_is_relayed_up_to_the_hole() -> None:
    heard, story = Heard(START), Story()
    told = [*story.open(), story.tell("run.completed")]

    assert heard.follow(b"".join(told)) == b"".join(told[:-1])


def test_calls_may_be_open_while_the_client_is_waited_for() -> None:
    heard, story = Heard(START), Story()
    told = [story.tell("run.step.created", "step_1"), story.tell("run.requires_action")]

    assert [heard.follow(frame) for frame in told] == told


def test_the_end_of_what_was_never_told_to_have_begun_is_not_relayed() -> None:
    heard, story = Heard(START), Story()

    assert [heard.follow(frame) for frame in story.close()] == [b"", b""]
    assert not heard.hole


@pytest.mark.parametrize(("after", "relayed"), [(Cursor(3, 0), 1), (Cursor(3, 7), 3)])
def test_who_goes_on_with_a_run_hears_the_end_of_what_was_open(after: Cursor, relayed: int) -> None:
    heard, story = Heard(after), Story(3)
    told = [story.tell("run.step.completed", "step_1"), *story.close("msg_0", "step_0")]

    assert [heard.follow(frame) for frame in told] == told[:relayed] + [b""] * (3 - relayed)


@pytest.mark.parametrize(("last", "hole"), [("thread.run.queued", False), ("thread.message.delta", True)])
def test_after_a_lost_worker_the_end_is_compared_with_what_is_stored(last: str, hole: bool) -> None:
    heard, story = Heard(START), Story(2)

    heard.next_attempt(last)
    heard.follow(story.tell("run.completed"))

    assert heard.hole is hole


@pytest.mark.parametrize("behind", [False, True])
def test_an_end_that_is_told_behind_a_hole_is_kept_for_a_run_that_is_deleted_meanwhile(behind: bool) -> None:
    heard, story = Heard(START), Story(2)
    heard.hole = behind
    heard.next_attempt("thread.run.in_progress")
    cancelling, cancelled = story.tell("run.cancelling"), story.tell("run.cancelled")

    relayed = heard.follow(cancelling + cancelled)

    assert relayed == (b"" if behind else cancelling)
    assert heard.end == cancelled


def test_a_rest_for_outputs_is_no_end() -> None:
    heard, story = Heard(START), Story(2)
    heard.next_attempt("thread.message.delta")

    heard.follow(story.tell("run.requires_action"))

    assert (heard.hole, heard.end) == (True, b"")
