"""The releases of the official clients that conversations are held with: the last of each major line."""

from importlib.metadata import version

PYTHON = {"openai 1": "1.109.1", "openai 2": "2.54.0", "openai 3": version("openai")}
"""What a parameter is called, and the version; the last one is the one that we depend on, installed with us."""
NODE = {"openai": "7.57.0", "openai-6": "6.49.0", "openai-5": "5.23.2", "openai-4": "4.104.0"}
"""The package's name in tests/clients/node/package.json, and the version."""

RAW = "HTTP"


def python(release: str) -> str:
    """What docs/conformance.md calls a release of the Python client."""
    return f"Python {PYTHON[release]}"


def node(release: str) -> str:
    """What it calls a release of the Node client."""
    return f"Node {NODE[release]}"


OURS = python("openai 3")
REQUIRED = {"python": {python("openai 1"), OURS}, "node": {node("openai-4"), node("openai")}}
"""Through which releases a case must pass where a client is named."""
EVERY = [RAW, *map(python, PYTHON), *map(node, reversed(NODE))]
"""All doors, in the order in which they are shown."""
