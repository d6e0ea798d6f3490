"""The files of the deployment, read as Compose and Kubernetes would, without either."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
SCHEMAS = Path(__file__).parents[1] / "schemas"
VARIABLE = re.compile(r"\$\{(?P<name>[A-Z_]+)(?P<how>:?-|:\?)?(?P<default>[^${}]*)\}")

Json = Any


def compose(**environment: str) -> Json:
    """compose.yaml with its variables filled in."""
    return yaml.safe_load(filled((ROOT / "compose.yaml").read_text(), environment))


def filled(text: str, environment: dict[str, str]) -> str:
    """The text with every `${NAME:-default}` replaced, those within others first."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    text, before = "\n".join(lines), ""
    while text != before:
        before = text
        text = VARIABLE.sub(lambda found: environment.get(found["name"]) or found["default"], text)
    return text


def variables(text: str) -> set[str]:
    """The names that a text mentions as variables."""
    return set(re.findall(r"\$\{([A-Z_]+)", text))


def manifests() -> list[Json]:
    """All objects of deploy/kubernetes."""
    paths = sorted((ROOT / "deploy" / "kubernetes").glob("*.yaml"))
    return [each for path in paths for each in yaml.safe_load_all(path.read_text())]


def schema(name: str) -> Json:
    """A schema that lies here."""
    return json.loads((SCHEMAS / f"{name}.json").read_text())


def seconds(duration: str) -> float:
    """`60s` as a number."""
    return float(duration.removesuffix("s"))


def locked(path: Path) -> dict[str, str]:
    """The packages of a lock, and all that it says of each."""
    found: dict[str, str] = {}
    name = ""
    for line in path.read_text().splitlines():
        if begin := re.match(r"([a-z0-9.-]+)(\[[^]]*\])?==", line):
            name = begin[1]
            found[name] = ""
        if name:
            found[name] += line + "\n"
    return found
