"""What is dropped when a thread does not fit: one stretch in the middle, whatever the sizes are."""

import random

import pytest

from orchestrator.execution.conversation import Unit
from orchestrator.execution.truncation import HEAD, choose, newest_message


def unit(size: int, *, said: bool = True) -> Unit:
    return Unit([{}], said=said, run_id=None, bound=size, size=size)


def places(units: list[Unit], kept: list[Unit]) -> list[int]:
    return [place for place, each in enumerate(units) if any(each is one for one in kept)]


def test_what_fits_is_told_whole() -> None:
    units = [unit(10) for _ in range(10)]

    assert choose(units, 100) == units


def test_case_50_the_middle_goes_and_both_ends_stay() -> None:
    units = [unit(10) for _ in range(20)]

    assert places(units, choose(units, 100)) == [0, 1, 2, 3, 14, 15, 16, 17, 18, 19]


def test_without_a_head_the_oldest_go() -> None:
    units = [unit(10) for _ in range(20)]

    assert places(units, choose(units, 55, head=0)) == [15, 16, 17, 18, 19]


def test_the_beginning_takes_no_more_than_half() -> None:
    units = [unit(60), *[unit(10) for _ in range(20)]]

    assert places(units, choose(units, 100)) == list(range(11, 21))


def test_the_newest_message_is_told_even_if_it_does_not_fit() -> None:
    units = [unit(10), unit(10), unit(500)]

    assert places(units, choose(units, 100)) == [2]
    assert places(units, choose(units, -100)) == [2]


def test_the_newest_message_stays_when_calls_after_it_are_too_long() -> None:
    units = [unit(10), unit(20), unit(500, said=False)]

    assert places(units, choose(units, 100)) == [0, 1]


def test_calls_without_any_message_are_dropped_when_they_do_not_fit() -> None:
    assert choose([unit(500, said=False)], 100) == []
    assert newest_message([unit(500, said=False)]) is None


@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_sizes_are_the_choice_fits_and_keeps_order_and_newest(seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(200):
        units = [
            unit(dice.choice((1, 5, 20, 100, 1000)), said=dice.random() < 0.8) for _ in range(dice.randrange(1, 60))
        ]
        room = dice.randrange(-50, 3000)
        head = dice.choice((0, HEAD))

        kept = places(units, choose(units, room, head=head))

        newest = newest_message(units)
        total = sum(units[place].size or 0 for place in kept)
        assert total <= room or kept == ([] if newest is None else [newest])
        assert newest is None or newest in kept
        assert kept == sorted(set(kept))
        rest = [place for place in range(len(units)) if place not in kept]
        if rest and newest == len(units) - 1:
            assert rest == list(range(rest[0], rest[-1] + 1)), "one stretch"
            assert total + (units[rest[-1]].size or 0) > room, "no more than needed"
