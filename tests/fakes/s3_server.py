"""An S3 server as a process of its own: moto's, on a port that is free, with one bucket."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx2

from orchestrator.embedded.process import free_port

BUCKET = "assistantd-tests"
SERVE = "import sys; from moto.server import main; main(['-H', '127.0.0.1', '-p', sys.argv[1]])"
START_TIMEOUT = 30.0


@dataclass(frozen=True)
class S3Server:
    """Where it is, and what a process of ours must be told to use it."""

    endpoint: str

    @property
    def settings(self) -> dict[str, str]:
        """By the names of the settings' fields."""
        return {
            "storage_url": f"s3://{BUCKET}/some/prefix",
            "storage_endpoint": self.endpoint,
            "storage_region": "us-east-1",
            "storage_access_key_id": "test",
            "storage_secret_access_key": "secret-of-the-test",
        }

    @property
    def environment(self) -> dict[str, str]:
        """The same, for a process."""
        return {f"ASSISTANTD_{name.upper()}": value for name, value in self.settings.items()}

    def listed(self) -> str:
        """What the bucket holds, as the server's XML."""
        return httpx2.get(f"{self.endpoint}/{BUCKET}", params={"list-type": "2"}).text

    def unfinished(self) -> str:
        """The multipart uploads that nobody has ended, as the server's XML."""
        return httpx2.get(f"{self.endpoint}/{BUCKET}?uploads").text


@contextmanager
def serving() -> Iterator[S3Server]:
    """Run one; it forgets everything at the end."""
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "secret-of-the-test"}
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(port)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        server = S3Server(f"http://127.0.0.1:{port}")
        _make_bucket(server, process)
        yield server
    finally:
        process.kill()
        process.wait(10)


def _make_bucket(server: S3Server, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        try:
            if httpx2.put(f"{server.endpoint}/{BUCKET}", timeout=10).status_code == 200:
                return
        except httpx2.TransportError:
            time.sleep(0.05)
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("moto's server did not start")
