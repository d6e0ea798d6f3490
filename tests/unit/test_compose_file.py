"""compose.yaml, by its schema and by our own rules; what runs it for real is in tests/compose."""

import os
import re
import shutil
import subprocess

import jsonschema_rs
import pytest
import yaml

from orchestrator import direct
from orchestrator.cli.secret_files import secret_settings
from orchestrator.settings import Settings
from tests.unit.deployment import ROOT, Json, compose, schema, seconds, variables
from workers.drain import GRACE

ONCE = {"secrets", "migrate"}
OURS = {"api", "worker", "migrate", "flower"}
PUBLISHED = {"api": ["127.0.0.1:8300:8300"], "proxy": ["127.0.0.1:8300:8300"]}
FIXED = {"api_host", "api_port", "log_format"}
"""Settings that are the image's business."""
BESIDE = {"ASSISTANTD_SECRETS_DIR", "ASSISTANTD_PUBLIC_URL"}
OVERRIDES = (
    "deploy/compose.external.yaml",
    "tests/compose/build.yaml",
    "tests/compose/engine.yaml",
    "tests/compose/offline.yaml",
)
SIZES = {"small": (1, 1), "medium": (3, 2), "large": (6, 4)}
"""Of docs/deploy.md: workers, and instances of the API."""
KEPT_BY_POSTGRES = 3
UPKEEP = int(re.findall(r"^UPKEEP = (\d+)$", (ROOT / "workers" / "runs.py").read_text(), re.MULTILINE)[0])
"""To import that module is to start a worker."""

SERVICES: dict[str, Json] = compose()["services"]
LASTING = sorted(set(SERVICES) - ONCE)


def test_it_is_what_the_specification_says() -> None:
    errors = [error.message for error in jsonschema_rs.validator_for(schema("compose-spec")).iter_errors(compose())]

    assert errors == []


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_may_do_more_than_it_must(name: str) -> None:
    service = SERVICES[name]
    limits = service["deploy"]["resources"]["limits"]

    assert int(service["user"].partition(":")[0]) > 0
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"cap_add", "privileged", "pid", "ipc", "userns_mode", "devices", "env_file"} & set(service)
    assert set(limits) == {"cpus", "memory", "pids"}
    assert service["logging"]["options"]["max-size"]
    assert service.get("ports", []) == PUBLISHED.get(name, [])


def test_a_proxy_that_others_can_reach_does_not_open_the_instances_behind_it() -> None:
    services = compose(PROXY_ADDRESS="192.0.2.1", PROXY_PORT="443", API_PORT="0")["services"]

    assert services["proxy"]["ports"] == ["192.0.2.1:443:8300"]
    assert services["api"]["ports"] == ["127.0.0.1:0:8300"]
    assert services["api"]["environment"]["ASSISTANTD_PUBLIC_URL"] == "http://192.0.2.1:443"


@pytest.mark.parametrize("name", LASTING)
def test_what_runs_on_is_watched_and_started_again(name: str) -> None:
    service = SERVICES[name]

    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"]
    assert seconds(service["healthcheck"]["timeout"]) <= seconds(service["healthcheck"]["interval"])
    assert service["stop_grace_period"]


@pytest.mark.parametrize("name", ONCE)
def test_what_runs_once_is_not_started_again_and_is_waited_for(name: str) -> None:
    done = {"condition": "service_completed_successfully"}

    assert SERVICES[name]["restart"] == "no"
    assert any(service.get("depends_on", {}).get(name) == done for service in SERVICES.values())


def test_no_secret_is_interpolated_or_in_an_environment() -> None:
    text = (ROOT / "compose.yaml").read_text()
    secret = secret_settings() | {"POSTGRES_PASSWORD"}

    assert not secret & variables(text)
    for service in SERVICES.values():
        assert not secret & set(service.get("environment") or {})


def test_api_and_workers_have_the_same_settings_and_every_setting_can_be_set() -> None:
    known = {
        str(field.validation_alias or f"ASSISTANTD_{name.upper()}")
        for name, field in Settings.model_fields.items()
        if name not in FIXED
    }

    assert SERVICES["api"]["environment"] == SERVICES["worker"]["environment"] == SERVICES["migrate"]["environment"]
    assert set(SERVICES["api"]["environment"]) - BESIDE == known - secret_settings()


def test_a_service_gets_longer_to_stop_than_it_takes() -> None:
    grace = float(SERVICES["api"]["environment"]["ASSISTANTD_SHUTDOWN_GRACE"])
    delay = float(Settings.model_fields["drain_delay"].default)

    for name in ("api", "worker"):
        assert seconds(SERVICES[name]["stop_grace_period"]) > grace + delay + 2 * GRACE


@pytest.mark.parametrize("size", SIZES)
def test_connections_to_the_database_suffice_for_the_documented_sizes(size: str) -> None:
    workers, apis = SIZES[size]
    pool = int(Settings.model_fields["database_pool_size"].default)
    worker = pool + direct.CONNECTIONS + (UPKEEP + 1) + 1  # the upkeep's short way; the lock
    api = pool + direct.CONNECTIONS + 1  # the probe's
    needed = workers * (worker + 1) + apis * api + 1  # the healthcheck of each worker; the migration
    rolled = needed + max(workers * (worker + 1), apis * api)  # the new beside the old
    most = next(part for part in SERVICES["postgres"]["command"] if part.startswith("max_connections="))
    (told,) = [line for line in (ROOT / "docs/deploy.md").read_text().splitlines() if line.startswith(f"| {size} |")]

    assert rolled <= int(most.partition("=")[2]) - KEPT_BY_POSTGRES
    assert [part.strip() for part in told.split("|")][3:5] == [str(workers), str(apis)]
    assert f"| {needed} |" in told


@pytest.mark.parametrize("name", ["api", "worker", "migrate", "flower", "postgres", "valkey"])
def test_secrets_are_read_and_never_written_by_who_gets_them(name: str) -> None:
    (secrets,) = [each for each in SERVICES[name]["volumes"] if isinstance(each, dict) and "secrets" in each["source"]]

    assert secrets["read_only"] is True
    assert secrets["volume"] == {"nocopy": True}  # their folders belong to who writes them
    assert secrets["source"] == ("secrets" if name in OURS else f"secrets-{name}")


def test_the_databases_have_no_way_out() -> None:
    assert compose()["networks"]["data"] == {"internal": True}
    assert SERVICES["postgres"]["networks"] == SERVICES["valkey"]["networks"] == ["data"]


def test_the_example_names_nothing_that_does_not_exist() -> None:
    settings = {
        str(field.validation_alias or f"ASSISTANTD_{name.upper()}") for name, field in Settings.model_fields.items()
    }
    known = settings | variables((ROOT / "compose.yaml").read_text()) | {"COMPOSE_FILE", "COMPOSE_PROFILES"}
    lines = (ROOT / ".env.example").read_text().splitlines()
    named = {line.lstrip("#").partition("=")[0] for line in lines if "=" in line and " " not in line.partition("=")[0]}

    assert len(named) > 30
    assert named <= known
    assert not [line for line in lines if line and not line.startswith("#")]  # nothing is set that nobody has decided


@pytest.mark.parametrize("path", OVERRIDES)
def test_overrides_are_of_services_that_exist(path: str) -> None:
    text = re.sub(r"!(override|reset) ", "", (ROOT / path).read_text())
    named = set(yaml.safe_load(text)["services"])

    assert named <= set(SERVICES) | {"scripted"}


def test_no_two_services_build_one_image() -> None:
    built = [service["image"] for service in SERVICES.values() if "build" in service]

    assert len(built) == len(set(built))
    assert {SERVICES[name]["image"] for name in OURS} <= set(built)


def test_compose_itself_takes_the_files_where_it_is_installed() -> None:
    docker = shutil.which("docker") or ""
    asked = [docker, "compose", "version", "--short"]
    told = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False).stdout if docker else ""
    version = re.match(r"v?(\d+)\.(\d+)\.(\d+)", told)
    if version is None or tuple(map(int, version.groups())) < (2, 24, 4):
        pytest.skip("docker compose is not installed, or older than `!override`")
    for files in ([], ["deploy/compose.external.yaml"]):
        chosen = [part for path in ("compose.yaml", *files) for part in ("--file", str(ROOT / path))]
        command = [docker, "compose", *chosen, "--env-file", "/dev/null", "--profile", "*", "config", "--quiet"]
        env = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=env)

        assert done.returncode == 0, done.stderr


def test_the_proxy_ends_by_itself_before_it_is_killed() -> None:
    (most,) = re.findall(r"hard-stop-after (\d+)s", (ROOT / "deploy" / "haproxy.cfg").read_text())

    assert seconds(SERVICES["proxy"]["stop_grace_period"]) > float(most)
    assert SERVICES["proxy"]["stop_signal"] == "SIGUSR1"


def test_commands_that_are_called_tested_are() -> None:
    documented = re.findall(r"<!-- tested: ([a-z ]+) -->", (ROOT / "docs" / "deploy.md").read_text())
    tests = "".join(path.read_text() for path in (ROOT / "tests" / "compose").glob("test_*.py"))

    assert documented
    for name in documented:
        assert f'commands("{name}")' in tests
