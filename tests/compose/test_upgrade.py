"""A release with a migration is rolled out under streaming clients, by the commands of docs/deploy.md."""

import asyncio

import pytest

from orchestrator.embedded.process import free_port
from orchestrator.migrations import HEAD
from tests.compose.clients import UNFINISHED, more, talking
from tests.compose.conftest import Make
from tests.compose.documented import commands
from tests.compose.engine import IMAGE, Deployment, build

pytestmark = pytest.mark.timeout(900)

NEXT = f"{int(HEAD) + 1:04}"
MIGRATION = f'''"""What a later release might do."""

from alembic import op

revision = "{NEXT}"
down_revision = "{HEAD}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE runs ADD COLUMN later text")
    op.execute("CREATE INDEX runs_later ON runs (later) WHERE later IS NOT NULL")
'''


@pytest.fixture(scope="module")
def next_image(image: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image of a later release."""
    folder = tmp_path_factory.mktemp("next")
    (folder / "later.py").write_text(MIGRATION)
    target = f"/app/orchestrator/migrations/versions/{NEXT}_later.py"
    (folder / "Dockerfile").write_text(f"FROM {image}\nCOPY --chmod=644 later.py {target}\n")
    return build("", f"{IMAGE}:next", folder=folder)


async def test_a_rolling_upgrade_across_a_migration_fails_no_run(
    deploy: Make, next_image: str, proxy_image: str
) -> None:
    ports = {"API_PORT": "0", "PROXY_PORT": str(free_port()), "PROXY_IMAGE": proxy_image}
    deployment = deploy(ASSISTANTD_VERSION="latest", WORKERS="2", API_INSTANCES="2", **ports)
    deployment.profiles = ("proxy",)
    deployment.up()

    async with talking(deployment.client_environment()) as clients:
        deployment.settings["ASSISTANTD_VERSION"] = next_image.rpartition(":")[2]
        await asyncio.to_thread(deployment.shell, commands("rolling upgrade"))
        await more(clients, 1)

    _is_next(deployment, count=2)


async def test_an_upgrade_in_one_go_fails_no_run_either(deploy: Make, next_image: str) -> None:
    deployment = deploy(ASSISTANTD_VERSION="latest")
    deployment.up()

    async with talking(deployment.client_environment()) as clients:
        deployment.settings["ASSISTANTD_VERSION"] = next_image.rpartition(":")[2]
        await asyncio.to_thread(deployment.up)
        await more(clients, 1)

    _is_next(deployment, count=1)


def _is_next(deployment: Deployment, count: int) -> None:
    for service in ("worker", "api"):
        assert [each["Config"]["Image"] for each in deployment.containers(service)] == [f"{IMAGE}:next"] * count
    assert deployment.sql("SELECT version_num FROM alembic_version") == NEXT
    assert deployment.sql(UNFINISHED) == "0"
