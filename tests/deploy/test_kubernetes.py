"""The manifests fit the schemas of Kubernetes and KubeRay, and let nobody in who is not named."""

import json
import re
from importlib.resources import files
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from referencing import Registry, Resource

from tests.deploy.test_files import DEPLOY, PINNED, ROOT, YAML, documents, inside

KUBERNETES = "1.37"
MANIFESTS = [d for path in YAML if path.parent.name == "kubernetes" for d in documents(path)]
RAY = [manifest for manifest in MANIFESTS if manifest["apiVersion"].startswith("ray.io/")]
CORE = [manifest for manifest in MANIFESTS if manifest not in RAY]


def kind_of(manifest: dict[str, Any]) -> str:
    return f"{manifest['kind']}-{manifest['metadata']['name']}"


def check_ray(manifest: dict[str, Any]) -> None:
    """Raises jsonschema.ValidationError where KubeRay has no such field, or Kubernetes none in its pods."""
    schemas = f"kubernetes-json-schema/v{KUBERNETES}.0-local-strict/_definitions.json"
    definitions = json.loads((files("kubernetes_validate") / schemas).read_text())
    resource = Resource.from_contents(definitions)
    registry = Registry().with_resources([("kubernetes:", resource), (definitions["$id"], resource)])
    schema = yaml.safe_load((ROOT / "tests/kuberay.yaml").read_text())
    schema = {"$defs": schema["$defs"], "$ref": f"#/$defs/{manifest['kind']}"}
    jsonschema.Draft202012Validator(schema, registry=registry).validate(manifest)


@pytest.mark.parametrize("manifest", CORE, ids=kind_of)
def test_a_manifest_fits_kubernetes_own_schema(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


@pytest.mark.parametrize("manifest", RAY, ids=kind_of)
def test_a_manifest_of_ray_fits_kuberays_fields(manifest: dict[str, Any]) -> None:
    check_ray(manifest)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("minReplicas", "minimumReplicas"),
        ("mode: token", "mode: tokens"),
        ("runAsNonRoot: true", "runAsNonRoot: 7"),
    ],
)
def test_a_wrong_field_is_refused(old: str, new: str) -> None:
    text = (DEPLOY / "kubernetes/cluster.yaml").read_text()
    assert old in text
    with pytest.raises(jsonschema.ValidationError):
        check_ray(yaml.safe_load(text.replace(old, new)))


def test_the_job_has_the_cluster_of_the_cluster_but_for_its_size() -> None:
    by_kind = {manifest["kind"]: manifest["spec"] for manifest in RAY}
    standing, own = by_kind["RayCluster"], by_kind["RayJob"]["rayClusterSpec"]
    assert standing["rayVersion"] == PINNED["ray"]
    assert standing["authOptions"] == {"mode": "token"}
    assert {group["minReplicas"] for group in standing["workerGroupSpecs"]} == {0}
    sizes = ("replicas", "minReplicas", "maxReplicas")
    groups = [
        [
            {key: value for key, value in group.items() if key not in sizes}
            for group in spec["workerGroupSpecs"]
        ]
        for spec in (standing, own)
    ]
    assert groups[0] == groups[1]
    assert {**standing, "workerGroupSpecs": None} == {**own, "workerGroupSpecs": None}


def pods() -> list[dict[str, Any]]:
    return [
        pod
        for manifest in MANIFESTS
        for key in ("template", "submitterPodTemplate")
        for pod in inside(manifest, key)
    ]


def test_pods_are_not_root_are_bounded_and_have_secrets_by_reference() -> None:
    assert len(pods()) == 9
    for pod in pods():
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert pod["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["spec"]["containers"]:
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert {"cpu", "memory"} <= set(container["resources"]["limits"]), container["name"]
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]), container["name"]
            for variable in container.get("env", []):
                if re.search("PASSWORD|SECRET|KEY", variable["name"]):
                    assert set(variable["valueFrom"]) == {"secretKeyRef"}, variable["name"]


def test_servers_have_probes() -> None:
    servers = [manifest for manifest in CORE if manifest["kind"] in ("Deployment", "StatefulSet")]
    assert len(servers) == 2
    for server in servers:
        for container in server["spec"]["template"]["spec"]["containers"]:
            assert {"readinessProbe", "livenessProbe"} <= set(container)


def test_nobody_is_let_in_but_by_name() -> None:
    policies = {m["metadata"]["name"]: m["spec"] for m in CORE if m["kind"] == "NetworkPolicy"}
    assert policies["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name, policy in policies.items():
        for rule in policy.get("ingress", []):
            assert rule["from"], name
    assert not any(service in ("NodePort", "LoadBalancer") for service in inside(MANIFESTS, "serviceType"))
    assert not any("type" in m["spec"] for m in CORE if m["kind"] == "Service")


def test_mlflow_has_the_same_settings_everywhere() -> None:
    settings = next(m["data"] for m in CORE if m["kind"] == "ConfigMap")
    for name, content in settings.items():
        assert content == (DEPLOY / "mlflow" / name).read_text(), name
