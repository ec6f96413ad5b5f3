"""The RayJob: fields that KubeRay documents, a token, no secret, nothing exposed, and an end.

RAY_JOB below has the fields of KubeRay's API reference (ray.io/v1, KubeRay 1.6) for the kinds that
the file uses, and those of Kubernetes' own kinds that the file uses. It is written from the
references, the operator's schema being thousands of lines long; the API server has the last word.
"""

import copy
import re

import jsonschema
import pytest
import ray
import yaml

from tests.clusters.files import IMAGE, KUBERAY, ROOT, strings

TEXT, FLAG, COUNT = {"type": "string"}, {"type": "boolean"}, {"type": "integer", "minimum": 0}
TEXTS = {"type": "object", "additionalProperties": TEXT}
QUANTITIES = {"type": "object", "additionalProperties": {"type": ["string", "integer"]}}


def one_of(*names):
    return {"enum": list(names)}


def listed(item):
    return {"type": "array", "items": item}


def fields(*required, **known):
    return {
        "type": "object",
        "properties": known,
        "required": list(required),
        "additionalProperties": False,
    }


# -------------------------------------------------------------------------------- Kubernetes

RESOURCES = fields(requests=QUANTITIES, limits=QUANTITIES)
SECRET_KEY = fields("name", "key", name=TEXT, key=TEXT, optional=FLAG)
VARIABLE = fields("name", name=TEXT, value=TEXT, valueFrom=fields(secretKeyRef=SECRET_KEY))
CONTAINER = fields(
    "name",
    "image",
    name=TEXT,
    image=TEXT,
    env=listed(VARIABLE),
    resources=RESOURCES,
    volumeMounts=listed(fields("name", "mountPath", name=TEXT, mountPath=TEXT, readOnly=FLAG)),
    securityContext=fields(
        allowPrivilegeEscalation=FLAG, capabilities=fields(drop=listed(TEXT), add=listed(TEXT))
    ),
)
VOLUME = fields(
    "name",
    name=TEXT,
    persistentVolumeClaim=fields("claimName", claimName=TEXT, readOnly=FLAG),
    configMap=fields("name", name=TEXT),
)
POD = fields(
    "containers",
    containers=listed(CONTAINER),
    volumes=listed(VOLUME),
    restartPolicy=one_of("Never", "OnFailure", "Always"),
    automountServiceAccountToken=FLAG,
    imagePullSecrets=listed(fields("name", name=TEXT)),
    nodeSelector=TEXTS,
    tolerations=listed(
        fields(
            key=TEXT,
            operator=one_of("Exists", "Equal"),
            value=TEXT,
            effect=one_of("NoSchedule", "PreferNoSchedule", "NoExecute"),
        )
    ),
    securityContext=fields(
        runAsNonRoot=FLAG,
        runAsUser=COUNT,
        runAsGroup=COUNT,
        fsGroup=COUNT,
        fsGroupChangePolicy=one_of("OnRootMismatch", "Always"),
        seccompProfile=fields("type", type=one_of("RuntimeDefault", "Unconfined", "Localhost")),
    ),
)
TEMPLATE = fields("spec", metadata=fields(labels=TEXTS, annotations=TEXTS), spec=POD)

# ----------------------------------------------------------------------------------- KubeRay

WORKER_GROUP = fields(
    "groupName",
    "minReplicas",
    "maxReplicas",
    "template",
    groupName=TEXT,
    suspend=FLAG,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    numOfHosts=COUNT,
    idleTimeoutSeconds=COUNT,
    rayStartParams=TEXTS,
    resources=QUANTITIES,
    labels=TEXTS,
    template=TEMPLATE,
)
HEAD_GROUP = fields(
    "template",
    template=TEMPLATE,
    enableIngress=FLAG,
    rayStartParams=TEXTS,
    serviceType=one_of("ClusterIP", "NodePort", "LoadBalancer", "ExternalName"),
    resources=QUANTITIES,
    labels=TEXTS,
)
RAY_CLUSTER = fields(
    "headGroupSpec",
    rayVersion=TEXT,
    suspend=FLAG,
    managedBy=TEXT,
    authOptions=fields(mode=one_of("disabled", "token"), secretName=TEXT, enableK8sTokenAuth=FLAG),
    enableInTreeAutoscaling=FLAG,
    headServiceAnnotations=TEXTS,
    autoscalerOptions=fields(
        version=one_of("v1", "v2"),
        idleTimeoutSeconds=COUNT,
        upscalingMode=one_of("Default", "Aggressive", "Conservative"),
        image=TEXT,
        resources=RESOURCES,
        env=listed(VARIABLE),
    ),
    headGroupSpec=HEAD_GROUP,
    workerGroupSpecs=listed(WORKER_GROUP),
)
RAY_JOB = fields(
    "apiVersion",
    "kind",
    "metadata",
    "spec",
    apiVersion=one_of("ray.io/v1"),
    kind=one_of("RayJob"),
    metadata=fields("name", name=TEXT, labels=TEXTS),
    spec=fields(
        "entrypoint",
        "rayClusterSpec",
        entrypoint=TEXT,
        entrypointNumCpus={"type": "number"},
        entrypointNumGpus={"type": "number"},
        entrypointResources=TEXT,
        runtimeEnvYAML=TEXT,
        jobId=TEXT,
        metadata=TEXTS,
        clusterSelector=TEXTS,
        managedBy=TEXT,
        suspend=FLAG,
        submissionMode=one_of("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
        submitterPodTemplate=TEMPLATE,
        submitterConfig=fields(backoffLimit=COUNT),
        backoffLimit=COUNT,
        activeDeadlineSeconds={"type": "integer", "minimum": 1},
        ttlSecondsAfterFinished=COUNT,
        shutdownAfterJobFinishes=FLAG,
        rayClusterSpec=RAY_CLUSTER,
    ),
)


def accept(job):
    jsonschema.validate(job, RAY_JOB)


@pytest.fixture
def documents():
    found = yaml.safe_load_all(KUBERAY.read_text("utf-8"))
    return {document["kind"]: document for document in found}


@pytest.fixture
def job(documents):
    # Without YAML's anchors, so that a test can change one place alone.
    return copy.deepcopy(yaml.safe_load(yaml.dump(documents["RayJob"], Dumper=_Plain)))


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data):
        return True


@pytest.fixture
def pods(job):
    cluster = job["spec"]["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    return {
        "submitter": job["spec"]["submitterPodTemplate"],
        "head": cluster["headGroupSpec"]["template"],
        "workers": workers["template"],
    }


def test_kuberay_and_kubernetes_know_every_field(job):
    accept(job)


@pytest.mark.parametrize(
    ("path", "misspelt"),
    [
        (["spec"], "ttlSecondAfterFinished"),
        (["spec"], "shutdownAfterJobFinish"),
        (["spec", "rayClusterSpec"], "authOption"),
        (["spec", "rayClusterSpec", "authOptions"], "modus"),
        (["spec", "rayClusterSpec", "autoscalerOptions"], "idleTimeoutSecond"),
        (["spec", "rayClusterSpec", "headGroupSpec"], "rayStartParam"),
        (["spec", "rayClusterSpec", "headGroupSpec", "template", "spec"], "volume"),
        (["spec", "rayClusterSpec", "workerGroupSpecs", 0], "maxReplica"),
    ],
)
def test_a_misspelt_field_is_refused(job, path, misspelt):
    place = job
    for key in path:
        place = place[key]
    place[misspelt] = True

    with pytest.raises(jsonschema.ValidationError, match=misspelt):
        accept(job)


def test_counts_written_as_text_are_refused_and_start_parameters_written_as_numbers_too(job):
    for place, key, wrong in (
        (job["spec"], "ttlSecondsAfterFinished", "300"),
        (job["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"], "num-cpus", 0),
    ):
        right, place[key] = place[key], wrong
        with pytest.raises(jsonschema.ValidationError):
            accept(job)
        place[key] = right


def test_ray_asks_for_a_token_that_the_operator_makes(job):
    assert job["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}


def test_the_ray_version_is_the_locked_one(job):
    lock = (ROOT / "requirements.lock").read_text("utf-8")

    assert job["spec"]["rayClusterSpec"]["rayVersion"] == re.search(r"^ray==(\S+)", lock, re.M)[1]
    assert tuple(map(int, ray.__version__.split(".")[:2])) >= (2, 52)  # The first with tokens.


def test_the_head_takes_no_trials_and_is_exposed_to_no_one_outside(job):
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]

    assert head["rayStartParams"] == {"num-cpus": "0", "num-gpus": "0"}
    assert head["serviceType"] == "ClusterIP"
    assert head["enableIngress"] is False


def test_workers_have_a_gpu_each_and_none_runs_before_there_is_work(job):
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]

    assert job["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"] is True
    assert (group["replicas"], group["minReplicas"]) == (0, 0)
    assert 0 < group["maxReplicas"] <= 8
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1


def test_everything_ends_with_the_audit_and_at_the_latest_after_a_day(job):
    assert job["spec"]["shutdownAfterJobFinishes"] is True
    assert 0 < job["spec"]["ttlSecondsAfterFinished"] <= 3600
    assert 0 < job["spec"]["activeDeadlineSeconds"] <= 86400
    # A second cluster would start the audit over, in a folder that is there already.
    assert job["spec"]["backoffLimit"] == 0


def test_secrets_are_referred_to_and_not_written_down(pods):
    for name, pod in pods.items():
        for container in pod["spec"]["containers"]:
            for variable in container.get("env", []):
                if re.search("PASSWORD|USERNAME|TOKEN|SECRET", variable["name"]):
                    assert set(variable["valueFrom"]) == {"secretKeyRef"}, name
    assert "Secret" not in yaml.safe_dump(pods).replace("imagePullSecrets", "")


def test_results_are_on_one_storage_that_the_head_and_all_workers_mount(pods):
    for name in ("head", "workers"):
        volumes = {volume["name"]: volume for volume in pods[name]["spec"]["volumes"]}
        (container,) = pods[name]["spec"]["containers"]

        assert volumes["results"]["persistentVolumeClaim"] == {"claimName": "leaktune"}, name
        assert {"name": "results", "mountPath": "/mnt/leaktune"} in container["volumeMounts"], name


def test_deleting_the_file_does_not_delete_the_results(documents):
    assert set(documents) == {"NetworkPolicy", "RayJob"}


def test_no_pod_runs_as_root_or_gains_rights(pods):
    for name, pod in pods.items():
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True, name
        assert pod["spec"]["securityContext"]["runAsUser"] == 1000, name
        for container in pod["spec"]["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False, name
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name
    # The head's autoscaler needs the account that the operator gives it.
    for name in ("submitter", "workers"):
        assert pods[name]["spec"]["automountServiceAccountToken"] is False, name


def test_every_pod_runs_the_same_image(pods):
    images = {c["image"] for pod in pods.values() for c in pod["spec"]["containers"]}

    (image,) = images
    assert re.fullmatch(IMAGE, image)


def test_only_its_own_pods_and_the_operator_reach_ray(documents, pods):
    policy = documents["NetworkPolicy"]["spec"]
    ours, operator = policy["ingress"]

    assert documents["NetworkPolicy"]["apiVersion"] == "networking.k8s.io/v1"
    assert policy["policyTypes"] == ["Ingress"]
    assert ours == {"from": [{"podSelector": policy["podSelector"]}]}
    assert operator["ports"] == [{"protocol": "TCP", "port": 8265}]
    assert all("namespaceSelector" in peer for peer in operator["from"])
    for name, pod in pods.items():
        assert policy["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items(), (
            name
        )


def test_the_command_is_one_of_leaktune_and_has_nothing_for_a_shell_to_fill_in(job, pods):
    from typer.testing import CliRunner

    from engine.cli import app

    words = job["spec"]["entrypoint"].split()
    assert words[:2] == ["leaktune", "run"]
    assert "$" not in job["spec"]["entrypoint"]
    text = CliRunner().invoke(app, ["run", "--help"], env={"COLUMNS": "200"}).output
    for word in words:
        if word.startswith("--"):
            assert word in text, word
    mounts = [mount["mountPath"] for mount in pods["head"]["spec"]["containers"][0]["volumeMounts"]]
    for path in (word for word in words if word.startswith("/")):
        assert any(path.startswith(f"{mount}/") for mount in mounts), path
    assert strings(job).count("leaktune-plan") == 1
