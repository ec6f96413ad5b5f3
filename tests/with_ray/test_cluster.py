"""The launcher alone, against clusters that are there and that are not."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.with_ray.audits import INCONCLUSIVE, LAUNCHER

pytestmark = pytest.mark.slow

SMOKE = Path(__file__).parents[1] / "data" / "smoke.yaml"
INFRASTRUCTURE = 4
REFUSED_SECONDS = 10


@pytest.fixture
def home(tmp_path):
    """The folder `ray submit` uploads to: the launcher and a plan, and none of our sources."""
    shutil.copy(LAUNCHER, tmp_path)
    shutil.copy(SMOKE, tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def folder():
    """Where Ray keeps its unix sockets, whose paths must be short; and a token."""
    folder = Path(tempfile.mkdtemp(prefix="lt-"))
    (folder / "token").write_text("0123456789abcdef" * 4)
    (folder / "other").write_text("fedcba9876543210" * 4)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster(folder):
    """A head node with a token of its own; yields its address and what a user on it has set."""
    with head(folder) as (address, _):
        yield address, environment(folder)


def environment(folder):
    return {
        # Without what a Ray in this process has left there.
        **{k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "RAY_AUTH_MODE")},
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_USAGE_STATS_ENABLED": "0",
    }


@contextlib.contextmanager
def head(folder, cpus=2, **settings):
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    options = f"--head --port={port} --dashboard-host=127.0.0.1 --include-dashboard=false"
    own = Path(tempfile.mkdtemp(dir=folder, prefix=""))
    words = [*options.split(), f"--temp-dir={own}", f"--num-cpus={cpus}"]
    command = [ray_command(), *ray_start(words)]
    with ray_node(command, own, **environment(folder), **settings) as node:
        yield f"127.0.0.1:{port}", node


@contextlib.contextmanager
def ray_node(command, folder, **environment):
    log = folder / "log"
    with log.open("w") as file:
        node = subprocess.Popen(
            command,
            env=environment | {"RAY_AUTH_MODE": "token"},
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 90
        while "Ray runtime started" not in log.read_text():
            assert node.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield node
    finally:
        # `ray stop` would stop every Ray of this machine; a node takes its own processes along.
        node.terminate()
        try:
            node.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(node.pid, signal.SIGKILL)


def ray_command():
    return str(Path(sys.executable).parent / "ray")


def ray_start(words):
    return ["start", *words, "--block"]


def launch(home, address, **environment):
    words = ["run", "--config", "smoke.yaml", "--set", "tracking.mlflow=false"]
    return launched(home, address, words, environment)


def launched(home, address, words, environment):
    return subprocess.run(
        [sys.executable, "run.py", *words, "--address", address],
        cwd=home,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=200,
    )


# Writes down when the driver turns to the cluster: how long Python and torch take before that
# says nothing of us on a machine that has other work.
NOTING = """
import pathlib, sys
def note(event, words):
    if event == "import" and words[0] == "ray":
        pathlib.Path("began").touch()
sys.addaudithook(note)
"""


def refuse(home, address, **environment):
    """Launches an audit that is refused in time and before it has a folder."""
    (home / "sitecustomize.py").write_text(NOTING)
    refused = launch(home, address, **environment, PYTHONPATH=str(home))
    ended = time.time()
    assert refused.returncode == INFRASTRUCTURE, refused.stderr
    assert ended - (home / "began").stat().st_mtime < REFUSED_SECONDS
    assert "Traceback" not in refused.stderr
    assert not (home / "runs").exists()
    return refused.stderr.splitlines()


def test_the_launcher_alone_audits_on_a_cluster(home, cluster):
    address, environment = cluster

    ran = launch(home, address, **environment, RAY_AUTH_MODE="token")

    assert ran.returncode == INCONCLUSIVE, ran.stderr
    (run,) = (home / "runs").iterdir()
    summary = json.loads((run / "summary.json").read_text())
    assert len(summary["trials"]) == 18
    assert summary["failed"] == []
    assert (run / "report" / "index.html").is_file()


def test_doctor_looks_at_a_cluster_too(home, cluster):
    address, environment = cluster

    fine = launched(home, address, ["doctor"], environment | {"RAY_AUTH_MODE": "token"})

    assert fine.returncode == 0, fine.stderr
    assert fine.stdout.splitlines()[-3:] == [
        f"ok  Ray cluster at {address}: 1 machine, 2 CPU, 0 GPU",
        "ok  a trial has room there",
        "ok  trials compute on processors, whatever GPUs there are (compute.gpus_per_trial: 0)",
    ]


def test_a_cluster_found_by_itself_needs_no_further_setting(home, cluster):
    address, environment = cluster

    ran = launch(home, "auto", **environment, RAY_ADDRESS=address, RAY_AUTH_MODE="token")

    assert ran.returncode == INCONCLUSIVE, ran.stderr


@pytest.mark.parametrize(
    ("mode", "token", "got"),
    [
        ("disabled", "token", "none, since RAY_AUTH_MODE is not token"),
        ("token", "other", "another, from RAY_AUTH_TOKEN_PATH"),
        ("token", "nowhere", "none: RAY_AUTH_TOKEN_PATH is set but file cannot be opened"),
    ],
)
def test_a_token_that_is_missing_or_wrong_is_named_with_its_places(
    mode, token, got, home, folder, cluster
):
    address, environment = cluster
    mine = environment | {"RAY_AUTH_MODE": mode, "RAY_AUTH_TOKEN_PATH": str(folder / token)}

    *of_ray, line = refuse(home, address, **mine)

    assert line.startswith(f"Expected the token of the Ray cluster at '{address}', got {got}")
    assert "Set RAY_AUTH_MODE=token and give the token in RAY_AUTH_TOKEN, " in line
    assert "RAY_AUTH_TOKEN_PATH names, or in ~/.ray/auth_token" in line
    # Before there is an error, Ray's own library warns on its own.
    assert all("Authentication token is missing or incorrect" in other for other in of_ray)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere.invalid:6379", "nonsense"])
def test_a_wrong_address_is_named_at_once(address, home):
    (line,) = refuse(home, address)

    assert_no_cluster(line, address)


def test_an_environment_that_names_no_cluster_is_named_at_once(home):
    (line,) = refuse(home, "auto", RAY_ADDRESS="127.0.0.1:1")

    assert_no_cluster(line, "127.0.0.1:1")


@contextlib.contextmanager
def silent():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@contextlib.contextmanager
def web():
    """As Ray's own dashboard is, whose port is easily taken for the cluster's."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.parametrize(
    ("listen", "why"), [(silent, "timed out"), (web, "what listens there is not Ray")]
)
def test_a_port_of_something_else_is_named_at_once(listen, why, home):
    with listen() as port:
        *_, line = refuse(home, f"127.0.0.1:{port}")

    assert_no_cluster(line, f"127.0.0.1:{port}")
    assert why in line


OTHER_PYTHON = """
from ray._common.usage import usage_lib
said = usage_lib._generate_cluster_metadata
usage_lib._generate_cluster_metadata = lambda **words: said(**words) | {"python_version": "3.9.1"}
"""


@pytest.mark.parametrize(
    ("code", "version"),
    [("import ray\nray.__version__ = '1.2.3'\n", "Ray: 1.2.3"), (OTHER_PYTHON, "Python: 3.9.1")],
)
def test_a_cluster_of_another_ray_or_python_is_named_with_both_versions(
    code, version, home, folder
):
    (folder / "sitecustomize.py").write_text(code)  # Every process of that head runs it first.
    with head(folder, PYTHONPATH=str(folder)) as (address, _):
        (line,) = refuse(home, address, **environment(folder), RAY_AUTH_MODE="token")

    assert f"Expected the Ray and the Python of the cluster at '{address}', got others: " in line
    assert version in line
    assert "`ray submit`" in line


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="another machine's storage needs root"
)
def test_storage_that_is_not_shared_is_named_with_its_machine(home, cluster):
    address, environment = cluster
    (home / "runs").mkdir()
    own = f'mount -t tmpfs none {home / "runs"}; exec "$@"'
    apart = ["unshare", "--mount", "sh", "-c", own, "sh"]
    command = [*apart, ray_command(), *ray_start([f"--address={address}", "--num-cpus=1"])]
    with ray_node(command, home, **environment):
        refused = launch(home, address, **environment, RAY_AUTH_MODE="token")

    assert refused.returncode == INFRASTRUCTURE, refused.stderr
    (line,) = refused.stderr.splitlines()
    assert f"Expected the run folder {home / 'runs'}/" in line
    assert f"{socket.gethostname()} has no such folder" in line


def test_other_versions_of_what_figures_depend_on_are_named_with_their_machine(
    home, cluster, tmp_path_factory
):
    address, environment = cluster
    other = tmp_path_factory.mktemp("other")
    (other / "sitecustomize.py").write_text(
        "import importlib.metadata as metadata\n"
        "version = metadata.version\n"
        "metadata.version = lambda name: '0.1' if name == 'torch' else version(name)\n"
    )
    command = [ray_command(), *ray_start([f"--address={address}", "--num-cpus=1"])]
    with ray_node(command, home, **environment | {"PYTHONPATH": str(other)}):
        refused = launch(home, address, **environment, RAY_AUTH_MODE="token")

    assert refused.returncode == INFRASTRUCTURE, refused.stderr
    (line,) = refused.stderr.splitlines()
    assert "Expected torch " in line
    assert f"got 0.1 on {socket.gethostname()}" in line


def test_an_audit_waits_for_machines_that_a_cluster_starts_when_they_are_needed(home, folder):
    worker = {"max_workers": 2, "resources": {"CPU": 1}}
    kinds = {"head": {"max_workers": 0, "resources": {"CPU": 0}}, "worker": worker}
    growth = {"available_node_types": kinds}
    (home / "ray_bootstrap_config.yaml").write_text(json.dumps(growth))
    words = ["run", "--config", "smoke.yaml", "--set", "tracking.mlflow=false"]
    mine = environment(folder) | {"RAY_AUTH_MODE": "token", "HOME": str(home)}
    with head(folder, cpus=0) as (address, _):
        driver = drive(home, mine, *words, "--address", address)
        said = [driver.stdout.readline() for _ in range(2)]
        command = [ray_command(), *ray_start([f"--address={address}", "--num-cpus=1"])]
        with ray_node(command, home, **environment(folder)):
            driver.communicate(timeout=200)

    assert "No machine of the cluster has 1 CPU" in said[1]
    assert driver.returncode == INCONCLUSIVE


@pytest.mark.parametrize(
    ("cpus", "code", "said"),
    [(2, INCONCLUSIVE, ""), (1, INFRASTRUCTURE, "has: 1 CPU, 0 GPU; 1 CPU, 0 GPU. Lower")],
)
def test_an_audit_waits_for_ones_own_machines_until_all_have_joined(cpus, code, said, home, folder):
    own = {"min_workers": 1, "max_workers": 1, "resources": {}}
    growth = {"available_node_types": {"local.cluster.node": own}}
    (home / "ray_bootstrap_config.yaml").write_text(json.dumps(growth))
    words = ["run", "--config", "smoke.yaml", "--set", "tracking.mlflow=false"]
    words += ["--set", "compute.cpus_per_trial=2"]
    mine = environment(folder) | {"RAY_AUTH_MODE": "token", "HOME": str(home)}
    with head(folder, cpus=1) as (address, _):
        driver = drive(home, mine, *words, "--address", address)
        told = driver.stderr.readline()
        command = [ray_command(), *ray_start([f"--address={address}", f"--num-cpus={cpus}"])]
        with ray_node(command, home, **environment(folder)):
            _, last = driver.communicate(timeout=200)

    assert "No machine of the cluster has 2 CPU and 0 GPU for one trial yet; waiting" in told
    assert driver.returncode == code
    assert said in last


OCCUPANT = """
import ray
ray.init(address="auto", log_to_driver=False)

@ray.remote(num_cpus=2)
class Occupant:
    def is_there(self):
        return True

occupant = Occupant.remote()
print(ray.get(occupant.is_there.remote()), flush=True)
input()
"""


def test_an_audit_says_that_it_waits_for_others_who_use_the_cluster(home, folder):
    words = ["run", "--config", "smoke.yaml", "--set", "tracking.mlflow=false"]
    with head(folder, cpus=2) as (address, _):
        mine = environment(folder) | {"RAY_AUTH_MODE": "token", "RAY_ADDRESS": address}
        occupant = subprocess.Popen(
            [sys.executable, "-c", OCCUPANT],
            env=mine,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert occupant.stdout.readline() == "True\n"
        driver = drive(home, mine, *words, "--address", address)
        said = [driver.stdout.readline() for _ in range(2)]
        occupant.communicate("\n", timeout=60)
        driver.communicate(timeout=200)

    assert "has 1 CPU and 0 GPU for one trial free; waiting for others to end" in said[1]
    assert driver.returncode == INCONCLUSIVE


def drive(home, environment, *words):
    return subprocess.Popen(
        [sys.executable, "run.py", *words],
        cwd=home,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def assert_no_cluster(line, address):
    assert line.startswith(f"Expected a Ray cluster at '{address}', could not connect: ")
    assert "leave --address out to use this machine" in line
