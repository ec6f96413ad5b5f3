"""The cluster files are accepted by the installed Ray, and open nothing to the world."""

import re

import pytest
import yaml

from tests.clusters.files import (
    FILES,
    FOLDER,
    IMAGE,
    LAUNCHER_FILES,
    ROOT,
    as_ray_sees_it,
    load,
    strings,
)

BIN = "/opt/leaktune/bin/"
HOME = "/home/leaktune"
START_COMMANDS = ("head_start_ray_commands", "worker_start_ray_commands")


@pytest.fixture(params=LAUNCHER_FILES, ids=lambda path: path.stem)
def config(request):
    return load(request.param.stem)


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def document(request):
    """Any file, KubeRay's too, as one list of its documents."""
    return list(yaml.safe_load_all(request.param.read_text("utf-8")))


@pytest.fixture(scope="module")
def readme():
    return (FOLDER / "README.md").read_text("utf-8")


def test_there_is_a_file_for_owned_machines_two_clouds_and_kubernetes():
    assert [path.stem for path in FILES] == ["aws", "gcp", "kuberay-rayjob", "onprem"]


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


def test_the_token_travels_as_a_file(config):
    assert config["file_mounts"] == {f"{HOME}/.ray/auth_token": "~/.ray/auth_token"}


def test_no_secret_is_written_down(document):
    for text in strings(document):
        assert "RAY_AUTH_TOKEN" not in text
        assert not re.search(r"(?<!sha256:)\b[0-9a-f]{32,}\b", text)
        assert not re.search(r"PRIVATE KEY|AKIA|AIza|\w+://[^/\s]+:[^/\s]+@", text)


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


def test_the_environment_names_an_mlflow_server_and_no_file_on_the_share(document):
    (uri,) = {t for text in strings(document) for t in re.findall(r"https?://mlflow\S+", text)}

    assert uri == "http://mlflow.REPLACE:5000"
    assert "sqlite:" not in " ".join(strings(document))


def test_every_image_is_a_placeholder_pinned_by_digest(document):
    images = [text for text in strings(document) if "/leaktune@" in text or "/leaktune:" in text]
    images = [text for text in images if not text.startswith("-v ")]

    assert images
    for image in images:
        assert re.fullmatch(IMAGE, image)


def test_the_readme_names_every_placeholder(readme):
    for path in FILES:
        lines = path.read_text("utf-8").splitlines()
        (row,) = re.findall(rf"^\| `{path.name}` \| ([^|]*) \|$", readme, re.MULTILINE)
        named = {word.strip(".") for word in re.findall(r"`([\w.-]+)`", row)}
        # A comment of its own line speaks of the next ones.
        holders = [
            line for line in lines if "REPLACE" in line and not line.lstrip().startswith("#")
        ]

        for line in holders:
            assert named & set(re.findall(r"[\w-]+", line)), f"{path.name}: {line.strip()}"
        for word in named:
            assert any(word in line for line in lines), f"{path.name}: {word}"


def test_every_file_says_how_to_start_it_and_how_to_stop_it():
    for path in FILES:
        head = path.read_text("utf-8").split("\n\n")[0]

        stop = "kubectl delete" if path.stem.startswith("kuberay") else "ray down"
        assert f"clusters/{path.name}" in head
        assert stop in head
        assert "clusters/README.md" in head


def test_every_file_that_costs_money_says_what_costs_and_where_prices_are():
    for name in ("aws", "gcp", "kuberay-rayjob"):
        comments = re.findall(
            r"# (.*)", (FOLDER / f"{name}.yaml").read_text("utf-8").split("\n\n")[0]
        )

        assert "What costs:" in " ".join(comments), name
        assert re.search(r"https://\S+|prices", " ".join(comments)), name


def test_every_file_of_the_folder_is_in_the_readme(readme):
    for path in FILES:
        assert readme.count(f"`{path.name}`") >= 1

    named = set(
        re.findall(r"clusters/([\w-]+\.yaml)", readme + (ROOT / "README.md").read_text("utf-8"))
    )
    assert named <= {path.name for path in FILES}
