"""Answers one request with the model: routes it to functions where there are any, else answers in words.

    tools on offer, no results yet ── route ── calls?  yes ── they are the answer
                                                       no  ── answer in words
    results are in ─────────────────────────────────────────── answer in words (the larger model is routed once more)

Words come from a second generation with a prompt of their own, not out of the router's JSON: small models write worse
within JSON, and the choice of an empty list costs six tokens. Functions and arguments are always chosen greedily;
temperature, top_p, stop, seed and penalties shape words only. A call that was answered in this turn is not made again,
even when a call is required: a client that requires one would otherwise go round for ever.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal

from orchestrator.embedded.model.catalogue import ModelFile
from orchestrator.embedded.model.decoding import Arguments, CallBegins, CallReader, Signal
from orchestrator.embedded.model.dialogue import Dialogue, load, read
from orchestrator.embedded.model.engine import Engine, EngineError, Piece, Usage
from orchestrator.embedded.model.prompts import answering, router_start, routing
from orchestrator.embedded.model.requests import ChatRequest, Function, JsonFormat, NamedChoice, SchemaFormat
from orchestrator.embedded.model.schemas import MOST_CALLS, SOME_OBJECT, Detail, calls_schema, simplify
from orchestrator.foreign import Json

SHORTEST_ROUTE = 32  # however short the answer may be, the choice needs some tokens
DETAILS: tuple[Detail, ...] = ("full", "generic")
BAD_REQUEST = 400
DEFAULT_TEMPERATURE = 0.2
SMALLEST_CHANCE = (
    0.1  # tokens less likely than this share of the likeliest are never taken: a small model derails on them
)


@dataclass(frozen=True)
class Text:
    """The next words."""

    text: str


@dataclass(frozen=True)
class Call:
    """A call begins: the next one, of the function `name`."""

    name: str


@dataclass(frozen=True)
class CallText:
    """The next piece of the arguments of the call that began last."""

    text: str


@dataclass(frozen=True)
class Finished:
    """The end, with everything that was computed for this request, routing included."""

    reason: Literal["stop", "length", "tool_calls"]
    usage: Usage


Event = Text | Call | CallText | Finished


async def generate(engine: Engine, model: ModelFile, request: ChatRequest) -> AsyncGenerator[Event, None]:
    """Everything that the answer consists of, as it comes; `Finished` is last. Raises EngineError."""
    dialogue = read(request.messages)
    functions = _on_offer(request)
    usage = Usage()
    if functions and (not dialogue.results or _must_call(request) or model.routes_after_results):
        called = False
        async with aclosing(_route(engine, model, request, dialogue, functions)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    usage = event.usage
                    if called:
                        yield event
                else:
                    called = True
                    yield event
        if called:
            return
    async with aclosing(_answer(engine, request, dialogue, usage)) as events:
        async for event in events:
            yield event


async def warm_up(engine: Engine) -> None:
    """Let the model read the part of routing that never changes, so that the first client need not wait for it."""
    async with aclosing(engine.stream({"messages": router_start(), "max_tokens": 1, "temperature": 0})) as pieces:
        async for _ in pieces:
            pass


async def _route(
    engine: Engine, model: ModelFile, request: ChatRequest, dialogue: Dialogue, functions: list[Function]
) -> AsyncGenerator[Event, None]:
    """The calls that the model wants to make, if any."""
    reader, passing = CallReader(), CallFilter(dialogue)
    reason, usage = "stop", Usage()
    prompt = {
        "messages": routing(dialogue, functions, instructions=model.routes_with_instructions),
        "max_tokens": max(request.longest_answer, SHORTEST_ROUTE),
        "temperature": 0,
    }
    least = 1 if _must_call(request) else 0
    most = 1 if request.parallel_tool_calls is False or isinstance(request.tool_choice, NamedChoice) else MOST_CALLS
    schemas = [calls_schema(functions, least, most, detail) for detail in DETAILS]
    async with aclosing(_constrained(engine, prompt, schemas)) as pieces:
        async for piece in pieces:
            for signal in reader.feed(piece.text):
                for event in passing.take(signal):
                    yield event
            reason = piece.finish or reason
            usage = piece.usage or usage
    yield Finished("length" if reason == "length" else "tool_calls", usage)


async def _constrained(engine: Engine, prompt: Json, schemas: list[Json]) -> AsyncGenerator[Piece, None]:
    """Answer in JSON by the first of the schemas that the grammar can take. Without schemas: in words."""
    candidates = [prompt | {"json_schema": schema} for schema in schemas] or [prompt]
    for candidate in candidates:
        try:
            async with aclosing(engine.stream(candidate)) as pieces:
                async for piece in pieces:
                    yield piece
        except EngineError as error:
            if error.status != BAD_REQUEST or error.is_too_long or candidate is candidates[-1]:
                raise
        else:
            return


class CallFilter:
    """Lets calls pass once each: the first streams, later ones are held back until they are known to be new.

    After results are in, the first is held back as well, since it may be a repetition of what was answered.
    """

    def __init__(self, dialogue: Dialogue) -> None:
        self._dialogue = dialogue
        self._made: list[tuple[str, Json]] = []
        self._name = ""
        self._arguments = ""

    def take(self, signal: Signal) -> list[Event]:
        """The events that follow from `signal`."""
        streams = not (self._made or self._dialogue.results)
        if isinstance(signal, CallBegins):
            self._name, self._arguments = signal.name, ""
            return [Call(signal.name)] if streams else []
        if isinstance(signal, Arguments):
            self._arguments += signal.text
            return [CallText(signal.text)] if streams else []
        call = (self._name, load(self._arguments))
        known = call in self._made or self._dialogue.has_answer_to(self._name, self._arguments)
        if not known:
            self._made.append(call)
        return [] if known or streams else [Call(self._name), CallText(self._arguments)]


async def _answer(
    engine: Engine, request: ChatRequest, dialogue: Dialogue, usage: Usage
) -> AsyncGenerator[Event, None]:
    """The answer in words, or in JSON where the client asked for it."""
    prompt = {"messages": answering(dialogue), "max_tokens": request.longest_answer} | _sampling(request)
    reason = "stop"
    async with aclosing(_constrained(engine, prompt, _schemas(request))) as pieces:
        async for piece in pieces:
            if piece.text:
                yield Text(piece.text)
            reason = piece.finish or reason
            usage += piece.usage or Usage()
    yield Finished("length" if reason == "length" else "stop", usage)


def _on_offer(request: ChatRequest) -> list[Function]:
    functions = [tool.function for tool in request.tools or []]
    if request.tool_choice == "none":
        return []
    if isinstance(request.tool_choice, NamedChoice):
        return [function for function in functions if function.name == request.tool_choice.function.name]
    return functions


def _must_call(request: ChatRequest) -> bool:
    return request.tool_choice == "required" or isinstance(request.tool_choice, NamedChoice)


def _sampling(request: ChatRequest) -> Json:
    temperature = DEFAULT_TEMPERATURE if request.temperature is None else request.temperature
    given = request.model_dump(
        include={"top_p", "presence_penalty", "frequency_penalty", "stop", "seed"}, exclude_none=True
    )
    if "seed" in given:
        given["seed"] %= 2**32 - 1  # the last one means "random"
    return {"temperature": temperature, "min_p": SMALLEST_CHANCE} | given


def _schemas(request: ChatRequest) -> list[Json]:
    """The schemas by which the answer may be constrained, the most exact one first."""
    if isinstance(request.response_format, JsonFormat):
        return [SOME_OBJECT]
    if isinstance(request.response_format, SchemaFormat):
        schema = request.response_format.json_schema.schema_ or SOME_OBJECT
        return [schema, simplify(schema)]
    return []
