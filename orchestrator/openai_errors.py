"""What went wrong upstream: read it from a status or an `error` object, decide whether to try again, tell the client.

| upstream | tried again | the run's last_error |
| --- | --- | --- |
| no connection, silence, torn or unreadable reply, a web page | yes | server_error, "Sorry, something went wrong." |
| 408, 409, 425, 5xx | yes | the same |
| 429 | yes | rate_limit_exceeded, with the upstream's sentence (clients match it) |
| 429 insufficient_quota | no: waiting does not help | the same |
| 400, 413, 422: context length, refused content, bad schema | no | invalid_prompt, with the upstream's sentence |
| the same with the code invalid_image_url | no | invalid_image_url, which clients knew too, with its sentence |
| the model does not exist | no | server_error, names the model |
| 401, 403, other 404, redirects | no | server_error, "Sorry, something went wrong."; the hint is in the log |

An `x-should-retry` header overrules the second column. Trouble after the first delta is never tried again: the client
has heard it. An attempt that could only come after the run's expiry is not waited for: the run fails at once. What the
upstream says is cleaned of keys and addresses before a client sees it, and never logged: it may quote the conversation.
"""

import re
from collections.abc import Iterable, Mapping
from email.utils import parsedate_to_datetime
from time import time

import orjson

from orchestrator.errors import SORRY, AssistantdError, RunErrorCode, RunFailure
from orchestrator.foreign import Json

LONGEST_WAIT = 120.0  # an upstream that asks for more is given up, as the official clients do
_LONGEST_MESSAGE = 2000
_RETRIED = frozenset({408, 409, 425, 429})
_PROMPT_STATUS = frozenset({400, 413, 422})
_PROMPT_CODES = frozenset({"context_length_exceeded", "invalid_prompt", "invalid_image_url", "content_filter"})
_LIMIT_CODES = frozenset({"rate_limit_exceeded", "insufficient_quota", "rate_limit_error", "tokens", "requests"})
_HINTS = {
    401: "The upstream refuses the key: check UPSTREAM_API_KEY.",
    403: "The upstream's key may not use this model or endpoint: check its permissions.",
    404: "The upstream does not know this path: check UPSTREAM_BASE_URL, which usually ends in /v1.",
}
_WEB_PAGE = "A web page answers in place of the upstream: check UPSTREAM_BASE_URL, and what stands before it."
_ADVICE = ("retry-after", "retry-after-ms", "x-should-retry")
_REQUEST_IDS = ("x-request-id", "request-id", "apim-request-id", "x-ms-request-id", "cf-ray")
_URL = re.compile(r"https?://(?!(?:platform|help)\.openai\.com\b)\S+", re.IGNORECASE)
_KEY = re.compile(r"\b(?:sk|pk|rk)-[\w*.\-]{8,}|\b[Bb]earer\s+\S+")


class UpstreamTrouble(AssistantdError):
    """One attempt failed. `status` is None when there was no HTTP answer, or when the trouble lay within the reply."""

    def __init__(
        self,
        reason: str,
        *,
        status: int | None = None,
        error: Json = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(reason)
        headers = headers or {}
        fields = error if isinstance(error, dict) else {"message": error}
        self.reason = reason
        self.status = status
        self.message = _text(fields.get("message"))
        self.code = _text(fields.get("code"))
        self.type = _text(fields.get("type"))
        self.param = _text(fields.get("param")) or None
        self.request_id = request_id(headers)
        self.asked_wait = _asked_wait(headers)
        self.advice = {name: headers[name] for name in _ADVICE if headers.get(name)}
        self._should_retry = headers.get("x-should-retry")

    @classmethod
    def from_answer(cls, status: int, body: bytes, headers: Mapping[str, str]) -> "UpstreamTrouble":
        """The trouble that an answer other than 200 speaks of, whatever its body is."""
        try:
            content = orjson.loads(body)
        except orjson.JSONDecodeError:
            content = None
        error = content.get("error", content) if isinstance(content, dict) else None
        return cls("status", status=status, error=error, headers=headers)

    @classmethod
    def from_event(cls, error: Json) -> "UpstreamTrouble":
        """The trouble that an `error` object within a reply speaks of; its code tells the status it stands for."""
        trouble = cls("error_event", error=error)
        code = error.get("code") if isinstance(error, dict) else None
        if isinstance(code, int) and 400 <= code < 600:
            trouble.status = code
        elif {trouble.code, trouble.type} & _LIMIT_CODES:
            trouble.status = 429
        elif trouble.code in _PROMPT_CODES or trouble.type == "invalid_request_error":
            trouble.status = 400
        return trouble

    @property
    def may_pass(self) -> bool:
        """Whether the same request may succeed a little later."""
        if self.asked_wait is not None and self.asked_wait > LONGEST_WAIT:
            return False
        if self._should_retry in ("true", "false"):
            return self._should_retry == "true"
        if self.status is None:
            return True
        return (self.status in _RETRIED and self.code != "insufficient_quota") or self.status >= 500

    def hint(self, model: str) -> str | None:
        """What the operator may do about it, for the log."""
        if self.is_missing_model(model):
            return f"The upstream has no model '{model}'."
        return _WEB_PAGE if self.reason == "web_page" else _HINTS.get(self.status or 0)

    def facts(self, model: str) -> dict[str, Json]:
        """What the log tells of it: never what the upstream said."""
        return {
            "reason": self.reason,
            "status": self.status,
            "code": self.code,
            "type": self.type,
            "upstream_request_id": self.request_id,
            "hint": self.hint(model),
        }

    def said(self, hidden: Iterable[str]) -> str:
        """The upstream's sentence as clients may see it: without the `hidden` words, other addresses and keys."""
        return _presentable(self.message, hidden)

    def failure(self, model: str, hidden: Iterable[str] = ()) -> RunFailure:
        """How the run ends because of it. No client gets to see the `hidden` words: the upstream's address and key."""
        said = self.said(hidden)
        if self.status == 429:
            return RunFailure("rate_limit_exceeded", said or f"Rate limit reached for {model}.")
        if self.is_missing_model(model):
            return RunFailure("server_error", f"The model '{model}' does not exist.")
        if self.status in _PROMPT_STATUS:
            code: RunErrorCode = "invalid_image_url" if self.code == "invalid_image_url" else "invalid_prompt"
            return RunFailure(code, said or "The model did not accept the prompt.")
        return RunFailure("server_error", SORRY)

    def is_missing_model(self, model: str) -> bool:
        """Whether the upstream says that it has no such model."""
        if self.code == "model_not_found":
            return True
        named = rf"(?<![\w./-]){re.escape(model)}(?![\w/-])"
        return self.status == 404 and re.search(named, self.message) is not None


def request_id(headers: Mapping[str, str]) -> str | None:
    """The upstream's name for the request, under whichever header it gives it."""
    return next((headers[name] for name in _REQUEST_IDS if headers.get(name)), None)


def _text(value: Json) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)


def _presentable(message: str, hidden: Iterable[str]) -> str:
    cleaned = message.replace("\x00", "")
    for word in hidden:
        cleaned = cleaned.replace(word, "[hidden]")
    return _KEY.sub("[hidden]", _URL.sub("[hidden]", cleaned))[:_LONGEST_MESSAGE].strip()


def _asked_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from `retry-after-ms` or `Retry-After` (seconds or a date); None if it says nothing usable."""
    milliseconds, seconds = headers.get("retry-after-ms"), headers.get("retry-after")
    try:
        if milliseconds:
            wait = float(milliseconds) / 1000
        elif seconds:
            wait = float(seconds) if _is_number(seconds) else parsedate_to_datetime(seconds).timestamp() - time()
        else:
            return None
    except (ValueError, OverflowError):
        return None
    return wait if wait > 0 else None  # zero and the past ask for nothing; neither does NaN


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()
