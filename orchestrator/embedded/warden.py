"""The parent of the supervisor: outlives it, and sees to it that nothing else does.

    warden ── supervisor ── postgres, valkey, model, api, worker, beat ── whatever they start

The kernel ends the supervisor's children when it is killed (PDEATHSIG). Their own children are not told; but supervisor
and warden are "subreapers": who loses its parent becomes a child of the nearest of them, which ends it. If the warden
itself is killed, the kernel asks the supervisor to stop everything in order.
"""

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Collection
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
GRACE = 8.0

_is_reaper = False


def part_from_warden() -> int | None:
    """Fork: returns None in the child, which shall do the work, and its exit code in the parent, once nothing is left.

    Call it early and with a single thread. Where the kernel has no such thing as a subreaper, nothing is forked.
    """
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    warden = os.getpid()
    child = os.fork()
    global _is_reaper
    _is_reaper = True
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if child == 0:
        libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != warden:
            os._exit(1)
        return None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _: _send(child, signal.Signals(received)))
    code = os.waitstatus_to_exitcode(_wait_for(child))
    bury_the_rest()
    return code if code >= 0 else 128 - code


def _wait_for(child: int) -> int:
    """Wait for the supervisor, collecting orphans on the way."""
    while True:
        pid, status = os.wait()
        if pid == child:
            return status


def collect_orphans(ours: Collection[int]) -> None:
    """Take note of the deaths of orphans that came to us; children that somebody else waits for are not touched."""
    while _is_reaper:
        try:
            dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if dead is None or dead.si_pid in ours:
            return
        os.waitpid(dead.si_pid, 0)


def bury_the_rest() -> None:
    """Ask whoever is left to end, then end them. Orphans of orphans become children of ours in turn."""
    deadline = time.monotonic() + GRACE
    asked: set[int] = set()
    while _is_reaper and _any_left():
        forced = time.monotonic() >= deadline
        for pid in _children():
            if forced or pid not in asked:
                asked.add(pid)
                _send(pid, signal.SIGKILL if forced else signal.SIGTERM)
        if time.monotonic() >= deadline + GRACE:  # not even SIGKILL helps: a process in uninterruptible sleep
            return
        time.sleep(0.02)


def _any_left() -> bool:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _children() -> list[int]:
    return [
        int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and _parent(entry) == os.getpid()
    ]


def _parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return 0


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
