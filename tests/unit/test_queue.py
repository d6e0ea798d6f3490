"""Messages are built without I/O."""

import base64
import json
from typing import Any

import pytest

from orchestrator.queue import QUEUE, message


def opened(body: bytes) -> tuple[dict[str, Any], list[Any]]:
    envelope = json.loads(body)
    return envelope, json.loads(base64.b64decode(envelope["body"]))


def test_a_message_goes_to_our_queue_and_carries_task_and_arguments() -> None:
    key, body = message("runs.execute", "run_1", {"größe": [1, None, True]})

    envelope, (args, kwargs, embedded) = opened(body)
    assert key == QUEUE == envelope["properties"]["delivery_info"]["routing_key"]
    assert envelope["headers"]["task"] == "runs.execute"
    assert args == ["run_1", {"größe": [1, None, True]}]
    assert kwargs == {}
    assert set(embedded.values()) == {None}


def test_no_two_messages_share_an_id_or_a_delivery_tag() -> None:
    envelopes = [opened(message("runs.execute", "run_1")[1])[0] for _ in range(100)]

    assert len({envelope["headers"]["id"] for envelope in envelopes}) == 100
    assert len({envelope["properties"]["delivery_tag"] for envelope in envelopes}) == 100


def test_an_argument_that_is_no_json_is_refused() -> None:
    with pytest.raises(TypeError):
        message("runs.execute", object())


def test_the_queue_is_not_celerys_default() -> None:
    assert QUEUE != "celery"
