"""Calls that are made at about the same time are carried out together: what costs a round trip is paid once for many.

    await batch(item) ─┐
    await batch(item) ─┼─▶ carry_out([item, item, item]) ─▶ one answer for each
    await batch(item) ─┘

Nothing waits for company: a batch leaves in the next turn of the event loop, as long as fewer than `lanes` are under
way; what comes meanwhile makes up the next. So a single call is not slowed down, and the more there is to do, the
larger the batches get.

A batch is nobody's: it knows nothing of the context of who has called first, and its log lines bear no run's id.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Any, Final, Generic, TypeAlias, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")

Call: TypeAlias = tuple[Item, asyncio.Future[Answer]]

MOST: Final = 100
LANES: Final = 2
BOUND: Final = 10_000
"""Calls that wait: ten times what a process carries at once unless it was told to carry more."""


class TooManyWaiting(TimeoutError):
    """So many calls wait that one more would wait too long. Nothing was done; a little later it may be."""


class Batch(Generic[Item, Answer]):
    """Calls of one kind. `carry_out` gets at most `most` items and returns their answers in the same order.

    What it raises, each of its callers gets. A caller that is cancelled leaves; what it asked for may happen all the
    same. While `bound` calls wait, further ones raise TooManyWaiting.
    """

    def __init__(
        self,
        carry_out: Callable[[list[Item]], Awaitable[Sequence[Answer]]],
        *,
        most: int = MOST,
        lanes: int = LANES,
        bound: int = BOUND,
    ) -> None:
        self._carry_out = carry_out
        self._most = most
        self._lanes = lanes
        self._bound = bound
        self._waiting: deque[Call[Item, Answer]] = deque()
        self._under_way = 0
        self.when_idle: Callable[[], None] | None = None
        """Called when nothing is under way any more, before the last callers go on."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, item: Item) -> Answer:
        """The answer for one item."""
        if len(self._waiting) >= self._bound:
            raise TooManyWaiting(f"{self._bound} calls wait")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append((item, answer))
        if self._under_way < self._lanes:
            self._under_way += 1
            lane = loop.create_task(self._work(), name="batch", context=Context())
            self._tasks.add(lane)  # the loop itself keeps no task alive
            lane.add_done_callback(self._tasks.discard)
        return await answer

    @property
    def busy(self) -> bool:
        """Whether something was asked that has no answer yet."""
        return self._under_way > 0

    async def _work(self) -> None:
        try:
            while calls := self._next():
                await self._answer(calls)
        finally:
            self._under_way -= 1  # at once: who comes now must not rely on a lane that has looked already
            if not self._under_way and self.when_idle is not None:
                self.when_idle()

    async def _answer(self, calls: "list[Call[Item, Answer]]") -> None:
        try:
            answers = await self._carry_out([item for item, _ in calls])
            for (_, future), answer in zip(calls, answers, strict=True):
                if not future.done():
                    future.set_result(answer)
        except Exception as error:
            for _, future in calls:
                if not future.done():
                    future.set_exception(error)
        except BaseException:  # the process ends
            for _, future in calls:
                future.cancel()
            raise

    def _next(self) -> "list[Call[Item, Answer]]":
        """The next batch, without those whose callers have left."""
        calls: list[Call[Item, Answer]] = []
        while self._waiting and len(calls) < self._most:
            call = self._waiting.popleft()
            if not call[1].done():
                calls.append(call)
        return calls


class GivingWay:
    """Lets batches go first: whoever comes while one of these is busy waits until none is, but not for long: together
    with all others that do, for so many seconds after the first of them came.
    """

    def __init__(self, *batches: Batch[Any, Any], seconds: float) -> None:
        self._batches = batches
        self._seconds = seconds
        self._over: asyncio.Event | None = None
        self._alarm: asyncio.TimerHandle | None = None
        for batch in batches:
            batch.when_idle = self._look

    async def __call__(self) -> None:
        """Return when it is time to go on: at once, if nothing is under way."""
        if not self._anything_under_way():
            return
        if self._over is None:
            self._over = asyncio.Event()
            self._alarm = asyncio.get_running_loop().call_later(self._seconds, self._go_on)
        await self._over.wait()

    def _anything_under_way(self) -> bool:
        return any(batch.busy for batch in self._batches)

    def _look(self) -> None:
        if self._over is not None and not self._anything_under_way():
            self._go_on()

    def _go_on(self) -> None:
        over, alarm, self._over, self._alarm = self._over, self._alarm, None, None
        if over is not None and alarm is not None:
            alarm.cancel()
            over.set()
