"""deploy/kubernetes, by Kubernetes' own strict schema and by our rules."""

import re

import jsonschema_rs
import pytest

from orchestrator.cli.secret_files import secret_settings
from orchestrator.settings import Settings
from tests.unit.deployment import ROOT, Json, manifests, schema

MANIFESTS = {f"{each['kind']} {each['metadata']['name']}": each for each in manifests()}
PODS = {name: each["spec"]["template"] for name, each in MANIFESTS.items() if each["kind"] in ("Deployment", "Job")}
CONFIG = MANIFESTS["ConfigMap assistantd"]["data"]


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_manifest_is_what_the_schema_says(name: str) -> None:
    manifest, known = MANIFESTS[name], schema("kubernetes")
    kind = known["kinds"][f"{manifest['apiVersion']} {manifest['kind']}"]
    strict = {"$defs": known["$defs"], "$ref": f"#/$defs/{kind}"}

    assert [error.message for error in jsonschema_rs.validator_for(strict).iter_errors(manifest)] == []


def test_a_field_that_does_not_exist_is_noticed() -> None:
    known = schema("kubernetes")
    strict = {"$defs": known["$defs"], "$ref": f"#/$defs/{known['kinds']['apps/v1 Deployment']}"}
    wrong: Json = {**MANIFESTS["Deployment assistantd-api"], "replicas": 2}

    assert not jsonschema_rs.validator_for(strict).is_valid(wrong)


@pytest.mark.parametrize("name", PODS)
def test_no_pod_may_do_more_than_it_must(name: str) -> None:
    pod = PODS[name]["spec"]
    (container,) = pod["containers"]

    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["limits"]["memory"]
    assert "env" not in container
    assert container["envFrom"] == [{"configMapRef": {"name": "assistantd"}}]  # the same for all


def test_no_secret_is_in_the_configuration_and_no_name_is_wrong() -> None:
    settings = {
        str(field.validation_alias or f"ASSISTANTD_{name.upper()}") for name, field in Settings.model_fields.items()
    }

    assert set(CONFIG) <= settings | {"ASSISTANTD_SECRETS_DIR", "ASSISTANTD_PUBLIC_URL"}
    assert not set(CONFIG) & secret_settings()


def test_the_ingress_serves_the_address_that_is_told() -> None:
    (rule,) = MANIFESTS["Ingress assistantd"]["spec"]["rules"]

    assert CONFIG["ASSISTANTD_PUBLIC_URL"] == f"https://{rule['host']}"


def test_every_manifest_is_applied_where_the_documentation_says_and_the_migration_before_what_needs_it() -> None:
    first, _, rest = (ROOT / "docs" / "deploy.md").read_text().partition("kubectl wait ")
    before, after = (set(re.findall(r"deploy/kubernetes/([a-z]+\.yaml)", part)) for part in (first, rest))

    assert before == {"config.yaml", "migrate.yaml"}
    assert before | after == {path.name for path in (ROOT / "deploy" / "kubernetes").iterdir()}


@pytest.mark.parametrize("name", ["Deployment assistantd-api", "Deployment assistantd-worker"])
def test_pods_get_longer_to_leave_than_they_take(name: str) -> None:
    took = float(CONFIG["ASSISTANTD_SHUTDOWN_GRACE"]) + float(CONFIG["ASSISTANTD_DRAIN_DELAY"])

    assert PODS[name]["spec"]["terminationGracePeriodSeconds"] > took + 10


def test_selectors_find_their_pods() -> None:
    labels = [pod["metadata"]["labels"] for pod in PODS.values()]
    selectors = [
        spec.get("selector", {}).get("matchLabels")
        or spec.get("podSelector", {}).get("matchLabels")
        or spec.get("selector")
        for spec in (each.get("spec", {}) for each in MANIFESTS.values())
    ]

    for selector in filter(None, selectors):
        assert any(selector.items() <= each.items() for each in labels), selector
