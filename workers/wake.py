"""A file descriptor by which one thread wakes another that polls: an eventfd on Linux, a pipe elsewhere."""

import os
import select
from contextlib import suppress

ONE = (1).to_bytes(8, "little")


class Wake:
    """`set` from any thread makes `fileno()` readable until `clear`; any number of `set`s are one wake-up.

    It lives as long as its process: closed under a thread that still writes, its number could be somebody else's.
    """

    def __init__(self) -> None:
        if hasattr(os, "eventfd"):
            self._reader = self._writer = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:
            self._reader, self._writer = os.pipe()
            os.set_blocking(self._reader, False)
            os.set_blocking(self._writer, False)

    def fileno(self) -> int:
        """What to poll for reading."""
        return self._reader

    def set(self) -> None:
        """Wake the poller. Never blocks."""
        with suppress(BlockingIOError):  # full: a wake-up is pending already
            os.write(self._writer, ONE)

    def clear(self) -> None:
        """Take back all wake-ups so far; look for work after this, not before."""
        with suppress(BlockingIOError):
            os.read(self._reader, 65536)

    def wait(self, timeout: float) -> bool:
        """Wait for `set` for at most `timeout` seconds."""
        poller = select.poll()
        poller.register(self._reader, select.POLLIN)
        return bool(poller.poll(timeout * 1000))
