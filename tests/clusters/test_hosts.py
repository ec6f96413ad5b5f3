"""The on-premises cluster on hosts of its own: up, an audit with a host lost on the way, down."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.clusters.hosts import ROOT, SHARE, hosts, missing
from tests.with_ray.audits import Searches

BIN = Path(sys.executable).parent
PLAN = {
    "name": "hosts",
    "targets": 5,
    "defenses": ["none", {"name": "gaussian_noise", "std": 0.1}],
    "controls": ["prior_only", "shuffled", "oracle"],
    "attack": {"budget": 8000, "searcher": "sepcma"},
    "compute": {"searches_per_trial": 1},
    "tracking": {"uri": "sqlite:////tmp/mlflow.db"},
}
INCONCLUSIVE = 101
# What a search took and where it ran is all that may differ from a run on one machine.
OF_THE_MACHINE = {"host", "wall_s", "candidates_per_s"}
SEARCHES_OF_ALL_HOSTS = 5  # At once: more than two hosts of two CPUs run.
FAR = 6000  # Evaluations: of a search that has kept more, the end may be on its way already.

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


class Operator:
    """Whoever runs the cluster: a home with key and token, and the commands of the README."""

    def __init__(self, home):
        self.key = home / ".ssh" / "leaktune_onprem"
        self.key.parent.mkdir(parents=True)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key], check=True)
        self.environment = {
            **{name: os.environ[name] for name in ("LANG", "LC_ALL") if name in os.environ},
            "HOME": str(home),
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        token = self.run("ray", "get-auth-token", "--generate")
        assert (home / ".ray" / "auth_token").read_text() in token

    def start(self, *words):
        return subprocess.Popen(
            [str(word) for word in words],
            env=self.environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *words, code=0):
        process = self.start(*words)
        said, _ = process.communicate(timeout=400)
        assert process.returncode == code, said
        return said


def on(cluster):
    """The on-premises file with its REPLACE lines filled in, and nothing else changed."""
    config = yaml.safe_load((ROOT / "clusters" / "onprem.yaml").read_text("utf-8"))
    head, *workers = (host.address for host in cluster.hosts)
    config["provider"] |= {"head_ip": head, "worker_ips": workers}
    config["auth"] = {"ssh_user": "root", "ssh_private_key": str(cluster.operator.key)}
    return config


class Cluster:
    def __init__(self, operator, some, file, shared):
        self.operator, self.hosts, self.file, self.shared = operator, some, file, shared

    def ray(self, command, *words, **options):
        return self.operator.run("ray", command, self.file, *words, **options)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    if lacking := missing():
        pytest.skip(f"No hosts without: {lacking}")
    scratch = tmp_path_factory.mktemp("cluster")
    shared = scratch / "shared"
    shared.mkdir()
    operator = Operator(scratch / "home")
    with hosts(3, scratch=scratch / "hosts", shared=shared, key=operator.key) as some:
        cluster = Cluster(operator, some, scratch / "onprem.yaml", shared)
        cluster.file.write_text(yaml.safe_dump(on(cluster)))
        cluster.ray("up", "--yes", "--no-config-cache")
        yield cluster


@pytest.mark.fault("machine lost")
def test_an_audit_outlives_a_host_and_equals_that_of_one_machine(
    cluster, tmp_path, record_property
):
    eventually(lambda: nodes(cluster) == 3, seconds=120)
    (cluster.shared / "plan.yaml").write_text(yaml.safe_dump(PLAN))
    audit = cluster.operator.start(
        *("ray", "submit", cluster.file, "engine/run.py", "--", "run"),
        *("--config", f"{SHARE}/plan.yaml", "--output", f"{SHARE}/runs", "--address", "auto"),
    )
    lost, searches = cluster.hosts[-1], Searches(cluster.shared)
    eventually(lambda: lost.name in hosts_of(results(cluster)), seconds=300)
    eventually(lambda: amid(searches) >= SEARCHES_OF_ALL_HOSTS, seconds=120, look=0.1)
    lost.cut_off()
    searches.hit = time.monotonic()
    before = len(results(cluster))
    said = watched(audit, searches, seconds=600)
    assert audit.returncode in (INCONCLUSIVE, 1), said  # `ray submit` says 1 of any failure.

    summary = json.loads(next((cluster.shared / "runs").glob("*/summary.json")).read_text())
    assert summary["failed"] == []
    assert before < len(summary["trials"]) == 5 * 2 * 3 + 5
    assert set(hosts_of(summary["trials"])) == {host.name for host in cluster.hosts}
    assert comparable(summary) == comparable(alone(tmp_path))
    found = cluster.ray("exec", f"python -c '{COUNT_RUNS}'")
    assert f"runs: {len(summary['trials']) + 1}" in found
    assert searches.back, searches.kept
    assert searches.repeated().total() == 0
    for seconds in searches.back:
        record_property("seconds", seconds)


def test_ray_down_leaves_no_ray_behind(cluster):
    cluster.ray("down", "--yes")

    for host in cluster.hosts:
        eventually(lambda host=host: "raylet" not in host.programs(), seconds=120)


COUNT_RUNS = (
    'import mlflow; client = mlflow.MlflowClient("sqlite:////tmp/mlflow.db"); '
    '[found] = [e for e in client.search_experiments() if e.name == "leaktune"]; '
    'print("runs:", len(client.search_runs([found.experiment_id], max_results=1000)))'
)


def alone(folder):
    """The summary of the same plan, run on this machine alone."""
    plan = folder / "plan.yaml"
    plan.write_text(yaml.safe_dump(PLAN | {"tracking": {"mlflow": False}}))
    done = subprocess.run(
        [BIN / "leaktune", "run", "--config", plan, "--output", folder / "runs"],
        capture_output=True,
    )
    assert done.returncode == INCONCLUSIVE, done
    return json.loads(next((folder / "runs").glob("*/summary.json")).read_text())


def comparable(summary):
    """What of a summary may not depend on machines."""
    rows = sorted(summary["trials"], key=lambda trial: trial["id"])
    groups = [{k: v for k, v in group.items() if k != "wall_s"} for group in summary["groups"]]
    trials = [{k: v for k, v in row.items() if k not in OF_THE_MACHINE} for row in rows]
    return {"verdict": summary["verdict"], "groups": groups, "trials": trials}


def results(cluster):
    return [
        json.loads(path.read_text()) for path in cluster.shared.glob("runs/*/trials/*/result.json")
    ]


def hosts_of(trials):
    return [trial["host"] for trial in trials]


def amid(searches):
    """Counts the searches that a generation is kept of and that are far from their end."""
    searches.look()
    return sum(0 < searches.evaluations(trial) <= FAR for trial in searches.under_way())


def watched(audit, searches, *, seconds):
    """Looks at the searches of an audit until it ends; returns what it said."""
    until = time.monotonic() + seconds
    while True:
        searches.look()
        try:
            return audit.communicate(timeout=0.1)[0]
        except subprocess.TimeoutExpired:
            assert time.monotonic() < until, f"not within {seconds} s"


def nodes(cluster):
    said = cluster.ray("exec", "ray status")
    return sum(
        int(line.split()[0]) for line in said.splitlines() if line.endswith("local.cluster.node")
    )


def eventually(holds, *, seconds, look=1):
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, f"not within {seconds} s"
        time.sleep(look)
