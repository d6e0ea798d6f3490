"""One HTTP/1.1 connection, its answers parsed as they arrive: what `orchestrator.http_stream` is made of.

At most one request is under way. A connection learns from the transport and the parser (`orchestrator.http_parsing`),
and whoever reads takes what came since: nothing is awaited for each piece. Who says little and often is not read every
time (`orchestrator.http_gathering`). Everything is bounded: heads, what a server may send that is neither head nor
body, what was read and not yet taken (reading pauses), and silence: one timer, set again only when it goes off.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from typing_extensions import override

from orchestrator.http_gathering import PATIENCE, Gatherer
from orchestrator.http_parsing import Incoming

FEW: Final = 8
"""Pieces that are looked at one by one: each may be a token."""
HIGH_WATER: Final = 256 * 1024
"""Bytes of a body that wait to be taken; reading pauses beyond."""
LINGER: Final = 0.25
"""Seconds for the end of an answer that is not needed, so that its connection can be used again."""


class BrokenError(ConnectionError):
    """The connection broke, or what came over it is no HTTP."""


class SilenceError(TimeoutError):
    """The server said nothing for too long."""


class Connection(Incoming, asyncio.Protocol):
    """One connection, at most one request at a time. Made by its Server, read through an Answer."""

    __slots__ = (
        "_due",
        "_forgiving",
        "_free",
        "_gatherer",
        "_heard",
        "_loop",
        "_offer",
        "_paused",
        "_reading",
        "_resting",
        "_silence",
        "_timer",
        "_tls",
        "_transport",
        "_waiter",
        "_when_over",
        "busy",
        "error",
    )

    _transport: asyncio.Transport
    _tls: bool

    def __init__(self, gatherer: Gatherer) -> None:
        super().__init__()
        self._gatherer = gatherer
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._due = self._heard = 0.0
        self._waiter: asyncio.Future[bytes] | None = None
        self._free: dict[Connection, float] | None = None
        self.busy = self._paused = self._resting = False
        self._begin(0.0)

    def _begin(self, silence: float) -> None:
        self._when_over: Callable[[Connection], None] | None = None
        self._silence = silence
        self._reading = self._forgiving = False
        self._offer: Callable[[bytes], bool] | None = None
        self.error: OSError | None = None

    @property
    def reusable(self) -> bool:
        """Whether another request may be sent."""
        return self.over and self.keep and not self._transport.is_closing()

    def ask(self, request: bytes, silence: float) -> None:
        """Send a request. From now on the server must not be silent for longer than `silence` seconds."""
        if self._transport.is_closing():  # nobody would say so again
            raise BrokenError("connection closed")
        self._clear()
        self._begin(silence)
        self._free = None
        self.busy, self.over, self.keep = True, False, False
        self._watch_silence(silence)
        self._transport.write(request)

    def expect(self, silence: float) -> None:
        """From now on the server must not be silent for longer than this."""
        if silence != self._silence:
            self._silence = silence
            self._watch_silence(silence)

    def head(self) -> "asyncio.Future[bytes]":
        """Done, with nothing, when the head of the answer is here. Its exception is an OSError."""
        self._reading, self._offer = False, None
        return self._wait()

    def read(self, within: float | None, offer: Callable[[bytes], bool] | None = None) -> "asyncio.Future[bytes]":
        """What has come of the body, or comes next; nothing at its end. Its exception is an OSError, unless `within`
        says for how long to wait for the rest of an answer to which nothing more may happen. What `offer` takes is
        waited for no more: it is given all that comes first. What it raises is the future's exception.
        """
        self._reading, self._forgiving, self._offer = True, within is not None, offer
        if within is not None and not self.over:
            self.expect(within)
        return self._wait()

    def _wait(self) -> "asyncio.Future[bytes]":
        self._waiter = waiter = self._loop.create_future()
        self._answer()
        return waiter

    def _answer(self) -> None:
        """Give what came straight to whoever waits: an `await` for each token, and nothing around it."""
        waiter = self._waiter
        if waiter is None or not (self.over or (self.body if self._reading else self.status)):
            return
        if waiter.done():  # nobody waits any more
            self._waiter = None
            return
        if self._offer is not None and self.body and not self.over:
            self._offer_first(self._offer, waiter)
            return
        self._waiter = None
        if self.body and self._reading:
            waiter.set_result(self.take())
        elif self.error is None or self._forgiving or (self.status and not self._reading):
            waiter.set_result(b"")
        else:
            waiter.set_exception(self.error)
            waiter.exception()  # whoever asked may be cancelled in this moment: nobody needs to hear of it then

    def _offer_first(self, offer: Callable[[bytes], bool], waiter: "asyncio.Future[bytes]") -> bool:
        """Offer the pieces one by one, many as one; returns whether all were taken. Otherwise nobody waits now."""
        pieces = [self.take()] if self._paused or len(self.body) > FEW else self.body
        self.body, self._unread, taken = [], 0, 0
        try:
            while taken < len(pieces) and offer(pieces[taken]):
                taken += 1
        except Exception as error:
            waiter.set_exception(error)
        else:
            if taken == len(pieces):
                return True
            waiter.set_result(b"".join(pieces[taken:]))
        self._waiter = None
        return False

    def _rest(self) -> None:
        """Read nothing for a moment. Not over TLS: it would be decrypted all the same, and uvloop drops what was not
        taken when a server closes without a farewell.
        """
        if not (self._resting or self._paused or self._tls) and self._gatherer.takes(self):
            self._resting = True
            self._transport.pause_reading()

    def wake(self) -> None:
        """Read again after a rest."""
        if self._resting:
            self._resting = False
            if not (self._paused or self._transport.is_closing()):
                self._transport.resume_reading()

    def take(self) -> bytes:
        """What came of the body since the last time."""
        pieces, self.body = self.body, []
        self._unread = 0
        if self._paused:
            self._paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()
                self._watch_silence(self._silence)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def lingers(self, when_over: "Callable[[Connection], None]") -> bool:
        """Call `when_over` when the answer's end comes, or shortly after, whatever comes instead; False if it is over
        now.
        """
        if self.over or self._transport.is_closing():
            return False
        self.take()
        self.wake()
        self._when_over = when_over
        self._silence = LINGER
        self._watch_silence(LINGER)
        return True

    def rest(self, free: "dict[Connection, float]") -> None:
        """Nothing is expected: whatever comes now ends the connection, which is one of `free`."""
        self.busy = False
        self.body = []
        self._offer = None  # it would keep all that the answer was for
        self._free = free

    def abort(self) -> None:
        """Cut the connection."""
        self.busy = False
        self._offer = None
        self._transport.abort()

    # -- what the transport says --

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It stands."""
        self._transport = transport  # type: ignore[assignment]  # it is a stream
        self._tls = transport.get_extra_info("sslcontext") is not None

    @override
    def data_received(self, data: bytes) -> None:
        """Some bytes of an answer."""
        if not self.busy or self.over:  # nobody asked
            self.keep = False
            self._transport.abort()
            return
        last = self._heard
        if self._when_over is None:
            self._heard = self._loop.time()
        if (wrong := self._parse(data)) is not None:
            self._fail(BrokenError(wrong))
        waiter, offer = self._waiter, self._offer
        if waiter is not None and offer is not None and self.body and not self.over and not waiter.done():
            pieces = len(self.body)
            if self._offer_first(offer, waiter) and (pieces > 1 or self._heard - last < PATIENCE):
                self._rest()
        else:
            self._tell()
        if self._unread > HIGH_WATER and not self._paused and not self.over:
            self._paused = True
            self._transport.pause_reading()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone. An answer without a stated length ends thus."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._free is not None:
            self._free.pop(self, None)
        self.keep = False
        if not self.over:
            self.over = True
            if exc is not None or not self.status or self._framed:
                self.error = BrokenError(type(exc).__name__ if exc is not None else "connection closed")
        self._tell()
        del self._parser  # it and we hold each other

    # -- what follows --

    def _tell(self) -> None:
        if self._waiter is not None:
            self._answer()
        when_over = self._when_over
        if when_over is not None:
            self.take()
            if self.over:
                self._when_over = None
                when_over(self)

    def _fail(self, error: OSError) -> None:
        """What is wrong behind the answer's end is wrong only for the next one."""
        self.keep = False
        if not self.over:
            self.over, self.error = True, error
        self._transport.abort()

    def _watch_silence(self, silence: float) -> None:
        self._heard = self._loop.time()
        due = self._heard + silence
        if self._timer is None or due < self._due:
            if self._timer is not None:
                self._timer.cancel()
            self._due = due
            self._timer = self._loop.call_at(due, self._check_silence)

    def _check_silence(self) -> None:
        self._timer = None
        if not self.busy or self.over or self._paused:
            return
        due = self._loop.time() + PATIENCE if self._resting else self._heard + self._silence
        if due > self._loop.time():
            self._due = due
            self._timer = self._loop.call_at(due, self._check_silence)
        else:
            self._fail(SilenceError("silence"))
            self._tell()
