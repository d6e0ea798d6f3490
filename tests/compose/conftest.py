"""Images are built once a session; each module has deployments of its own, and nothing of them is left."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.compose.engine import IMAGE, Deployment, build

Make = Callable[..., Deployment]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """They run by flag only: they need an engine, and minutes."""
    if os.environ.get("ASSISTANTD_COMPOSE"):
        return
    unwanted = pytest.mark.skip(reason="needs a Docker engine: ASSISTANTD_COMPOSE=1 pytest tests/compose")
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(unwanted)


@pytest.fixture(scope="session")
def image() -> str:
    """The server's image, built from this work tree."""
    return build("server", f"{IMAGE}:latest")


@pytest.fixture(scope="session")
def proxy_image() -> str:
    """HAProxy's own image if it is there or can be pulled, else one of the distribution's package."""
    name = "haproxy:3.2"
    for found in (["docker", "image", "inspect", name], ["docker", "pull", "--quiet", name]):
        if subprocess.run(found, capture_output=True, timeout=300, check=False).returncode == 0:
            return name
    here = Path(__file__).parent
    return build("", "haproxy-of-the-distribution", "--file", str(here / "haproxy.Dockerfile"), folder=here)


@pytest.fixture(scope="module")
def deploy(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    """Makes deployments, and removes them and their data at the end."""
    made: list[Deployment] = []

    def make(*files: Path, **settings: str) -> Deployment:
        made.append(Deployment(tmp_path_factory.mktemp("deployment"), *files, settings=settings))
        return made[-1]

    yield make
    for deployment in made:
        deployment.down("--volumes")
