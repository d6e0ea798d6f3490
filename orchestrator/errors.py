"""What can go wrong, drawn as a tree and named by what follows from it.

    AssistantdError
    ├── ClientError            told to the client; `api/errors.py` turns it into HTTP and the original's envelope
    │   ├── InvalidRequest     400
    │   ├── Unauthenticated    401
    │   ├── NotFound           404
    │   │   └── NoSuchFile         in the words that files have of their own
    │   ├── TooSlow            408
    │   ├── TooLarge           413
    │   ├── Busy               429, may be tried again
    │   ├── Unavailable        503, may be tried again
    │   └── Relayed            the model server's refusal of a request that was passed on to it, with its status
    ├── RunFailure             ends the run as `failed`; `code` and `message` become its `last_error`
    └── RunStopped             the run stops for a reason that lies outside it
        ├── RunCancelled
        ├── RunExpired
        ├── OutOfTokens        its token budget is spent: it ends as `incomplete`
        ├── HandedOver         this worker is about to end: it gives the run back, and another one goes on
        └── LeaseLost          somebody else owns the run now: write nothing more

Texts and codes are those that clients of the original match (they parse some of them with regular expressions).
"""

from collections.abc import Mapping
from typing import Literal

RunErrorCode = Literal["server_error", "rate_limit_exceeded", "invalid_prompt", "invalid_image_url"]
"""The last was never in the specification, but clients have seen it."""

SORRY = "Sorry, something went wrong."


class AssistantdError(Exception):
    """Any error of ours."""


class ClientError(AssistantdError):
    """An error that the client caused or must know of. All four parts are shown to the client: no secrets."""

    type = "invalid_request_error"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


class InvalidRequest(ClientError):
    """The request cannot be honoured as it is."""


class Unauthenticated(ClientError):
    """No key, or not one of ours."""


class NotFound(ClientError):
    """There is no such object for this project: `NotFound("run", "run_…")` reads as the original's sentence."""

    def __init__(self, noun: str, id_: str) -> None:
        super().__init__(f"No {noun} found with id '{id_}'.")


class NoSuchFile(NotFound):
    """There is no such file, or it has expired."""

    def __init__(self, file_id: str) -> None:
        ClientError.__init__(self, f"No such File object: {file_id}", param="id")


class TooSlow(ClientError):
    """The client stopped sending in the middle of its request."""


class TooLarge(ClientError):
    """The request's body is larger than this server takes."""


class Busy(ClientError):
    """Too much waits already; trying again `retry_after` seconds later may help."""

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message, code="rate_limit_exceeded")
        self.retry_after = retry_after


class Unavailable(ClientError):
    """A part that the request needs is away; trying again later may help."""

    type = "server_error"


class Relayed(ClientError):
    """The model server refused what was passed on to it. `headers` are its advice about trying again."""

    def __init__(
        self,
        status: int,
        message: str,
        type_: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, param=param, code=code)
        self.status = status
        self.type = type_
        self.headers = headers or {}


class RunFailure(AssistantdError):
    """Ends a run as `failed`. `message` is shown to the client: no secrets, no internals."""

    def __init__(self, code: RunErrorCode, message: str = SORRY) -> None:
        super().__init__(message)
        self.code: RunErrorCode = code
        self.message = message


class RunStopped(AssistantdError):
    """A run must stop now, for a reason that is not its own failure."""


class RunCancelled(RunStopped):
    """A client asked for it."""


class RunExpired(RunStopped):
    """Its lifetime is over."""


class OutOfTokens(RunStopped):
    """A budget of the run is spent; `reason` becomes its `incomplete_details`."""

    def __init__(self, reason: Literal["max_completion_tokens", "max_prompt_tokens"]) -> None:
        super().__init__(reason)
        self.reason = reason


class HandedOver(RunStopped):
    """This worker is about to end, and gives the run back for another one to go on."""


class LeaseLost(RunStopped):
    """Another attempt owns the run, or it is gone: this worker must not write to it again."""
