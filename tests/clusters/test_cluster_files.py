"""The cluster files are accepted by the installed Ray, and open nothing to the world."""

import copy
import re
from pathlib import Path

import pytest
import yaml

# Ray's own validation, which it offers to no one: `ray up` has no dry run.
ray_util = pytest.importorskip("ray.autoscaler._private.util", reason="Ray moved its private API")

ROOT = Path(__file__).parents[2]
CLUSTERS = sorted((ROOT / "clusters").glob("*.yaml"))
AWS = ROOT / "clusters" / "aws.yaml"
BIN = "/opt/leaktune/bin/"
HOME = "/home/leaktune"
START_COMMANDS = ("head_start_ray_commands", "worker_start_ray_commands")


def load(path):
    return yaml.safe_load(path.read_text("utf-8"))


def as_ray_sees_it(config):
    """The file with Ray's defaults filled in: what we do not override, they decide."""
    prepared = ray_util.prepare_config(copy.deepcopy(config))
    ray_util.validate_config(prepared)
    return prepared


def strings(node):
    if isinstance(node, dict):
        node = [*node, *node.values()]
    if isinstance(node, list):
        return [text for item in node for text in strings(item)]
    return [str(node)]


@pytest.fixture(params=CLUSTERS, ids=lambda path: path.stem)
def config(request):
    return load(request.param)


def test_there_is_a_file_for_owned_machines_and_one_for_aws():
    assert [path.stem for path in CLUSTERS] == ["aws", "onprem"]


def test_the_installed_ray_accepts_the_file(config):
    prepared = as_ray_sees_it(config)

    assert prepared["head_node_type"] in prepared["available_node_types"]


def test_a_misspelt_key_is_refused(config):
    config["max_wrkers"] = config.pop("max_workers")

    with pytest.raises(Exception, match="max_wrkers"):
        as_ray_sees_it(config)


def test_nothing_listens_to_or_admits_the_whole_internet(config):
    for text in strings(as_ray_sees_it(config)):
        assert "0.0.0.0" not in text
        assert "::/0" not in text


def test_every_ray_process_starts_with_token_authentication(config):
    for key in START_COMMANDS:
        starts = [command for command in config[key] if "ray start" in command]

        assert len(starts) == 1, key
        assert starts[0].startswith("export RAY_AUTH_MODE=token;"), key


def test_the_token_travels_as_a_file_and_is_not_written_down(config):
    assert config["file_mounts"] == {f"{HOME}/.ray/auth_token": "~/.ray/auth_token"}
    for text in strings(config):
        assert "RAY_AUTH_TOKEN" not in text
        assert not re.search(r"(?<!sha256:)\b[0-9a-f]{32,}\b", text)


def test_the_dashboard_is_on_loopback(config):
    (start,) = (command for command in config["head_start_ray_commands"] if "--head" in command)

    assert re.findall(r"--dashboard-host=(\S+)", start) == ["127.0.0.1"]


def test_start_commands_name_ray_by_its_absolute_path(config):
    for key in START_COMMANDS:
        for command in config[key]:
            programs = re.findall(r"(\S*)\bray (?:start|stop)\b", command)

            assert programs == [BIN], command


def test_nothing_is_installed_from_an_index_while_the_cluster_starts(config):
    prepared = as_ray_sees_it(config)

    for key in ("setup_commands", "head_setup_commands", "worker_setup_commands"):
        assert prepared[key] == [], key


def test_results_are_on_a_path_that_every_container_shares(config):
    assert "-v /mnt/leaktune:/mnt/leaktune" in config["docker"]["run_options"]
    assert any("mountpoint -q /mnt/leaktune" in text for text in config["initialization_commands"])


def test_the_image_is_a_placeholder_pinned_by_digest(config):
    assert re.fullmatch(r"registry\.example\.org/leaktune@sha256:\w+", config["docker"]["image"])


def test_aws_brings_its_own_security_group_for_every_machine():
    # Where one is missing, Ray makes a group whose SSH port admits everyone.
    config = load(AWS)

    assert "security_group" not in config["provider"]
    for name, node_type in config["available_node_types"].items():
        assert node_type["node_config"]["SecurityGroupIds"] == ["sg-REPLACE"], name


def test_aws_gives_the_head_its_own_role_and_no_work():
    head = load(AWS)["available_node_types"]["head"]

    assert head["resources"] == {"CPU": 0, "GPU": 0}
    assert head["node_config"]["IamInstanceProfile"] == {"Name": "leaktune-head"}


def test_aws_prefers_spot_machines_and_starts_none_before_there_is_work():
    node_types = load(AWS)["available_node_types"]
    spot, on_demand = node_types["gpu_spot"], node_types["gpu_on_demand"]

    assert spot["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in on_demand["node_config"]
    assert spot["priority"] > on_demand["priority"]
    assert (spot["min_workers"], on_demand["min_workers"], on_demand["max_workers"]) == (0, 0, 0)


def test_aws_ends_machines_and_encrypts_their_disks():
    config = load(AWS)

    assert config["provider"]["cache_stopped_nodes"] is False
    for name, node_type in config["available_node_types"].items():
        (disk,) = node_type["node_config"]["BlockDeviceMappings"]
        assert disk["Ebs"]["Encrypted"] is True, name
        assert disk["Ebs"]["DeleteOnTermination"] is True, name
        assert node_type["node_config"]["MetadataOptions"] == {"HttpTokens": "required"}, name
