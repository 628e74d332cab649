"""Ray's own code for AWS starts and terminates machines from our file, and our policies allow its calls."""

import fnmatch
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[2] / "deploy/aws"
PLACEHOLDERS = {
    "ACCOUNT": "123456789012",
    "AMI-CPU": "ami-12c6146b",
    "AMI-GPU": "ami-12c6146b",
    "BUCKET": "my-bucket",
}


def filled_in(name: str) -> str:
    """Return a file with the placeholders replaced, as README.md describes."""
    text = (FOLDER / name).read_text()
    for word, value in PLACEHOLDERS.items():
        text = text.replace(word, value)
    return text


def allowed(*policies: str) -> set[str]:
    """Return the actions that policies allow."""
    statements = [statement for name in policies for statement in json.loads(filled_in(name))["Statement"]]
    actions = [statement["Action"] for statement in statements]
    return {action for entry in actions for action in ([entry] if isinstance(entry, str) else entry)}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """Mock AWS with the roles of README.md, and return the list of calls, named as in policies."""
    import boto3
    from botocore.client import BaseClient
    from moto import mock_aws

    (tmp_path / ".ssh").mkdir()
    keys = {
        "AWS_ACCESS_KEY_ID": "mock",
        "AWS_SECRET_ACCESS_KEY": "mock",
        "AWS_DEFAULT_REGION": "eu-central-1",
    }
    for name, value in {**keys, "AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    names: list[str] = []
    call = BaseClient._make_api_call

    def record(client: BaseClient, operation: str, arguments: Any) -> Any:
        names.append(f"{client.meta.service_model.service_name}:{operation}")
        return call(client, operation, arguments)

    with mock_aws():
        iam = boto3.client("iam")
        for role in ("convene-head", "convene-worker"):
            trust = filled_in("iam-trust.json")
            iam.create_role(RoleName=role, AssumeRolePolicyDocument=trust)
            policy = filled_in(f"iam-{role.removeprefix('convene-')}.json")
            iam.put_role_policy(RoleName=role, PolicyName="convene", PolicyDocument=policy)
            iam.create_instance_profile(InstanceProfileName=role)
            iam.add_role_to_instance_profile(InstanceProfileName=role, RoleName=role)
        monkeypatch.setattr(BaseClient, "_make_api_call", record)
        yield names


def start(provider: Any, config: dict[str, Any], kind: str) -> None:
    from ray.autoscaler import tags

    node_tags = {
        tags.TAG_RAY_NODE_KIND: tags.NODE_KIND_WORKER,
        tags.TAG_RAY_USER_NODE_TYPE: kind,
        tags.TAG_RAY_NODE_STATUS: tags.STATUS_UNINITIALIZED,
    }
    node = config["available_node_types"][kind]["node_config"]
    provider.create_node(node, node_tags, 1)


def machines() -> list[dict[str, Any]]:
    import boto3

    reservations = boto3.client("ec2").describe_instances()["Reservations"]
    return [machine for reservation in reservations for machine in reservation["Instances"]]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's and moto's own
def test_the_policies_allow_the_calls_that_start_and_terminate_machines(calls: list[str]) -> None:
    import boto3
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.providers import _get_node_provider
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(yaml.safe_load(filled_in("ray-cluster.yaml")))
    validate_config(prepared)
    config = bootstrap_aws(prepared)
    provider = _get_node_provider(config["provider"], config["cluster_name"], use_cache=False)
    start(provider, config, "head")
    by_user = set(calls)
    calls.clear()

    # From here on, the calls are the head's, for workers. Nobody else terminates them.
    provider.fillout_available_node_types_resources(config)
    start(provider, config, "cpu")
    nodes = provider.non_terminated_nodes({})
    assert len(nodes) == 2
    for node in nodes:
        assert provider.is_running(node)
        provider.set_node_tags(node, {"ray-node-status": "up-to-date"})
    deadline = time.monotonic() + 30
    while "ec2:CreateTags" not in calls and time.monotonic() < deadline:
        time.sleep(0.1)  # Ray sends tags from a thread
    running = machines()
    provider.terminate_nodes(nodes)
    by_head = set(calls)

    assert by_user and by_user <= allowed("iam-launch.json")
    assert {"ec2:RunInstances", "ec2:TerminateInstances"} <= by_head <= allowed("iam-head.json")
    assert not fnmatch.filter(allowed("iam-worker.json"), "ec2:*")
    assert not any("*" in action for action in allowed("iam-launch.json", "iam-head.json", "iam-worker.json"))

    assert {machine["State"]["Name"] for machine in machines()} == {"terminated"}
    roles = {machine["InstanceType"]: machine["IamInstanceProfile"]["Arn"] for machine in running}
    assert roles["m7i.large"].endswith("/convene-head") and roles["c7i.4xlarge"].endswith("/convene-worker")
    assert [m["InstanceType"] for m in running if m.get("InstanceLifecycle") == "spot"] == ["c7i.4xlarge"]
    group = boto3.client("ec2").describe_security_groups(GroupNames=["convene"])["SecurityGroups"][0]
    assert [rule["FromPort"] for rule in group["IpPermissions"] if rule["IpRanges"]] == [22]
