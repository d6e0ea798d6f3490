"""Files and uploads through the official Node client, in the last release of each major line."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import wiretap
from tests.api.test_node_client import NODE, NPM, SOURCE
from tests.clients import install, releases
from tests.stack import API_KEY, Stack

pytestmark = [
    pytest.mark.skipif(NODE is None or NPM is None, reason="needs node and npm"),
    pytest.mark.timeout(install.TEST_TIMEOUT),
]
CHUNKED = ("openai", "openai-6")
"""Releases that announce no length when they send a stream."""


@pytest.mark.parametrize(
    "release",
    [pytest.param(release, marks=pytest.mark.through(releases.node(release))) for release in releases.NODE],
)
def test_case_26_node_uploads_streams_and_names_of_all_languages(stack: Stack, release: str, tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(install.node_clients(str(NPM)))
    script = shutil.copy(SOURCE / "files.mjs", tmp_path)

    done = subprocess.run(
        [str(NODE), str(script), release],
        cwd=tmp_path,
        env={**stack.environment, "OPENAI_BASE_URL": stack.base_url, "OPENAI_API_KEY": API_KEY},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "streamed": ["stream.txt", 300_000, True],
        "named": [True, 5, 3600],
        "newest": True,
        "upload": ["pending", "completed", True, "abcdef"],
        "refused": ["BadRequestError", 400, "purpose"],
        "deleted": [True, True],
    }
    sent = [exchange.asked for exchange in wiretap.HEARD if exchange.method == "POST"]
    if release in CHUNKED:
        assert "chunked" in {headers.get("transfer-encoding") for headers in sent}
