"""Ray's own code for AWS starts and ends machines from our file, with what our policies allow and no more."""

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
YOURS = {
    "ACCOUNT": "123456789012",
    "AMI-CPU": "ami-12c6146b",
    "AMI-GPU": "ami-12c6146b",
    "BUCKET": "my-bucket",
}


def filled_in(name: str) -> str:
    """A file as README.md has it filled in."""
    text = (FOLDER / name).read_text()
    for word, value in YOURS.items():
        text = text.replace(word, value)
    return text


def allowed(*policies: str) -> set[str]:
    """The actions that policies allow."""
    statements = [statement for name in policies for statement in json.loads(filled_in(name))["Statement"]]
    actions = [statement["Action"] for statement in statements]
    return {action for asked in actions for action in ([asked] if isinstance(asked, str) else asked)}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """A mock of AWS with the roles of README.md; every call that is made to it, as policies name it."""
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
    made: list[str] = []
    call = BaseClient._make_api_call

    def recorded(client: BaseClient, operation: str, arguments: Any) -> Any:
        made.append(f"{client.meta.service_model.service_name}:{operation}")
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
        monkeypatch.setattr(BaseClient, "_make_api_call", recorded)
        yield made


def start(provider: Any, config: dict[str, Any], kind: str) -> None:
    from ray.autoscaler import tags

    of = {tags.TAG_RAY_USER_NODE_TYPE: kind, tags.TAG_RAY_NODE_STATUS: tags.STATUS_UNINITIALIZED}
    node = config["available_node_types"][kind]["node_config"]
    provider.create_node(node, {tags.TAG_RAY_NODE_KIND: tags.NODE_KIND_WORKER, **of}, 1)


def machines() -> list[dict[str, Any]]:
    import boto3

    reserved = boto3.client("ec2").describe_instances()["Reservations"]
    return [machine for reservation in reserved for machine in reservation["Instances"]]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's and moto's own
def test_machines_start_and_end_with_what_the_policies_allow(calls: list[str]) -> None:
    import boto3
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.providers import _get_node_provider
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(yaml.safe_load(filled_in("ray-cluster.yaml")))
    validate_config(prepared)
    config = bootstrap_aws(prepared)
    provider = _get_node_provider(config["provider"], config["cluster_name"], use_cache=False)
    start(provider, config, "head")
    by_you = set(calls)
    calls.clear()

    # From here on it is the head that asks: for workers, of whose going nobody is told.
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

    assert by_you and by_you <= allowed("iam-launch.json")
    assert {"ec2:RunInstances", "ec2:TerminateInstances"} <= by_head <= allowed("iam-head.json")
    assert not fnmatch.filter(allowed("iam-worker.json"), "ec2:*")
    assert not any("*" in action for action in allowed("iam-launch.json", "iam-head.json", "iam-worker.json"))

    assert {machine["State"]["Name"] for machine in machines()} == {"terminated"}
    roles = {machine["InstanceType"]: machine["IamInstanceProfile"]["Arn"] for machine in running}
    assert roles["m7i.large"].endswith("/convene-head") and roles["c7i.4xlarge"].endswith("/convene-worker")
    assert [m["InstanceType"] for m in running if m.get("InstanceLifecycle") == "spot"] == ["c7i.4xlarge"]
    group = boto3.client("ec2").describe_security_groups(GroupNames=["convene"])["SecurityGroups"][0]
    assert [rule["FromPort"] for rule in group["IpPermissions"] if rule["IpRanges"]] == [22]
