"""One thread wakes another, with an eventfd or without."""

import os
import threading

import pytest

from workers.wake import Wake


@pytest.fixture(params=["eventfd", "pipe"])
def wake(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Wake:
    if request.param == "pipe":
        monkeypatch.delattr(os, "eventfd", raising=False)
    elif not hasattr(os, "eventfd"):
        pytest.skip("this system has no eventfd")
    return Wake()


def test_any_number_of_sets_is_one_wake_up(wake: Wake) -> None:
    for _ in range(3):
        wake.set()

    assert wake.wait(0)
    wake.clear()
    assert not wake.wait(0)


def test_a_waiting_thread_wakes_up(wake: Wake) -> None:
    waker = threading.Thread(target=wake.set)
    waker.start()

    assert wake.wait(10)
    waker.join()


def test_clearing_what_is_not_set_does_not_block(wake: Wake) -> None:
    wake.clear()

    assert not wake.wait(0)


def test_setting_never_blocks(wake: Wake) -> None:
    for _ in range(20_000):
        wake.set()

    wake.clear()
    assert not wake.wait(0)
