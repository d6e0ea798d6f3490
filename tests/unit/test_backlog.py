"""What waits for Redis keeps its order, and stays within its bounds without tearing what a run says."""

from orchestrator.events.backlog import Backlog, Batch
from orchestrator.events.frames import Frame, Track


def told(run_id: str, count: int, attempt: int = 1) -> list[Frame]:
    track = Track(run_id, attempt)
    return [track.frame("thread.message.delta", b'{"n":%d}' % number) for number in range(count)]


def filled(*frames: Frame, most: int = 1000, size: int = 10**6) -> Backlog:
    backlog = Backlog(most, size)
    for frame in frames:
        backlog.add(frame)
    return backlog


def flat(batches: list[Batch]) -> list[Frame]:
    return [frame for batch in batches for frame in batch]


def test_all_is_taken_at_once_if_it_is_little() -> None:
    first, second = told("run_1", 3), told("run_2", 2)
    backlog = filled(*first, *second)

    assert backlog.take(10**6) == [first, second]
    assert len(backlog) == 0
    assert backlog.take(10**6) == []


def test_much_is_taken_in_slices_that_keep_the_order() -> None:
    frames = told("run_1", 50)
    backlog = filled(*frames)

    slices: list[list[Frame]] = []
    while len(backlog):
        slices.append(flat(backlog.take(5 * len(frames[0].data))))

    assert len(slices) > 5
    assert flat(slices) == frames


def test_what_could_not_be_sent_goes_before_what_came_since() -> None:
    first, second = told("run_1", 6), told("run_2", 2)
    backlog = filled(*first[:4])
    taken = backlog.take(10**6)
    for frame in (*second, *first[4:]):
        backlog.add(frame)

    backlog.give_back(taken)

    assert backlog.take(10**6) == [first, second]


def test_attempts_of_a_run_stay_apart_and_in_order() -> None:
    first, second = told("run_1", 2, attempt=1), told("run_1", 2, attempt=2)

    assert filled(*first, *second).take(10**6) == [first, second]


def test_a_full_backlog_drops_all_that_the_longest_run_says_and_nothing_of_others() -> None:
    short, long = told("run_1", 3), told("run_2", 20)

    for backlog in (
        filled(*short, *long, most=22),
        filled(*short, *long, size=sum(len(f.data) for f in short + long) - 1),
    ):
        assert backlog.take(10**6) == [short]
        assert len(backlog) == 0


def test_what_is_given_back_counts_too() -> None:
    short, long = told("run_1", 3), told("run_2", 20)
    backlog = filled(*long, most=22)
    taken = backlog.take(10**6)
    for frame in short:
        backlog.add(frame)

    backlog.give_back(taken)

    assert backlog.take(10**6) == [short]
