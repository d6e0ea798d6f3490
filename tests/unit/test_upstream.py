"""Whether a model server's address is our own."""

from collections.abc import Iterable

import pytest

from orchestrator.embedded.process import EmbeddedError
from orchestrator.embedded.upstream import is_ourselves, refuse_ourselves

NAMES = {
    "localhost": ["127.0.0.1", "::1"],
    "me.example": ["127.0.0.1"],
    "here.example": ["192.0.2.7"],
    "model.example": ["192.0.2.8"],
}


def resolve(host: str) -> Iterable[str]:
    return NAMES.get(host, [])


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8300/v1",
        "http://127.0.0.1:8300",
        "http://localhost:8300/v1",
        "http://LOCALHOST:8300/v1/",
        "http://[::1]:8300/v1",
        "http://0.0.0.0:8300/v1",
        "http://[::]:8300/v1",
        "http://127.9.9.9:8300/v1",
        "http://[::ffff:127.0.0.1]:8300/v1",
        "http://user:key@127.0.0.1:8300/v1",
        "https://me.example:8300/v1",
    ],
)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "::"])  # noqa: S104  # nothing is bound here
def test_every_name_of_ours_is_recognised(url: str, host: str) -> None:
    assert is_ourselves(url, host=host, port=8300, resolve=resolve)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8301/v1",
        "http://localhost/v1",
        "https://model.example/v1",
        "http://model.example:8300/v1",
        "http://unknown.example:8300/v1",
        "http://192.0.2.8:8300/v1",
        "not a url",
        "",
    ],
)
def test_other_servers_are_let_through(url: str) -> None:
    assert not is_ourselves(url, host="127.0.0.1", port=8300, resolve=resolve)


def test_the_usual_ports_are_known() -> None:
    assert is_ourselves("http://localhost/v1", host="127.0.0.1", port=80, resolve=resolve)
    assert is_ourselves("https://here.example/v1", host="here.example", port=443, resolve=resolve)


def test_the_refusal_says_what_to_do() -> None:
    with pytest.raises(EmbeddedError, match="Set it to a model server, or unset it"):
        refuse_ourselves("http://127.0.0.1:8300/v1", host="127.0.0.1", port=8300)

    refuse_ourselves(None, host="127.0.0.1", port=8300)


@pytest.mark.parametrize(
    "url", ["model.example/v1", "localhost:8000/v1", "http://", "http://model.example:abc/v1", "ws://x"]
)
def test_an_address_that_leads_nowhere_is_refused(url: str) -> None:
    with pytest.raises(EmbeddedError, match="not the address of a model server"):
        refuse_ourselves(url, host="127.0.0.1", port=8300)
