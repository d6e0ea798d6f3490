"""/openapi.json: what FastAPI makes of the routes, less what is not true here.

FastAPI documents 422 for whatever it validates, with a body of its own; here that is 400, with the usual envelope.
"""

from typing import Any

from fastapi import FastAPI

UNTRUE = "422"
UNUSED = ("HTTPValidationError", "ValidationError")


def install(app: FastAPI) -> None:
    """Make this application describe itself truly."""
    described = app.openapi

    def openapi() -> dict[str, Any]:
        document = described()  # made once; what has been taken out stays out
        for operations in document["paths"].values():
            for operation in operations.values():
                operation["responses"].pop(UNTRUE, None)
        for name in UNUSED:
            document["components"]["schemas"].pop(name, None)
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # the way that FastAPI's documentation shows
