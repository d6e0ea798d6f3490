"""Replies that a conversation asks for itself: for concurrent tests, and for a server in another process.

The last user message may hold blocks, one for each answer of the model until the next user message:

    Weather? [[tool=get_weather:{"city":"Paris"} tool2=get_time:{}]] [[text="It rains." delay=0.05]]

| key | meaning |
| --- | --- |
| text, tokens | what is said: a text, or so many numbered words |
| tool, tool2, … | calls, `name:arguments`; with text, they follow it |
| refusal | the model declines |
| first, delay | seconds before the first and before every further delta |
| finish | finish_reason |
| prompt, completion, cached, reasoning | usage |
| fail, message, code, retry_after | status of an error, and its parts |
| drop | the connection breaks after so many deltas |
| hang | `hang=1`: no answer, ever |
| hold, hold_after | a gate to wait for (POST /control/release), after so many deltas |
| times, id | fail, drop or hang only for the first so many requests that carry this id (by default: this block) |

Values with spaces are JSON strings. After the last block every answer is "Done."; without blocks it is "Hello!".
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tests.fakes.replies import Reply

_KEY = re.compile(r"\s*([a-z_]+\d*)=")
_WORD = re.compile(r"(?:(?!\]\])\S)*")
_TOOL = re.compile(r"tool\d*")
_TOOL_NAME = re.compile(r"([\w-]+):")

Block = dict[str, Any]


def reply_for(messages: Sequence[Mapping[str, Any]], counts: Counter[str]) -> Reply:
    """The answer that the conversation asks for. `counts` remembers, between requests, who has failed how often."""
    last_user = max((place for place, message in enumerate(messages) if message["role"] == "user"), default=-1)
    if last_user < 0:
        return Reply.text()
    found = blocks(_text(messages[last_user]["content"]))
    if not found:
        return Reply.text()
    turn = sum(message["role"] == "assistant" for message in messages[last_user + 1 :])
    if turn >= len(found):
        return Reply.text("Done.")
    return _reply(found[turn], counts)


def blocks(text: str) -> list[Block]:
    """All `[[…]]` of a text, parsed."""
    found = []
    place = text.find("[[")
    while place >= 0:
        block, end = _block(text, place + 2)
        found.append(block)
        place = text.find("[[", end)
    return found


def _block(text: str, place: int) -> tuple[Block, int]:
    block: Block = {}
    while key := _KEY.match(text, place):
        place = key.end()
        if _TOOL.fullmatch(key[1]) and (name := _TOOL_NAME.match(text, place)):
            arguments, place = _value(text, name.end())
            block[key[1]] = (name[1], arguments)
        else:
            block[key[1]], place = _value(text, place)
    return block, place


def _value(text: str, place: int) -> tuple[Any, int]:
    if text[place : place + 1] in ('"', "{", "["):
        return json.JSONDecoder().raw_decode(text, place)
    word = _WORD.match(text, place)
    return (word[0], word.end()) if word else ("", place)


def _reply(block: Block, counts: Counter[str]) -> Reply:
    reply = _said(block).calling(*(value for key, value in block.items() if _TOOL.fullmatch(key)))
    if not (reply.pieces or reply.calls or reply.refusals):
        reply = Reply.text()
    reply = reply.paced(first=float(block.get("first", 0)), each=float(block.get("delay", 0)))
    if "finish" in block:
        reply = reply.finishing(str(block["finish"]))
    if "prompt" in block or "completion" in block:
        cost = {key: int(block.get(key, 0)) for key in ("prompt", "completion", "cached", "reasoning")}
        reply = reply.costing(**cost)
    if "hold" in block:
        reply = reply.held(str(block["hold"]), after=int(block.get("hold_after", 0)))
    return _troubled(reply, block, counts)


def _said(block: Block) -> Reply:
    if "refusal" in block:
        return Reply.refusal(str(block["refusal"]))
    if "tokens" in block:
        return Reply.text(tokens=int(block["tokens"]))
    return Reply.text(str(block["text"])) if "text" in block else Reply()


def _troubled(reply: Reply, block: Block, counts: Counter[str]) -> Reply:
    if not block.keys() & {"fail", "drop", "hang"}:
        return reply
    who = str(block.get("id", json.dumps(block, sort_keys=True)))
    counts[who] += 1
    if counts[who] > int(block.get("times", 1_000_000_000)):
        return reply
    if "fail" in block:
        wait = float(block["retry_after"]) if "retry_after" in block else None
        said = str(block.get("message", "Scripted failure"))
        return Reply.error(int(block["fail"]), said, code=block.get("code"), retry_after=wait)
    if "hang" in block:
        return Reply.hang()
    return reply.dropped(after=int(block["drop"]))


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content or () if part.get("type") == "text")
