"""A model server that cannot be spoken to at all: each run fails in time, with the same words, and frees its thread."""

import asyncio
import datetime
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from orchestrator import assistants, threads
from orchestrator.embedded.process import free_port
from orchestrator.execution.runner import Runner
from orchestrator.openai_model import OpenAIModel
from orchestrator.resources import Resources
from orchestrator.settings import Settings
from orchestrator.wire.requests import CreateAssistant
from tests.fakes.wild_server import WildServer
from tests.integration.scene import Scene

DEADLINE = 60.0
SORRY = {"code": "server_error", "message": "Sorry, something went wrong."}


@pytest.fixture(scope="module")
def wild() -> Iterator[WildServer]:
    with WildServer() as server:
        yield server


@pytest_asyncio.fixture
async def scene(bare: Resources, project_id: str) -> Scene:
    """An empty thread."""
    async with bare.database.transaction() as session:
        assistant = await assistants.create(session, project_id, CreateAssistant(model="gpt-4o"))
        thread = await threads.create(session, project_id, None)
    return Scene(bare, project_id, thread.id, assistant.id)


@contextmanager
def deaf_server() -> Iterator[str]:
    """A server that takes connections and neither reads nor says anything."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"


@pytest_asyncio.fixture
async def nobodys_server(tmp_path: Path) -> AsyncIterator[str]:
    """A server with TLS whose certificate nobody has signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    today = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(today).not_valid_after(today + datetime.timedelta(days=1))
    pem = tmp_path / "server.pem"
    plain = serialization.NoEncryption()
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    pem.write_bytes(secret + builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    server.close()


async def check_failure(scene: Scene, settings: Settings, address: str) -> None:
    """A run that is asked of the model server at this address fails."""
    patience = {"upstream_connect_timeout": 1.0, "upstream_read_timeout": 1.0, "upstream_retries": 0}
    ours = settings.model_copy(update={"upstream_base_url": address, **patience})
    run = await scene.create(said="Hi")
    async with OpenAIModel(ours) as model:
        await asyncio.wait_for(Runner(scene.bare.database, model, "9", ours).run(run.id), DEADLINE)

    (ended,) = await scene.all()
    assert (ended.status, ended.last_error) == ("failed", SORRY)
    assert await scene.active() is None


async def test_nobody_listens(scene: Scene, bare_settings: Settings) -> None:
    await check_failure(scene, bare_settings, f"http://127.0.0.1:{free_port()}/v1")


async def test_nobody_knows_the_name(scene: Scene, bare_settings: Settings) -> None:
    await check_failure(scene, bare_settings, "http://no-such-host.invalid/v1")


async def test_whoever_listens_does_not_even_read(scene: Scene, bare_settings: Settings) -> None:
    with deaf_server() as address:
        await check_failure(scene, bare_settings, address)


async def test_whoever_listens_does_not_speak_tls(scene: Scene, bare_settings: Settings, wild: WildServer) -> None:
    await check_failure(scene, bare_settings, wild.base_url.replace("http:", "https:"))


async def test_nobody_vouches_for_the_server(scene: Scene, bare_settings: Settings, nobodys_server: str) -> None:
    await check_failure(scene, bare_settings, nobodys_server)
