"""The data folder: its state file, its key and what a shell is told."""

import shlex
import stat
from pathlib import Path

import pytest

from orchestrator.embedded.home import AlreadyRunningError, Home, State


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "data")
    home.create()
    return home


def test_a_state_is_read_back_as_it_was_written(home: Home) -> None:
    state = State(4711, "http://127.0.0.1:8300/v1", "sk-asst-x", "ready", processes={"api": 12})

    home.record(state)

    assert home.recorded() == state


def test_a_state_of_a_newer_version_can_still_be_read(home: Home) -> None:
    home.record(State(1, "http://127.0.0.1:8300/v1", "sk-asst-x"))
    path = home.root / "state.json"
    path.write_text(path.read_text().replace("{", '{"invented_later": 1,', 1))

    recorded = home.recorded()

    assert recorded is not None
    assert recorded.pid == 1


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null"])
def test_a_damaged_state_is_no_state(home: Home, content: str) -> None:
    (home.root / "state.json").write_text(content)

    assert home.recorded() is None


def test_what_is_secret_can_be_read_by_the_owner_only(home: Home) -> None:
    home.record(State(1, "http://127.0.0.1:8300/v1", home.api_key()))

    for name, mode in {"": 0o700, "logs": 0o700, "state.json": 0o600, "api_key": 0o600, "lock": 0o600}.items():
        assert stat.S_IMODE((home.root / name).stat().st_mode) == mode, name


def test_the_api_key_is_made_once(home: Home) -> None:
    key = home.api_key()

    assert key.startswith("sk-asst-")
    assert len(key) > 40
    assert Home(home.root).api_key() == key


def test_a_state_without_the_lock_is_nobody_s(home: Home) -> None:
    home.record(State(1, "http://127.0.0.1:8300/v1", "sk-asst-x"))

    assert home.running() is None


def test_a_held_folder_is_running_and_cannot_be_held_twice(home: Home) -> None:
    home.acquire()
    home.record(State(1, "http://127.0.0.1:8300/v1", "sk-asst-x"))

    running = Home(home.root).running()
    with pytest.raises(AlreadyRunningError, match=r"process 1, http://127.0.0.1:8300/v1"):
        Home(home.root).acquire(wait=0)
    home.release()

    assert running is not None
    assert Home(home.root).running() is None


@pytest.mark.parametrize("value", ["plain", "with space", "it's", '"; rm -rf /; "', "$(reboot)", "`x`", "a\nb"])
def test_exports_survive_a_shell_s_eval(value: str) -> None:
    exports = State(1, value, value).exports()

    assert shlex.split(exports) == ["export", f"OPENAI_BASE_URL={value}", f"OPENAI_API_KEY={value}"]


def test_a_folder_that_does_not_exist_is_not_running(tmp_path: Path) -> None:
    assert Home(tmp_path / "nowhere").running() is None
    assert not (tmp_path / "nowhere").exists()


def test_what_a_killed_stack_left_does_not_pass_for_the_one_that_starts(tmp_path: Path) -> None:
    home = Home(tmp_path / "data")
    home.create()
    home.record(State(pid=1, base_url="http://127.0.0.1:1/v1", api_key="sk-asst-x", phase="ready"))

    home.acquire()

    assert home.running() is None
    home.release()
