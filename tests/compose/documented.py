"""The commands of docs/deploy.md, so that what is written there is what was tested."""

import re

from tests.compose.engine import ROOT

BLOCK = re.compile(r"<!-- tested: (?P<name>[a-z ]+) -->\n```sh\n(?P<lines>.*?)```", re.DOTALL)


def commands(name: str) -> str:
    """The lines of the block that has this name."""
    found = {each["name"]: each["lines"] for each in BLOCK.finditer((ROOT / "docs" / "deploy.md").read_text())}
    return found[name]
