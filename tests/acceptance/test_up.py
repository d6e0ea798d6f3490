"""`assistantd up` as a user runs it: serves, is found, survives being killed, keeps its data, stops in order."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import openai
import psutil
import pytest

from orchestrator.embedded.home import Home
from tests import wiretap
from tests.fakes.model_control import RemoteModelServer

ROOT = Path(__file__).parents[2]
PATIENCE = 90.0


class Up:
    """`assistantd up` on a data folder of its own, with the scripted model server behind it."""

    def __init__(self, folder: Path, upstream: str) -> None:
        self.folder = folder
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "ASSISTANTD_"))}
        parts = ("DATABASE_URL", "REDIS_URL", "UPSTREAM_BASE_URL", "UPSTREAM_API_KEY")
        self.environment = {name: value for name, value in kept.items() if name not in parts}
        self.environment |= {"PYTHONPATH": str(ROOT), "UPSTREAM_BASE_URL": upstream}
        self.process: subprocess.Popen[str] | None = None

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """Another sub-command on the same data."""
        argv = [sys.executable, "-P", "-m", "orchestrator.cli", *command, "--data", str(self.folder)]
        return subprocess.run(argv, env=self.environment, capture_output=True, text=True, timeout=PATIENCE, check=False)

    def start(self) -> None:
        """Start it and wait until it is found. (To ask `env` again and again would take a core from what starts.)"""
        argv = [sys.executable, "-P", "-m", "orchestrator.cli", "up", "--data", str(self.folder), "--port", "0"]
        self.process = subprocess.Popen(
            argv,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        deadline = time.monotonic() + PATIENCE
        home = Home(self.folder)
        while (state := home.running()) is None or state.phase != "ready":
            if self.process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"up did not serve:\n{self.said()}")
            time.sleep(0.05)

    def said(self) -> str:
        """All that it printed; ends it."""
        assert self.process is not None
        self.process.kill()
        return self.process.communicate(timeout=30)[0]

    @contextmanager
    def client(self) -> Iterator[openai.OpenAI]:
        """The official client, told where to go by `env` alone."""
        exports = shlex.split(self.run("env").stdout)
        told = dict(word.split("=", 1) for word in exports if "=" in word)
        with (
            wiretap.on(told["OPENAI_BASE_URL"]) as base_url,
            openai.OpenAI(base_url=base_url, api_key=told["OPENAI_API_KEY"], max_retries=0, timeout=PATIENCE) as client,
        ):
            yield client

    def processes(self) -> list[psutil.Process]:
        """Everything that belongs to it."""
        assert self.process is not None
        me = psutil.Process(self.process.pid)
        return [me, *me.children(recursive=True)]

    def stop(self) -> int:
        """Ctrl-C, then its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=30)
        return self.process.returncode


@pytest.fixture
def up() -> Iterator[Up]:
    folder = Path(tempfile.mkdtemp(prefix="assistantd-up-"))
    with RemoteModelServer.start() as model:
        ours = Up(folder, model.base_url)
        try:
            yield ours
        finally:
            if ours.process is not None and ours.process.poll() is None:
                ours.stop()
            shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.timeout(300)
def test_one_command_serves_conversations_survives_a_kill_and_keeps_its_data(up: Up) -> None:
    up.start()
    with up.client() as client:
        assistant = client.beta.assistants.create(model="gpt-4o")
        thread = client.beta.threads.create(messages=[{"role": "user", "content": 'Say it. [[text="It works."]]'}])
        with client.beta.threads.runs.stream(thread_id=thread.id, assistant_id=assistant.id) as stream:
            text = "".join(stream.text_deltas)
    second = up.run("up", "--port", "0")
    everyone = up.processes()

    assert text == "It works."
    assert second.returncode != 0
    assert "already" in second.stderr + second.stdout

    supervisor = json.loads((up.folder / "state.json").read_text())["pid"]
    os.kill(supervisor, signal.SIGKILL)
    _, alive = psutil.wait_procs(everyone, timeout=30)
    assert alive == []
    assert up.process is not None
    up.process.communicate(timeout=30)

    up.start()
    with up.client() as client:
        said = client.beta.threads.messages.list(thread.id).data
        run = client.beta.threads.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id)
    everyone = up.processes()

    assert [message.role for message in said] == ["assistant", "user"]
    assert run.status == "completed"
    assert up.stop() == 0
    _, alive = psutil.wait_procs(everyone, timeout=10)
    assert alive == []
