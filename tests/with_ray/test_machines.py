"""What is said of a cluster's machines before an audit is spent on them."""

import json
from pathlib import Path

import pytest

from engine import tuning
from engine.errors import InfrastructureError
from engine.plan.parts import ComputePlan

GPU_TRIALS = ComputePlan(cpus_per_trial=1, gpus_per_trial=1)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_USAGE_STATS_KUBERAY_IN_USE", raising=False)
    return tmp_path


@pytest.fixture
def without_gpu(ray_cluster, home):
    import ray

    if any(node["Resources"].get("GPU") for node in ray.nodes()):
        pytest.skip("this machine has a GPU")


def growing(home: Path, **resources: float):
    started_with(
        home,
        head={"max_workers": 0, "resources": {"CPU": 8, "GPU": 8}},
        worker={"max_workers": 2, "resources": resources},
    )


def joined(home: Path, *, workers: int):
    """What `ray up` writes for machines of one's own: nothing of what they have."""
    both = {"min_workers": workers, "max_workers": workers}
    started_with(home, **{"local.cluster.node": {**both, "node_config": {}, "resources": {}}})


def started_with(home: Path, **kinds: dict):
    path = home / "ray_bootstrap_config.yaml"
    path.write_text(json.dumps({"available_node_types": kinds}))


def test_a_machine_that_has_what_a_trial_needs_is_enough(ray_cluster, home, tmp_path):
    assert tuning.check_machines(ComputePlan(cpus_per_trial=1), tmp_path) is None


def test_gpus_that_no_machine_has_are_named_with_what_there_is(without_gpu):
    with pytest.raises(InfrastructureError) as refused:
        tuning.check_machines(GPU_TRIALS)

    assert "Expected a node with 1 CPU and 1 GPU for one trial, the cluster has: " in str(
        refused.value
    )
    assert "CPU, 0 GPU. Lower compute.cpus_per_trial or compute.gpus_per_trial" in str(
        refused.value
    )


def test_machines_that_the_cluster_starts_are_waited_for(without_gpu, home):
    growing(home, CPU=4, GPU=1)

    assert "waiting for it to start one" in tuning.check_machines(GPU_TRIALS)


def test_machines_that_would_not_do_either_are_not_waited_for(without_gpu, home):
    growing(home, CPU=4)

    with pytest.raises(InfrastructureError, match="Expected a node with 1 CPU and 1 GPU"):
        tuning.check_machines(GPU_TRIALS)


def test_a_machine_alone_is_joined_by_none_whatever_ray_up_left_there(without_gpu, home):
    growing(home, CPU=4, GPU=1)

    with pytest.raises(InfrastructureError, match="Expected a node with 1 CPU and 1 GPU"):
        tuning.check_machines(GPU_TRIALS, alone=True)


def test_on_kubernetes_pods_are_waited_for(without_gpu, monkeypatch):
    monkeypatch.setenv("RAY_USAGE_STATS_KUBERAY_IN_USE", "1")

    assert "waiting for it to start one" in tuning.check_machines(GPU_TRIALS)


def test_ones_own_machines_that_have_yet_to_join_are_waited_for_but_not_for_ever(
    without_gpu, home, monkeypatch, capsys
):
    joined(home, workers=2)
    monkeypatch.setattr("engine.tuning.machines.JOINING_SECONDS", 1)

    with pytest.raises(InfrastructureError, match=r"0 GPU; machines yet to join: 2\. Lower"):
        tuning.check_machines(GPU_TRIALS)

    (told,) = capsys.readouterr().err.splitlines()
    assert "has 1 CPU and 1 GPU for one trial yet; waiting for those that join: 2." in told


def test_where_all_have_joined_none_is_waited_for(without_gpu, home, capsys):
    joined(home, workers=0)

    with pytest.raises(InfrastructureError, match=r"CPU, 0 GPU\. Lower"):
        tuning.check_machines(GPU_TRIALS)

    assert capsys.readouterr().err == ""


def test_where_one_has_what_a_trial_needs_others_may_join_later(ray_cluster, home, capsys):
    joined(home, workers=2)

    assert tuning.check_machines(ComputePlan(cpus_per_trial=1)) is None
    assert capsys.readouterr().err == ""
