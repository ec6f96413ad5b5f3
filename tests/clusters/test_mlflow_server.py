"""The team's MLflow: its files open nothing, hold no secret, and run what the page says."""

import configparser
import re
import shlex
import subprocess

import pytest
import yaml

from tests.clusters.files import IMAGE, ROOT, strings
from tests.tracking.team_server import BIN, FOLDER, plain_commands

# Of the compose specification, what these services use; a misspelt key is none of them.
SERVICE_KEYS = {
    *("image", "command", "environment", "env_file", "volumes", "ports", "networks", "depends_on"),
    *("healthcheck", "cap_drop", "security_opt", "restart"),
}


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((FOLDER / "compose.yaml").read_text("utf-8"))


@pytest.fixture(scope="module")
def readme():
    return (FOLDER / "README.md").read_text("utf-8")


@pytest.fixture(scope="module")
def example():
    """The variables of .env.example, with those that are commented out."""
    text = (FOLDER / ".env.example").read_text("utf-8")
    return dict(re.findall(r"^(?:# )?([A-Z0-9_]+)=(.*)$", text, re.MULTILINE))


def options(words):
    return dict(word.split("=", 1) for word in words if word.startswith("--"))


def plain_server():
    """The page's command that starts the server, as options."""
    commands = plain_commands("uv run --extra mlflow-server mlflow server")
    line = commands.replace("\\\n", " ").splitlines()[-1]
    words = shlex.split(line)
    assert words[:6] == ["uv", "run", "--extra", "mlflow-server", "mlflow", "server"]
    return options(words[6:])


def test_every_part_of_the_file_is_known_to_compose(compose):
    assert set(compose) == {"name", "services", "networks", "volumes"}
    for name, service in compose["services"].items():
        assert set(service) <= SERVICE_KEYS, name
        assert set(service["networks"]) <= set(compose["networks"]), name
        for mount in service["volumes"]:
            source = mount.split(":")[0]
            assert source in compose["volumes"] or (FOLDER / source).is_file(), mount
    assert set(compose["services"]["mlflow"]["depends_on"]) <= set(compose["services"])


def test_every_image_is_pinned_by_digest(compose):
    images = {name: service["image"] for name, service in compose["services"].items()}

    assert re.fullmatch(r"postgres:15\.\d+-bookworm@sha256:[0-9a-f]{64}", images.pop("postgres"))
    assert re.fullmatch(IMAGE, images.pop("mlflow"))
    assert not images


def test_the_only_port_is_on_loopback_unless_the_team_says_otherwise(compose):
    services = compose["services"]

    assert services["mlflow"]["ports"] == ["${BIND:-127.0.0.1}:5000:5000"]
    assert "ports" not in services["postgres"]
    assert services["postgres"]["networks"] == ["inside"]
    assert compose["networks"]["inside"] == {"internal": True}


def test_every_service_says_when_it_is_well_and_comes_back(compose):
    for name, service in compose["services"].items():
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert service["restart"] == "unless-stopped", name
        assert "no-new-privileges:true" in service["security_opt"], name
    assert compose["services"]["mlflow"]["depends_on"] == {
        "postgres": {"condition": "service_healthy"}
    }


def test_no_secret_is_written_down(compose, example):
    auth = (FOLDER / "auth.ini").read_text("utf-8")

    for text in [*strings(compose), *auth.splitlines(), *example.values()]:
        assert not re.search(r"(?<!sha256:)\b[0-9a-f]{32,}\b", text)
        assert not re.search(r"\w+://[^/\s]+:[^/\s]+@", text)
    for name, value in example.items():
        if re.search(r"PASSWORD|SECRET|KEY", name):
            assert value == "REPLACE", name
    assert "clusters/mlflow/.env" in (ROOT / ".gitignore").read_text("utf-8").splitlines()


def test_every_variable_the_file_asks_for_is_in_the_example(compose, example):
    asked = {name for text in strings(compose) for name in re.findall(r"\$\{(\w+)", text)}

    assert asked == {"PGPASSWORD", "ARTIFACTS", "BIND"}
    assert asked <= set(example)
    needed = {"MLFLOW_FLASK_SERVER_SECRET_KEY", "MLFLOW_AUTH_ADMIN_PASSWORD"}
    assert needed <= set(example)


def test_the_page_starts_the_server_as_the_file_does(compose):
    in_container = options(compose["services"]["mlflow"]["command"])
    on_machine = plain_server()

    expected = {
        name: value.replace("${ARTIFACTS:?Make .env from .env.example first.}", "$ARTIFACTS")
        for name, value in in_container.items()
    }
    assert expected.pop("--host") == "0.0.0.0"
    assert on_machine.pop("--host") == "${BIND:-127.0.0.1}"
    assert on_machine == expected


def test_the_page_sets_the_same_environment_as_the_file(compose):
    commands = plain_commands("uv run --extra mlflow-server mlflow server")
    exported = dict(re.findall(r"\b([A-Z_]+)=([\w./]+)", commands))
    environment = compose["services"]["mlflow"]["environment"]

    assert exported.keys() == environment.keys()
    differing = {name for name in exported if exported[name] != environment[name]}
    assert differing == {"PGHOST", "MLFLOW_AUTH_CONFIG_PATH"}


def test_the_installed_mlflow_knows_every_option(compose):
    page = subprocess.run([BIN / "mlflow", "server", "--help"], capture_output=True, text=True)
    known = set(re.findall(r"--[a-z-]+", page.stdout))

    assert options(compose["services"]["mlflow"]["command"]).keys() <= known


def test_logins_are_on_and_kept_in_postgresql(compose):
    auth = configparser.ConfigParser()
    auth.read(FOLDER / "auth.ini")
    backend = options(compose["services"]["mlflow"]["command"])["--backend-store-uri"]

    assert options(compose["services"]["mlflow"]["command"])["--app-name"] == "basic-auth"
    assert auth["mlflow"]["database_uri"] == f"{backend}_auth"
    assert auth["mlflow"]["default_permission"] == "EDIT"
    assert "admin_password" not in auth["mlflow"]
    assert "CREATE DATABASE mlflow_auth" in (FOLDER / "databases.sql").read_text("utf-8")


def test_the_page_names_every_file_of_the_folder(readme):
    files = {path.name for path in FOLDER.iterdir()} - {"README.md", ".env"}

    assert files == set(re.findall(r"^\| `([^`]+)` \|", readme, re.MULTILINE))
