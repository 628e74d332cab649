"""The manifests match the schemas of Kubernetes and KubeRay, and allow no unnecessary access."""

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from referencing import Registry, Resource

from tests.deploy.test_files import DEPLOY, PINNED, YAML, documents, values_of

KUBERNETES = "1.37"
MANIFESTS = [d for path in YAML if path.parent.name == "kubernetes" for d in documents(path)]
RAY = [manifest for manifest in MANIFESTS if manifest["apiVersion"].startswith("ray.io/")]
CORE = [manifest for manifest in MANIFESTS if manifest not in RAY]


def kind_of(manifest: dict[str, Any]) -> str:
    return f"{manifest['kind']}-{manifest['metadata']['name']}"


def check_ray(manifest: dict[str, Any]) -> None:
    """Raise jsonschema.ValidationError for a field unknown to KubeRay, or to Kubernetes in a pod."""
    schemas = f"kubernetes-json-schema/v{KUBERNETES}.0-local-strict/_definitions.json"
    definitions = json.loads((files("kubernetes_validate") / schemas).read_text())
    resource = Resource.from_contents(definitions)
    registry = Registry().with_resources([("kubernetes:", resource), (definitions["$id"], resource)])
    schema = yaml.safe_load(Path(__file__).with_name("kuberay.yaml").read_text())
    schema = {"$defs": schema["$defs"], "$ref": f"#/$defs/{manifest['kind']}"}
    jsonschema.Draft202012Validator(schema, registry=registry).validate(manifest)


@pytest.mark.parametrize("manifest", CORE, ids=kind_of)
def test_a_manifest_matches_the_schema_of_kubernetes(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


@pytest.mark.parametrize("manifest", RAY, ids=kind_of)
def test_a_manifest_of_ray_matches_the_fields_of_kuberay(manifest: dict[str, Any]) -> None:
    check_ray(manifest)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("minReplicas", "minimumReplicas"),
        ("mode: token", "mode: tokens"),
        ("runAsNonRoot: true", "runAsNonRoot: 7"),
    ],
)
def test_a_wrong_field_is_rejected(old: str, new: str) -> None:
    text = (DEPLOY / "kubernetes/cluster.yaml").read_text()
    assert old in text
    with pytest.raises(jsonschema.ValidationError):
        check_ray(yaml.safe_load(text.replace(old, new)))


def test_the_job_and_the_permanent_cluster_differ_only_in_size() -> None:
    by_kind = {manifest["kind"]: manifest["spec"] for manifest in RAY}
    permanent, own = by_kind["RayCluster"], by_kind["RayJob"]["rayClusterSpec"]
    assert permanent["rayVersion"] == PINNED["ray"]
    assert permanent["authOptions"] == {"mode": "token"}
    assert {group["minReplicas"] for group in permanent["workerGroupSpecs"]} == {0}
    sizes = ("replicas", "minReplicas", "maxReplicas")
    groups = [
        [
            {key: value for key, value in group.items() if key not in sizes}
            for group in spec["workerGroupSpecs"]
        ]
        for spec in (permanent, own)
    ]
    assert groups[0] == groups[1]
    assert {**permanent, "workerGroupSpecs": None} == {**own, "workerGroupSpecs": None}


def pods() -> list[dict[str, Any]]:
    return [
        pod
        for manifest in MANIFESTS
        for key in ("template", "submitterPodTemplate")
        for pod in values_of(manifest, key)
    ]


def test_pods_are_not_root_have_limits_and_reference_their_secrets() -> None:
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


def test_all_traffic_is_denied_unless_a_policy_names_its_source() -> None:
    policies = {m["metadata"]["name"]: m["spec"] for m in CORE if m["kind"] == "NetworkPolicy"}
    assert policies["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name, policy in policies.items():
        for rule in policy.get("ingress", []):
            assert rule["from"], name
    assert not any(service in ("NodePort", "LoadBalancer") for service in values_of(MANIFESTS, "serviceType"))
    assert not any("type" in m["spec"] for m in CORE if m["kind"] == "Service")


def test_names_are_resolved_by_pods_and_by_a_cache_on_the_node() -> None:
    dns = next(m["spec"] for m in CORE if m["kind"] == "NetworkPolicy" and m["metadata"]["name"] == "dns")
    [rule] = dns["egress"]
    assert {"ipBlock": {"cidr": "169.254.20.10/32"}} in rule["to"]
    assert [(port["protocol"], port["port"]) for port in rule["ports"]] == [("UDP", 53), ("TCP", 53)]
    # The metadata service, on another address of the same network, stays out of reach.
    assert all("169.254.0.0/16" in exceptions for exceptions in values_of(MANIFESTS, "except"))


def test_mlflow_has_the_same_settings_everywhere() -> None:
    settings = next(m["data"] for m in CORE if m["kind"] == "ConfigMap")
    for name, content in settings.items():
        assert content == (DEPLOY / "mlflow" / name).read_text(), name
