"""The header by which clients say which version of the interface they mean: looked at only where that is asked for.

Every official client sends it. People who write requests by hand forget it, so by default nobody is refused for that.
"""

import re
from typing import Annotated

from fastapi import Depends, Header

from api.dependencies import OpenResources
from orchestrator.errors import InvalidRequest

MISSING = (
    "You must provide the 'OpenAI-Beta' header to access the Assistants API. "
    "Please try again by setting the header 'OpenAI-Beta: assistants=v2'."
)
OUTDATED = (
    "The v1 Assistants API has been deprecated. Please try again by setting the header 'OpenAI-Beta: assistants=v2'. "
    "See the migration guide for more information: https://platform.openai.com/docs/assistants/migration."
)

_SEPARATORS = re.compile(r"[,;\s]+")

Beta = Annotated[
    str | None,
    Header(alias="OpenAI-Beta", description="`assistants=v2`; needed only where the server is told to be strict."),
]


async def _checked(resources: OpenResources, openai_beta: Beta = None) -> None:
    if not resources.settings.strict_beta_header:
        return
    versions = _SEPARATORS.split(openai_beta or "")
    if "assistants=v2" not in versions:
        raise InvalidRequest(OUTDATED if "assistants=v1" in versions else MISSING, code="invalid_beta")


ASSISTANTS_V2 = Depends(_checked)
"""For routes of the Assistants API. Raises InvalidRequest."""
