"""What can be set from outside, read once from the environment; every process reads the same names.

ASSISTANTD_SECRETS_DIR may name a folder of files, each with the name of a setting and holding its value: containers
get their secrets so. The environment overrules them. What is empty is not set: `NAME=` is how people leave a line for
later, and no setting has a use for the empty string.
"""

import base64
import os
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import from_json
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
)
from typing_extensions import override

from orchestrator.addresses import UNREADABLE, is_readable
from orchestrator.foreign import Json

UNUSABLE_MODELS = (
    *("text-embedding-*", "text-similarity-*", "text-search-*", "code-search-*", "*-moderation-*"),
    *("whisper-*", "tts-*", "*-tts", "*-transcribe", "*-realtime-*", "dall-e-*", "gpt-image-*", "sora-*"),
    *("babbage-002", "davinci-002", "gpt-3.5-turbo-instruct*"),
)
"""Names under which the original had models that do not converse."""

SECRETS_DIR = "ASSISTANTD_SECRETS_DIR"
RUN_LEASE = 30.0
RUN_ATTEMPTS = 8


class _SecretFiles(SecretsSettingsSource):
    @override
    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Json, str, bool]:
        value, key, is_complex = super().get_field_value(field, field_name)
        return value or None, key, is_complex  # `env_ignore_empty` is of variables only


class Settings(BaseSettings):
    """Settings of all processes.

    `DATABASE_URL`, `REDIS_URL`, `UPSTREAM_BASE_URL` and `UPSTREAM_API_KEY` carry no prefix because that is what
    operators already have; everything else starts with `ASSISTANTD_`. Times are seconds, sizes are bytes.
    """

    model_config = SettingsConfigDict(
        env_prefix="ASSISTANTD_", env_ignore_empty=True, extra="ignore", hide_input_in_errors=True
    )

    database_url: SecretStr = Field(validation_alias="DATABASE_URL")
    redis_url: SecretStr = Field(validation_alias="REDIS_URL")
    upstream_base_url: str | None = Field(default=None, validation_alias="UPSTREAM_BASE_URL")
    upstream_api_key: SecretStr | None = Field(default=None, validation_alias="UPSTREAM_API_KEY")

    api_key: SecretStr | None = Field(
        default=None,
        description="Registered by `migrate` as a key of the default project, so that a deployment can bring its own.",
    )
    api_host: str = "127.0.0.1"
    api_port: int = Field(default=8300, ge=1, le=65535)
    body_limit: int = Field(default=16 * 1024 * 1024, ge=1024, description="Largest request body in bytes.")

    organization: str = Field(
        default="assistantd", pattern=r"^[\x21-\x7e]{1,64}$", description="What answers say in `openai-organization`."
    )
    strict_beta_header: bool = Field(
        default=False, description="Refuse requests without `OpenAI-Beta: assistants=v2`, as the original did."
    )
    poll_shortest: float = Field(default=0.2, gt=0, description="Soonest that a polling client is told to ask again.")
    poll_longest: float = Field(default=1.0, gt=0, description="The same, of a run that takes long.")

    log_format: Literal["auto", "json", "pretty"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    database_pool_size: int = Field(default=10, ge=1)
    database_timeout: float = Field(
        default=10.0, gt=0, description="Longest wait for Postgres: connecting, a statement."
    )
    database_queue: float = Field(default=60.0, gt=0, description="Longest wait for a free connection of the pool.")
    redis_timeout: float = Field(default=5.0, gt=0, description="Longest wait for a Redis reply.")

    broker_batches: bool = Field(
        default=True, description="Workers fetch and acknowledge wake-ups many at a time; off, as Celery does it."
    )

    run_lifetime: int = Field(default=600, ge=1, description="A run expires this long after its creation.")
    waiting_runs: int = Field(default=32, ge=0, description="Runs that may wait for their turn on one thread.")
    project_runs: int = Field(
        default=1000, ge=1, description="Runs of one project that are at work at once; further ones wait for a place."
    )
    upstream_runs: int | None = Field(
        default=None, ge=1, description="The same of all projects together, where one model server serves them."
    )
    project_queue: int = Field(
        default=10_000, ge=1, description="Runs of one project that may wait for a place; beyond, creating answers 429."
    )
    run_concurrency: int = Field(default=1000, ge=1, description="Runs that one worker process carries at once.")
    run_lease: float = Field(
        default=RUN_LEASE, gt=0, description="A worker that is silent for this long loses its runs."
    )
    run_attempts: int = Field(
        default=RUN_ATTEMPTS, ge=1, description="A run that loses so many workers in a row is given up."
    )
    housekeeping_interval: float = Field(default=0.5, gt=0)
    shutdown_grace: float = Field(
        default=20.0,
        ge=0,
        description="After SIGTERM, turns of a model and requests under way may take this long; then they are cut. "
        "`up` sets 3. (Kubernetes kills after 30.)",
    )
    drain_delay: float = Field(
        default=0.0, ge=0, description="After SIGTERM, the API serves on for so long, not ready: balancers must notice."
    )

    event_ttl: int = Field(
        default=900, ge=1, description="A run's events can be resumed for this long after the last one."
    )
    event_window: float = Field(
        default=0.005, ge=0, description="Deltas after the first may wait this long to travel together."
    )
    stream_ping: float = Field(default=15.0, gt=0, description="A silent event stream carries a comment this often.")

    context_window: int = Field(
        default=128_000, ge=1024, description="Context window, in tokens, of models of which nothing else is known."
    )
    context_windows: Annotated[dict[str, Annotated[int, Field(ge=1024)]], NoDecode] = Field(
        default_factory=dict, description='By name or prefix, in JSON: {"my-model": 32768}. Overrules what is known.'
    )

    storage_url: str = Field(
        default_factory=lambda: Path("~/.assistantd/files").expanduser().as_uri(),
        description="Where the bytes of files are: file:///folder or s3://bucket/prefix, the same for API and workers.",
    )
    storage_endpoint: str | None = Field(default=None, description="Of an S3-compatible store that is not AWS.")
    storage_region: str | None = None
    storage_access_key_id: SecretStr | None = Field(
        default=None, description="With the secret below; without them the standard AWS environment is asked."
    )
    storage_secret_access_key: SecretStr | None = None
    storage_timeout: float = Field(default=60.0, gt=0, description="Longest wait for one call of the storage.")
    storage_lease: float = Field(
        default=600.0, gt=0, description="Bytes whose writer is silent for this long are removed."
    )
    storage_sweep_interval: float = Field(default=5.0, gt=0)
    file_limit: int = Field(default=512 * 1024 * 1024, ge=1, description="Largest file that comes in one request.")
    part_limit: int = Field(default=64 * 1024 * 1024, ge=1, description="Largest part of an upload.")
    upload_limit: int = Field(default=8 * 1024 * 1024 * 1024, ge=1, description="Largest file that comes in parts.")
    upload_lifetime: int = Field(default=3600, ge=1, description="An upload expires this long after its creation.")
    upload_silence: float = Field(
        default=60.0, gt=0, description="Longest silence of a client that sends a file or reads one."
    )
    download_any_purpose: bool = Field(
        default=False, description="The original refused to give back files of purpose assistants and user_data."
    )

    upstream_connect_timeout: float = Field(default=10.0, gt=0)
    upstream_read_timeout: float = Field(
        default=120.0, gt=0, description="Longest silence of the model while it answers."
    )
    upstream_retries: int = Field(
        default=3, ge=0, description="Further attempts after 429, 5xx and failed connections."
    )

    webhook_url: str | None = Field(
        default=None, description="Where runs' events are posted, of all projects, by API and workers configured alike."
    )
    webhook_secret: SecretStr | None = Field(
        default=None, description="Signs them: whsec_ and the base64 of 24 to 64 random bytes. Needed with the address."
    )
    webhook_timeout: float = Field(default=10.0, gt=0, description="Longest wait for the receiver's answer.")
    webhook_attempts: int = Field(default=12, ge=1, description="An event is given up after so many: some 30 hours.")
    webhook_backoff: float = Field(
        default=5.0, gt=0, description="Wait before the second attempt, four times as long before each further one."
    )
    webhook_sweep_interval: float = Field(default=1.0, gt=0)

    unusable_models: Annotated[tuple[str, ...], NoDecode] = Field(
        default=UNUSABLE_MODELS, description="Patterns in JSON: assistants and runs cannot have these models."
    )
    usable_models: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Patterns in JSON: the only models that assistants and runs can have; any if there is none.",
    )

    gateway_concurrency: int = Field(
        default=500, ge=1, description="Chat completions and embeddings that one API process passes on at once."
    )
    gateway_timeout: float = Field(
        default=1800.0, gt=0, description="Longest time for one of them; a silent stream ends sooner, see above."
    )

    @classmethod
    @override
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        files = _SecretFiles(settings_cls, os.environ.get(SECRETS_DIR) or None)
        return init_settings, env_settings, dotenv_settings, file_secret_settings, files

    @model_validator(mode="after")
    def _webhooks_can_be_signed(self) -> Self:
        if self.webhook_url is None:
            return self
        if urlsplit(self.webhook_url).scheme not in ("http", "https") or not urlsplit(self.webhook_url).hostname:
            raise ValueError("ASSISTANTD_WEBHOOK_URL must be an http or https address")
        try:
            scheme, _, encoded = (self.webhook_secret or SecretStr("")).get_secret_value().partition("_")
            if scheme != "whsec" or not base64.b64decode(encoded, validate=True):
                raise ValueError
        except ValueError:
            raise ValueError("ASSISTANTD_WEBHOOK_SECRET must be whsec_ and base64") from None
        return self

    @model_validator(mode="after")
    def _storage_keys_come_in_pairs(self) -> Self:
        if (self.storage_access_key_id is None) != (self.storage_secret_access_key is None):
            raise ValueError("ASSISTANTD_STORAGE_ACCESS_KEY_ID and …_SECRET_ACCESS_KEY belong together")
        return self

    @field_validator("context_windows", "unusable_models", "usable_models", mode="before")
    @classmethod
    def _is_json(cls, value: Json) -> Json:
        """What is not is named as any other mistake is: the sources of pydantic-settings would end with a traceback."""
        try:
            return from_json(value) if isinstance(value, str) else value
        except ValueError:
            raise ValueError("expected JSON") from None

    @field_validator("database_url", "redis_url")
    @classmethod
    def _can_be_read(cls, value: SecretStr) -> SecretStr:
        if not is_readable(value.get_secret_value()):
            raise ValueError(UNREADABLE)
        return value

    @field_validator("storage_url")
    @classmethod
    def _leads_somewhere(cls, value: str) -> str:
        address = urlsplit(value)
        if "@" in address.netloc:  # logs and `doctor` show the address
            raise ValueError("expected no keys in the address: they have settings of their own")
        if address.scheme == "s3" and address.netloc:
            return value
        if address.scheme == "file" and not address.netloc and address.path.strip("/"):
            return value
        raise ValueError("expected file:///folder or s3://bucket/prefix")


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process. Raises pydantic's ValidationError, without values, when one is missing or wrong."""
    return Settings()  # the required ones come from the environment


def given(name: str) -> str | None:
    """What a variable of the environment, or the secret file of this name, says; for commands that ask for no more."""
    if value := os.environ.get(name):
        return value
    folder = os.environ.get(SECRETS_DIR)
    try:
        return (Path(folder) / name).read_text().strip() or None if folder else None
    except FileNotFoundError:
        return None
