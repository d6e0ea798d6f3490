"""Bodies that are passed on to the model server: only what we must know ourselves is checked, the rest is its own."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from orchestrator.wire.requests.fields import ModelName


class PassedOn(BaseModel):
    """A request of which the upstream judges all but the model's name."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: ModelName


class ChatCompletion(PassedOn):
    """POST /chat/completions."""

    stream: bool | None = None


class Embeddings(PassedOn):
    """POST /embeddings."""

    encoding_format: Literal["float", "base64"] | None = None
