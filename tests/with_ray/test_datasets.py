"""Whole audits of users' data sets, on small files of the same layouts."""

import json
from pathlib import Path

import pytest
import torchvision
import yaml
from safetensors.torch import save_file

import search_spaces
from tests.conftest import build
from tests.datasets.layouts import write_celeba_setup, write_imagenet_setup
from tests.with_ray.audits import INCONCLUSIVE
from tests.with_ray.conftest import leaktune

pytestmark = pytest.mark.slow

BUDGET = 4  # As few as an attack can have: every evaluation is of a ResNet-18.
PAPER = Path(search_spaces.__file__).parent / "paper"


def audit(plan, folder):
    """Runs a plan through the command line and returns its summary."""
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(plan | {"tracking": {"mlflow": False}}))
    code = leaktune("run", "--config", path, "--output", folder / "runs")
    [run] = (folder / "runs").iterdir()
    summary = json.loads((run / "summary.json").read_text())
    # Random generators conclude nothing.
    assert code == (INCONCLUSIVE if plan.get("verdict", True) else 0)
    assert summary["failed"] == []
    return summary


def test_celeba_is_audited_to_the_end_and_resumed(ray_cluster, tmp_path):
    write_celeba_setup(tmp_path / "data")
    plan = {
        "data": "celeba-32",
        "data_folder": str(tmp_path / "data"),
        "targets": 2,
        "defenses": ["none"],
        "controls": [],
        "attack": {"budget": 6, "searcher": "random"},
    }

    summary = audit(plan, tmp_path)

    assert summary["plan"]["target_model"]["name"] == "resnet18"
    assert summary["plan"]["generator"]["weights"] == "celeba-32"
    labels = {trial["target"]: trial["labels"] for trial in summary["trials"]}
    assert labels == {0: [0], 1: [1]}
    [run] = (tmp_path / "runs").iterdir()
    assert leaktune("resume", run) == INCONCLUSIVE


def imagenet_plan(data):
    return {
        "data": "imagenet-224",
        "data_folder": str(data),
        "targets": 1,
        "controls": [],
        "attack": {"budget": 3, "searcher": "random", "space": "tanh", "label_hypotheses": 1},
    }


def test_imagenet_is_audited_to_the_end(ray_cluster, tmp_path):
    data = write_imagenet_setup(tmp_path / "data")
    judge = {"classifier": {"weights": str(data / "judge.safetensors")}}

    summary = audit(imagenet_plan(data) | judge, tmp_path)

    [trial] = summary["trials"]
    assert trial["among"] == 3
    assert trial["metrics"]["label_accuracy"] == 1
    assert summary["plan"]["target_model"]["name"] == "resnet18"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["celeba-32", "imagenet-224"])
@pytest.mark.parametrize("paper", ["table3", "figure8"])
def test_the_papers_tables_come_to_their_end(paper, name, ray_cluster, tmp_path):
    data = write_imagenet_setup(write_celeba_setup(tmp_path / "data"))
    plan = yaml.safe_load((PAPER / f"{paper}.yaml").read_text())
    del plan["scales"]
    for attack in plan["attacks"].values():
        attack["budget"] = BUDGET
    plan |= {"data": name, "data_folder": str(data), "targets": 1, "controls": []}
    plan["defenses"] = [{"name": "sparsification", "percent": 90}]
    if name == "imagenet-224":
        plan["classifier"] = {"weights": str(data / "judge.safetensors")}

    summary = audit(plan, tmp_path)

    assert {trial["attack"] for trial in summary["trials"]} == set(plan["attacks"])
    assert all(trial["evaluations"] == BUDGET for trial in summary["trials"])


def test_imagenet_is_audited_with_a_trained_target_a_resnet50_and_lpips(ray_cluster, tmp_path):
    data = write_imagenet_setup(tmp_path / "data")
    (data / "lpips").mkdir()
    models = torchvision.models
    for path, make in (
        (data / "imagenet-224" / "resnet50.safetensors", models.resnet50),
        (data / "imagenet-224" / "resnet18_imagenet.safetensors", models.resnet18),
        (data / "lpips" / "vgg.safetensors", lambda: models.vgg16().features),
    ):
        save_file(build(make, 0).state_dict(), path)
    trained = {"target_model": {"name": "resnet18_imagenet", "weights": "imagenet-224"}}

    summary = audit(imagenet_plan(data) | trained, tmp_path)

    [trial] = summary["trials"]
    assert trial["metrics"]["lpips_vgg"] > 0
    assert "lpips" not in trial["metrics"]
    assert set(summary["provenance"]["sha256"]) >= {"classifier", "target_model", "lpips vgg"}
