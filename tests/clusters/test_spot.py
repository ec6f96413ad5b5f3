"""What the autoscaler of the installed Ray makes of the spot and on-demand machines of a file.

Ray's own reconciler and scheduler decide here (autoscaler v2, that of `ray up`), on the file as it
is; the cloud is a fake that refuses spot machines, or does not.
"""

import copy
from collections import Counter

import pytest

from tests.clusters.files import load

pytest.importorskip("ray.autoscaler.v2.instance_manager.reconciler", reason="Ray moved it")

from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.instance_manager.instance_manager import InstanceManager
from ray.autoscaler.v2.instance_manager.instance_storage import InstanceStorage
from ray.autoscaler.v2.instance_manager.node_provider import CloudInstance, LaunchNodeError
from ray.autoscaler.v2.instance_manager.reconciler import Reconciler
from ray.autoscaler.v2.instance_manager.storage import InMemoryStorage
from ray.autoscaler.v2.instance_manager.subscribers.cloud_instance_updater import (
    CloudInstanceUpdater,
)
from ray.autoscaler.v2.instance_manager.subscribers.cloud_resource_monitor import (
    CloudResourceMonitor,
)
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler
from ray.core.generated.autoscaler_pb2 import ClusterResourceState, NodeStatus
from ray.core.generated.instance_manager_pb2 import NodeKind

SPOT, ON_DEMAND = "gpu_spot", "gpu_on_demand"


class Cloud:
    """Starts what it is asked for, but nothing of the node types that it refuses."""

    def __init__(self, *, refuses=()):
        self.refuses = refuses
        self.machines = {"head": self.machine("head", "head", NodeKind.HEAD, "")}
        self.asked = Counter()
        self.errors = []

    def machine(self, name, node_type, kind, request):
        return CloudInstance(name, node_type, kind, is_running=True, request_id=request)

    def get_non_terminated(self):
        return dict(self.machines)

    def poll_errors(self):
        errors, self.errors = self.errors, []
        return errors

    def launch(self, shape, request_id):
        for node_type, count in shape.items():
            self.asked[node_type] += count
            if node_type in self.refuses:
                # Of which kind the refusal is, Ray does not look at.
                self.errors.append(LaunchNodeError(node_type, count, request_id, 0))
                continue
            for _ in range(count):
                name = f"machine-{len(self.machines)}"
                kind = NodeKind.WORKER
                self.machines[name] = self.machine(name, node_type, kind, request_id)

    def terminate(self, ids, request_id):
        raise AssertionError("Nothing is idle here.")

    def workers(self):
        return Counter(m.node_type for m in self.machines.values() if m.node_type != "head")


class Autoscaler:
    """The decisions of Ray's autoscaler for a file, a cloud, and trials that wait for GPUs."""

    def __init__(self, config, cloud):
        self.config, self.cloud = config, cloud
        self.monitor, self.scheduler = CloudResourceMonitor(), ResourceDemandScheduler(None)
        updater = CloudInstanceUpdater(cloud_provider=cloud, metrics_reporter=None)
        storage = InstanceStorage("audit", InMemoryStorage())
        self.manager = InstanceManager(storage, [updater, self.monitor])
        self.rounds = 0

    def run(self, *, trials, rounds):
        for _ in range(rounds):
            self.rounds += 1
            Reconciler.reconcile(
                self.manager,
                self.scheduler,
                self.cloud,
                self.monitor,
                self.state(trials),
                self.cloud.get_non_terminated(),
                AutoscalingConfig(copy.deepcopy(self.config), skip_content_hash=True),
                self.cloud.poll_errors(),
            )

    def state(self, trials):
        """What Ray reports: a trial on every worker, and the others waiting."""
        state = ClusterResourceState(cluster_resource_state_version=self.rounds)
        for name, machine in self.cloud.machines.items():
            node = state.node_states.add(node_id=name.encode(), instance_id=name)
            node.status, node.ray_node_type_name = NodeStatus.RUNNING, machine.node_type
            head = machine.node_type == "head"
            node.total_resources.update({"node:__internal_head__": 1.0} if head else {"GPU": 1.0})
        waiting = trials - sum(self.cloud.workers().values())
        request = state.pending_resource_requests.add(count=waiting).request
        request.resources_bundle.update({"CPU": 1.0, "GPU": 1.0})
        return state


@pytest.fixture(params=["aws", "gcp"])
def config(request, tmp_path):
    config = load(request.param)
    if "ssh_private_key" in config["auth"]:
        config["auth"]["ssh_private_key"] = str(tmp_path / "key")  # Ray takes its hash.
        (tmp_path / "key").touch()
    for name in (SPOT, ON_DEMAND):
        # On AWS Ray looks them up; of the machine type in the file they are these.
        config["available_node_types"][name]["resources"] = {"CPU": 4, "GPU": 1}
    return config


@pytest.mark.parametrize("trials", [1, 4, 6])
def test_up_to_six_trials_get_spot_machines_alone(config, trials):
    cloud = Cloud()

    Autoscaler(config, cloud).run(trials=trials, rounds=4)

    assert cloud.workers() == {SPOT: trials}


def test_further_trials_get_on_demand_machines_up_to_the_ceiling(config):
    cloud = Cloud()

    Autoscaler(config, cloud).run(trials=20, rounds=4)

    assert cloud.workers() == {SPOT: 6, ON_DEMAND: 2}


def test_an_audit_of_many_trials_goes_on_without_any_spot_machine(config):
    cloud = Cloud(refuses=(SPOT,))

    Autoscaler(config, cloud).run(trials=20, rounds=4)

    assert cloud.workers() == {ON_DEMAND: 2}


def test_ray_does_not_change_over_to_on_demand_by_itself(config):
    # Should a newer Ray fail this: good news, for *Spot and on-demand* in clusters/README.md.
    cloud = Cloud(refuses=(SPOT,))

    Autoscaler(config, cloud).run(trials=4, rounds=10)

    assert cloud.workers() == {}
    assert cloud.asked[SPOT] > 4
    assert cloud.asked[ON_DEMAND] == 0


def test_a_changed_ceiling_takes_effect_while_the_audit_runs(config):
    # What the README advises: no spot machines, more on-demand ones, `ray up --no-restart`.
    cloud = Cloud(refuses=(SPOT,))
    autoscaler = Autoscaler(config, cloud)
    autoscaler.run(trials=4, rounds=4)

    config["available_node_types"][SPOT]["max_workers"] = 0
    config["available_node_types"][ON_DEMAND]["max_workers"] = 8
    autoscaler.run(trials=4, rounds=4)

    assert cloud.workers() == {ON_DEMAND: 4}
