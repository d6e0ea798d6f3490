"""How many runs may be at work at once, and how many may wait: what `places` goes by."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bounds:
    """`project`: runs of one project at once; `upstream`: of all projects, None for no bound; `queue`: runs of one
    project that may wait for a place.
    """

    project: int = 1000
    upstream: int | None = None
    queue: int = 10_000
