"""Wire objects as responses: bytes from one serialiser, whole objects with their nulls."""

from collections.abc import Iterable, Mapping

from fastapi import Response

from orchestrator.foreign import Json
from orchestrator.wire import objects


class WireResponse(Response):
    """A JSON body."""

    media_type = "application/json"


def reply(value: Json, headers: Mapping[str, str] | None = None) -> WireResponse:
    """A wire object as a 200."""
    return WireResponse(objects.dump(value), headers=headers)


def page(items: Iterable[Json], *, has_more: bool) -> WireResponse:
    """A list of wire objects as a 200."""
    return reply(objects.page(list(items), has_more=has_more))
