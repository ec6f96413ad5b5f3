"""AWS and GCP: private machines, of the project's own network, that leave nothing behind.

What a file says of its machines, Ray hands on to the cloud unread. So each is held here against the
cloud's own description of a machine, which its client library carries: no network, no credentials.
"""

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import botocore.session
import botocore.validate
import pytest
from googleapiclient.discovery_cache import get_static_doc

from tests.clusters.files import as_ray_sees_it, load

CLOUDS = ("aws", "gcp")
NODE_TYPES = ("head", "gpu_spot", "gpu_on_demand")
PROJECT = "REPLACE-PROJECT"


@pytest.fixture(params=CLOUDS)
def config(request):
    return load(request.param)


@pytest.fixture
def gcp_machines():
    return {name: kind["node_config"] for name, kind in load("gcp")["available_node_types"].items()}


@pytest.fixture
def aws_machines():
    return {name: kind["node_config"] for name, kind in load("aws")["available_node_types"].items()}


# ------------------------------------------------------------------------------- both clouds


def test_the_head_has_no_gpu_and_no_work(config):
    assert config["head_node_type"] == "head"
    assert config["available_node_types"]["head"]["resources"] == {"CPU": 0, "GPU": 0}


def test_no_machine_is_started_before_there_is_work_and_idle_ones_end(config):
    for name in ("gpu_spot", "gpu_on_demand"):
        assert config["available_node_types"][name]["min_workers"] == 0
    assert 0 < config["idle_timeout_minutes"] <= 15


def test_machines_are_reached_by_their_private_addresses_through_the_clouds_own_tunnel(config):
    assert config["provider"]["use_internal_ips"] is True
    assert config["auth"]["ssh_proxy_use_node_id"] is True
    assert "%h" in config["auth"]["ssh_proxy_command"]
    assert "%p" in config["auth"]["ssh_proxy_command"]


def test_the_head_reaches_the_workers_without_the_tunnel(config):
    from ray.autoscaler._private.commands import _set_up_config_for_head_node

    provider = MagicMock()
    provider.prepare_for_head_node = lambda remote: remote

    _, file = _set_up_config_for_head_node(as_ray_sees_it(config), provider, no_restart=False)
    with file:
        remote = json.loads(Path(file.name).read_text("utf-8"))

    assert remote["provider"]["use_internal_ips"] is True
    assert not [key for key in remote["auth"] if "proxy" in key]


def test_machines_are_ended_and_not_stopped(config):
    assert config["provider"]["cache_stopped_nodes"] is False


def test_spot_and_on_demand_differ_in_the_market_alone(config):
    spot, on_demand = (config["available_node_types"][name] for name in NODE_TYPES[1:])
    market = {"InstanceMarketOptions", "scheduling"}

    assert spot["resources"] == on_demand["resources"]
    assert {k: v for k, v in spot["node_config"].items() if k not in market} == {
        k: v for k, v in on_demand["node_config"].items() if k not in market
    }


# ---------------------------------------------------------------------------------------- AWS


@pytest.mark.parametrize("name", NODE_TYPES)
def test_aws_knows_every_key_of_the_machine(aws_machines, name):
    service = botocore.session.get_session().get_service_model("ec2")
    shape = service.operation_model("RunInstances").input_shape
    counts = {"MinCount": 1, "MaxCount": 1}
    # Ray makes these of SubnetIds, on its way to the cloud.
    machine = {k: v for k, v in aws_machines[name].items() if k != "SubnetIds"}

    report = botocore.validate.ParamValidator().validate({**machine, **counts}, shape)

    assert not report.has_errors(), report.generate_report()
    assert set(machine) <= set(shape.members)


def test_aws_refuses_a_machine_with_a_misspelt_key():
    service = botocore.session.get_session().get_service_model("ec2")
    shape = service.operation_model("RunInstances").input_shape
    misspelt = {"MinCount": 1, "MaxCount": 1, "MetadataOptions": {"HttpToken": "required"}}

    report = botocore.validate.ParamValidator().validate(misspelt, shape)

    assert "HttpToken" in report.generate_report()


def test_aws_brings_its_own_security_group_and_subnet_for_every_machine(aws_machines):
    # Where one is missing, Ray makes a group whose SSH port admits everyone.
    assert "security_group" not in load("aws")["provider"]
    for name, machine in aws_machines.items():
        assert machine["SecurityGroupIds"] == ["sg-REPLACE"], name
        assert machine["SubnetIds"] == ["subnet-REPLACE"], name


def test_aws_gives_the_head_alone_a_role(aws_machines):
    assert aws_machines["head"]["IamInstanceProfile"] == {"Name": "leaktune-head"}
    for name in NODE_TYPES[1:]:
        assert "IamInstanceProfile" not in aws_machines[name]


def test_aws_spot_machines_are_spot(aws_machines):
    assert aws_machines["gpu_spot"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in aws_machines["gpu_on_demand"]


def test_aws_encrypts_disks_and_deletes_them_with_their_machine(aws_machines):
    for name, machine in aws_machines.items():
        (disk,) = machine["BlockDeviceMappings"]
        assert disk["Ebs"]["Encrypted"] is True, name
        assert disk["Ebs"]["DeleteOnTermination"] is True, name
        assert machine["MetadataOptions"] == {"HttpTokens": "required"}, name


# ---------------------------------------------------------------------------------------- GCP


def check(value, schema, schemas, at):
    """Holds a value against a schema of a Google discovery document."""
    schema = schemas[schema["$ref"]] if "$ref" in schema else schema
    kind = schema.get("type")
    if kind == "object" and "properties" in schema:
        assert isinstance(value, dict), at
        for key, item in value.items():
            assert key in schema["properties"], f"{at}.{key}"
            check(item, schema["properties"][key], schemas, f"{at}.{key}")
    elif kind == "array":
        assert isinstance(value, list), at
        for item in value:
            check(item, schema["items"], schemas, at)
    elif kind == "boolean":
        assert isinstance(value, bool), at
    elif kind == "string":
        assert isinstance(value, int if schema.get("format") == "int64" else str), at
        assert value in schema.get("enum", [value]), f"{at}: {value}"


@pytest.fixture(scope="module")
def compute():
    """What the Compute Engine API says a machine may be."""
    return json.loads(get_static_doc("compute", "v1"))["schemas"]


@pytest.mark.parametrize("name", NODE_TYPES)
def test_gcp_knows_every_key_of_the_machine(gcp_machines, compute, name):
    check(gcp_machines[name], {"$ref": "Instance"}, compute, name)

    with pytest.raises(AssertionError, match="machinType"):
        check({"machinType": "e2-standard-4"}, {"$ref": "Instance"}, compute, name)
    with pytest.raises(AssertionError, match="scheduling"):
        # As Ray's own example has it.
        check({"scheduling": [{"preemptible": True}]}, {"$ref": "Instance"}, compute, name)


def test_gcp_machines_have_no_public_address_and_the_tag_of_the_firewalls_rules(gcp_machines):
    for name, machine in gcp_machines.items():
        (interface,) = machine["networkInterfaces"]
        assert set(interface) == {"subnetwork"}, name
        assert interface["subnetwork"].endswith("/subnetworks/leaktune"), name
        assert machine["tags"] == {"items": ["leaktune"]}, name


def test_gcp_machines_admit_one_key_of_their_own(gcp_machines):
    for name, machine in gcp_machines.items():
        items = {item["key"]: item["value"] for item in machine["metadata"]["items"]}
        assert items["ssh-keys"].startswith("ubuntu:ssh-ed25519 "), name
        assert items["block-project-ssh-keys"] == "TRUE", name
        assert items["enable-oslogin"] == "FALSE", name


def test_gcp_spot_machines_are_spot_and_deleted_when_they_are_taken_away(gcp_machines):
    spot = gcp_machines["gpu_spot"]["scheduling"]

    assert (spot["provisioningModel"], spot["instanceTerminationAction"]) == ("SPOT", "DELETE")
    assert gcp_machines["gpu_on_demand"]["scheduling"]["provisioningModel"] == "STANDARD"
    for name in NODE_TYPES[1:]:
        assert gcp_machines[name]["scheduling"]["onHostMaintenance"] == "TERMINATE"


def test_gcp_deletes_disks_with_their_machine(gcp_machines):
    for name, machine in gcp_machines.items():
        (disk,) = machine["disks"]
        assert disk["autoDelete"] is True, name


def test_gcp_zone_and_project_are_the_same_wherever_they_stand(gcp_machines):
    config = load("gcp")
    zone, region = config["provider"]["availability_zone"], config["provider"]["region"]

    assert zone.startswith(f"{region}-")
    assert f"--project={PROJECT} --zone={zone}" in config["auth"]["ssh_proxy_command"]
    for machine in gcp_machines.values():
        (interface,) = machine["networkInterfaces"]
        assert interface["subnetwork"].startswith(f"projects/{PROJECT}/regions/{region}/")


@pytest.fixture
def google():
    """The four clients of Ray's GCP provider, answering as for a project that is set up."""
    crm, iam, api = MagicMock(), MagicMock(), MagicMock()
    project = {"projectId": PROJECT, "name": PROJECT, "lifecycleState": "ACTIVE"}
    account = {"email": "ray@example.org", "projectId": PROJECT}
    crm.projects().get().execute.return_value = project
    crm.projects().getIamPolicy().execute.return_value = {"bindings": []}
    crm.projects().setIamPolicy().execute.return_value = {"name": "operation", "done": True}
    iam.projects().serviceAccounts().get().execute.return_value = account
    return SimpleNamespace(clients=(crm, iam, api, None), compute=api)


@pytest.fixture
def bootstrapped(monkeypatch, google):
    """gcp.yaml after the bootstrap of `ray up`, with Google's answers in place of Google."""
    gcp = pytest.importorskip("ray.autoscaler._private.gcp.config")
    monkeypatch.setattr(gcp, "construct_clients_from_provider_config", lambda _: google.clients)
    return gcp.bootstrap_gcp(as_ray_sees_it(load("gcp")))


def test_the_bootstrap_of_gcp_asks_for_credentials_and_for_nothing_before(monkeypatch, tmp_path):
    gcp = pytest.importorskip("ray.autoscaler._private.gcp.config")
    from google.auth.exceptions import DefaultCredentialsError, TransportError

    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")

    with pytest.raises((DefaultCredentialsError, TransportError)):
        gcp.bootstrap_gcp(as_ray_sees_it(load("gcp")))


def test_the_bootstrap_of_gcp_makes_no_key_and_picks_no_network(bootstrapped, google, gcp_machines):
    # Ray's own key would open every machine of the project, its own network has public addresses.
    assert bootstrapped["auth"] == load("gcp")["auth"]
    assert not google.compute.projects().setCommonInstanceMetadata.called
    assert not google.compute.subnetworks().list.called
    for name, machine in gcp_machines.items():
        assert bootstrapped["available_node_types"][name]["node_config"] == machine


@pytest.mark.parametrize("name", NODE_TYPES)
def test_the_machine_that_ray_asks_gcp_for_is_one_that_gcp_knows(
    bootstrapped, google, compute, name
):
    from ray.autoscaler._private.gcp.node import GCPCompute

    # As `ray up` and the autoscaler do: the head's account of Ray, with our node_config on top.
    machine = copy.deepcopy(bootstrapped["head_node"] if name == "head" else {})
    machine.update(bootstrapped["available_node_types"][name]["node_config"])
    labels = {"ray-node-name": f"ray-leaktune-gcp-{name.replace('_', '-')}"}
    zone = bootstrapped["provider"]["availability_zone"]

    resource = GCPCompute(google.compute, PROJECT, zone, "leaktune-gcp")
    resource.create_instance(machine, labels, wait_for_operation=False)
    asked = google.compute.instances().insert.call_args.kwargs

    check(asked["body"], {"$ref": "Instance"}, compute, name)
    assert (asked["project"], asked["zone"]) == (PROJECT, zone)
    assert asked["body"]["labels"]["ray-cluster-name"] == "leaktune-gcp"
    accounts = [account["email"] for account in asked["body"].get("serviceAccounts", [])]
    assert accounts == (
        [f"leaktune-head@{PROJECT}.iam.gserviceaccount.com"] if name == "head" else []
    )
