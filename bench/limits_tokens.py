"""What a streamed token costs all of worker, Redis and API, beside publishing it and nothing else.

The limit is two bare programs with Redis between them: `limits_teller` hears the model and publishes, `limits_relay`
has one subscriber and passes on. Nothing is stored, nobody could resume. The product does all that it always does. Both
get the same load from the same clients; the cost of a token is the slope between runs of few and of many tokens, so
that what a run costs by itself is in neither.
"""

from collections.abc import Iterator
from statistics import median

from bench import limits_ground
from bench.calls import Job
from bench.limits_ground import Ground, cpu_of
from bench.load import Generator, Load
from bench.report import Options, Row, Table, progress
from bench.stack import KEY

FEW, MANY = "bench-paced-20-500-50", "bench-paced-220-500-50"
"""20 tokens a second and stream; the runs of a turn begin within the first second."""
STREAMS = (1, 100, 500)
PARTS = ("worker", "redis", "api")


class Parties:
    """The product and the limit: where each takes the same calls, and the processes that it consists of."""

    def __init__(self, ground: Ground) -> None:
        stack = ground.stack
        stack.start_worker(ASSISTANTD_RUN_CONCURRENCY=str(2 * max(STREAMS)))
        product = stack.start_api()
        teller = ground.bench("bench.limits_teller", "--redis", ground.redis, "--model", ground.model)
        teller.hear()
        relay = ground.bench("bench.limits_relay", "--redis", ground.redis)
        self._assistant = stack.assistant(FEW)
        self._redis = [stack.groups["redis"][0].pid]
        self._addresses = {"publish only": relay.hear(), "product": product}
        self._processes: dict[str, dict[str, list[int | None]]] = {
            "publish only": {"worker": [teller.pid], "redis": self._redis, "api": [relay.pid]},
            "product": {part: [process.pid for process in stack.groups[part]] for part in PARTS},
        }

    def job(self, who: str, model: str) -> Job:
        """A streamed run of the model."""
        return Job(self._addresses[who], "streamed", KEY, model=model, assistant=self._assistant)

    def cpu(self, who: str) -> dict[str, float]:
        """CPU seconds of each part so far."""
        return {part: sum(map(cpu_of, pids)) for part, pids in self._processes[who].items()}


def _turn(parties: Parties, generator: Generator, who: str, model: str, streams: int) -> tuple[dict[str, float], int]:
    """CPU of each part, and the tokens, of as many runs at once. Raises RuntimeError if one did not end well."""
    before = parties.cpu(who)
    felt = generator.share(Load(parties.job(who, model), way="burst", clients=streams))
    if felt.failed:
        raise RuntimeError(f"{felt.failed} streams of {who} failed: {felt.why}")
    after = parties.cpu(who)
    return {part: after[part] - before[part] for part in PARTS}, felt.tokens


def _slope(parties: Parties, generator: Generator, who: str, streams: int) -> dict[str, float]:
    """CPU seconds a token."""
    few, some = _turn(parties, generator, who, FEW, streams)
    many, more = _turn(parties, generator, who, MANY, streams)
    return {part: (many[part] - few[part]) / (more - some) for part in PARTS}


def _row(streams: int, who: str, slopes: list[dict[str, float]], limit: float | None) -> Row:
    parts = {f"{part}, µs": round(median(slope[part] for slope in slopes) * 1e6, 1) for part in PARTS}
    total = round(median(sum(slope.values()) for slope in slopes) * 1e6, 1)
    return {"streams": streams, "who": who, **parts, "all, µs": total, "× limit": round(total / (limit or total), 2)}


def tokens(options: Options) -> Iterator[Table]:
    """CPU of a streamed token, all processes, at 1, 100 and 500 streams, beside publishing only."""
    rounds = 1 if options.quick else 3
    rows: list[Row] = []
    with limits_ground.running(options) as ground, Generator(1) as generator:
        parties = Parties(ground)
        for who in ("publish only", "product"):
            _turn(parties, generator, who, FEW, 20)  # warms up
        for streams in STREAMS[-1:] if options.quick else STREAMS:
            progress(f"tokens: {streams} streams")
            slopes: dict[str, list[dict[str, float]]] = {"publish only": [], "product": []}
            for _ in range(rounds):
                for who, found in slopes.items():
                    found.append(_slope(parties, generator, who, streams))
            limit = None
            for who, found in slopes.items():
                rows.append(_row(streams, who, found, limit))
                limit = limit or float(rows[-1]["all, µs"] or 0)
    yield Table("tokens", "CPU of a streamed token", rows, "20 tokens a second and stream; slope over 200 tokens")
