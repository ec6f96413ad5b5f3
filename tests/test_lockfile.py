"""The committed lock pins everything by hash, names no address, and satisfies pyproject.toml."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def lock():
    path = ROOT / "requirements.lock"
    assert path.exists(), "Expected requirements.lock, found none. Run: make lock"
    return path.read_text("utf-8")


@pytest.fixture(scope="module")
def pins(lock):
    """Requirement lines by package name; one package may have several, told apart by markers."""
    found = {}
    for line in re.findall(r"^[A-Za-z0-9].*?(?= *\\?$)", lock, re.MULTILINE):
        pin = Requirement(line)
        found.setdefault(pin.name, []).append(pin)
    return found


@pytest.fixture(scope="module")
def wanted():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project.get("optional-dependencies", {}).values()
    return [Requirement(text) for group in [project["dependencies"], *extras] for text in group]


def test_every_pin_is_exact_and_hashed(lock):
    blocks = re.split(r"^(?=[A-Za-z0-9])", lock, flags=re.MULTILINE)[1:]

    assert blocks
    for block in blocks:
        assert re.match(r"[a-z0-9-]+==\S+", block), block.splitlines()[0]
        assert "--hash=sha256:" in block, block.splitlines()[0]


def test_no_address_of_an_index_is_in_the_lock(lock):
    assert "://" not in lock
    assert not re.search(r"^ *--(?!hash=)", lock, re.MULTILINE)


def test_every_declared_dependency_is_pinned_within_its_bounds(pins, wanted):
    for requirement in wanted:
        assert requirement.name in pins, requirement
        for pin in pins[requirement.name]:
            (exact,) = pin.specifier
            assert requirement.specifier.contains(exact.version, prereleases=True), pin


def test_the_head_of_a_cluster_finds_the_clients_of_its_cloud_in_the_image(pins):
    # Ray's providers import them on the head and install them nowhere: clusters/aws.yaml and
    # clusters/gcp.yaml empty Ray's setup commands, which take versions of the day from an index.
    assert {"boto3", "google-api-python-client", "google-auth-httplib2", "httplib2"} <= set(pins)


def test_the_teams_mlflow_finds_what_it_needs_in_the_image(pins):
    # What `mlflow[auth]` adds to MLflow, PostgreSQL's driver, and S3's.
    assert {"flask-wtf", "psycopg2-binary", "boto3"} <= set(pins)
