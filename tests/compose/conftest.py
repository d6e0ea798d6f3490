"""Images are built once a session; each module has deployments of its own, and nothing of them is left."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.compose.engine import IMAGE, Deployment, build, compose_build

Make = Callable[..., Deployment]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """They run by flag only: they need an engine, and minutes."""
    ours = [item for item in items if item.path.is_relative_to(Path(__file__).parent)]
    if ours and (lacking := _lacking()):
        for item in ours:
            item.add_marker(pytest.mark.skip(reason=lacking))


def _lacking() -> str:
    """What they would need and do not have."""
    if not os.environ.get("ASSISTANTD_COMPOSE"):
        return "needs a Docker engine: ASSISTANTD_COMPOSE=1 pytest tests/compose"
    if os.geteuid() != 0:
        return "needs root: it kills processes of containers as the kernel would"
    if not shutil.which("docker"):
        return "needs Docker: no such command is here"
    for asked in (["docker", "info"], ["docker", "compose", "version"]):
        told = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False)
        if told.returncode:
            return f"needs a Docker engine, and Compose: {' '.join(asked)} says {told.stderr.strip()[-200:]}"
    return ""


@pytest.fixture(scope="session")
def image() -> str:
    """The server's image, built from this work tree."""
    compose_build()
    return f"{IMAGE}:latest"


@pytest.fixture(scope="session")
def model_image(image: str) -> None:
    """The image with the small language model."""
    compose_build("model")


@pytest.fixture(scope="session")
def flower_image(image: str) -> None:
    """The image with Celery's monitor."""
    compose_build("flower")


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
    for deployment in reversed(made):  # later ones may use networks of earlier ones
        deployment.down("--volumes")
