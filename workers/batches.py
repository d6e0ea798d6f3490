"""One script that strikes off what ended, notes what is in hand and takes more: a worker's whole talk with the broker.

    unacked, unacked_index, lists… · now, count, message in hand or "", ended…
        ──▶ whether that was noted, which list there was something in, how much is left in it, what was taken…

What must not be forgotten:

- It is never repeated: what it took and could not say is in nobody's hands. It lies among the unacknowledged for the
  visibility timeout; housekeeping wakes those runs long before.
- What is in hand is noted first. A Redis that is full refuses that, and then nothing else was done; once a script has
  written, it is refused nothing.
- A worker leaves half of what waits to others, who may be idle; a few it always takes.
"""

import hashlib
import time
from typing import NamedTuple, TypeAlias

import structlog
from redis.exceptions import NoScriptError

from orchestrator.foreign import Json
from workers import json_bodies

FEW = 8
"""Messages that a worker need not share."""

TAKE = f"""
local function address(item)
  local properties = cjson.decode(item)['properties']
  local info = properties['delivery_info']
  return properties['delivery_tag'], cjson.encode(info['exchange']), cjson.encode(info['routing_key'])
end
local function note(item)
  local readable, tag, exchange, key = pcall(address, item)
  if not readable or type(tag) ~= 'string' then return false end
  redis.call('ZADD', KEYS[2], ARGV[1], tag)
  redis.call('HSET', KEYS[1], tag, '[' .. item .. ',' .. exchange .. ',' .. key .. ']')
  return true
end
local noted = ARGV[3] == '' or note(ARGV[3])
if #ARGV > 3 then
  redis.call('ZREM', KEYS[2], unpack(ARGV, 4))
  redis.call('HDEL', KEYS[1], unpack(ARGV, 4))
end
if not noted then return {{0, 0, 0}} end
for number = 3, #KEYS do
  local waiting = redis.call('LLEN', KEYS[number])
  if waiting > 0 then
    local count = math.min(tonumber(ARGV[2]), math.max({FEW}, math.ceil(waiting / 2)))
    local more = count > 0 and redis.call('RPOP', KEYS[number], count) or {{}}
    for _, item in ipairs(more) do note(item) end
    return {{1, number - 3, waiting - #more, unpack(more)}}
  end
end
return {{1, 0, 0}}
"""
TAKE_SHA = hashlib.sha1(TAKE.encode(), usedforsecurity=False).hexdigest()

Call: TypeAlias = tuple[Json, ...]
"""The script's keys and arguments."""

log = structlog.get_logger(__name__)


class Taken(NamedTuple):
    """What came of it: whether the message in hand was noted, and what was taken from which of the lists."""

    noted: bool
    place: int
    left: int
    items: list[bytes]


def ask(connection: Json, books: list[str], lists: list[str], *, ended: list[str], count: int, hand: bytes) -> Call:
    """Ask for it over an idle connection of redis-py, on which its `answer` is to be read next. Raises what that
    raises.
    """
    call = (len(books) + len(lists), *books, *lists, time.time(), count, hand, *ended)
    connection.send_command("EVALSHA", TAKE_SHA, *call)
    return call


def answer(connection: Json, call: Call) -> Taken:
    """What came of it. Raises what redis-py raises."""
    try:
        noted, place, left, *items = connection.read_response()
    except NoScriptError:  # Redis is new, or was told to forget
        connection.send_command("EVAL", TAKE, *call)
        noted, place, left, *items = connection.read_response()
    return Taken(bool(noted), place, left, items)


def understood(items: list[bytes]) -> list[Json]:
    """The messages that are any. Nobody could do anything with the others, now or later."""
    messages = []
    for item in items:
        try:
            message = json_bodies.loads(item)
            message["properties"]["delivery_tag"], message["properties"]["delivery_info"]["routing_key"]
        except (ValueError, KeyError, TypeError):
            log.warning("message_not_understood", size=len(item))
        else:
            messages.append(message)
    return messages
