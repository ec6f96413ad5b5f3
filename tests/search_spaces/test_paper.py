"""The paper's tables as plans: each is whole at every scale, and small enough to end soon."""

import shutil
from pathlib import Path

import pytest
import yaml

import search_spaces
from engine.lab import check_plan, trial_specs
from engine.plan import read_plan
from tests.datasets.layouts import write_celeba_setup, write_imagenet_setup

PLANS = sorted((Path(search_spaces.__file__).parent / "paper").glob("*.yaml"))


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_every_plan_can_be_run_at_every_scale(path):
    for scale in yaml.safe_load(path.read_text())["scales"]:
        plan, _ = read_plan(path, [f"scale={scale}", "data=fashion-mnist"])

        check_plan(plan)
        assert plan.paper_table
        assert {"prior_only", "oracle"} <= set(plan.controls)
        assert plan.targets >= (20 if scale == "full" else 4)


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory):
    data = write_imagenet_setup(write_celeba_setup(tmp_path_factory.mktemp("data")))
    shutil.copy(data / "judge.safetensors", data / "imagenet-224" / "resnet50.safetensors")
    shutil.copy(data / "judge.json", data / "imagenet-224" / "resnet50.json")
    return data


@pytest.mark.parametrize(
    "data", ["celeba-32", pytest.param("imagenet-224", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_every_plan_can_be_run_on_every_data_set(path, data, data_folder, monkeypatch):
    monkeypatch.setattr("engine.lab.classifier_card", lambda _: None)  # A small judge has its own.
    plan, _ = read_plan(path, [f"data={data}", f"data_folder={data_folder}", "targets=1"])

    lab = check_plan(plan)

    assert lab.private.images.shape[1:] == lab.generator.image_shape


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_the_small_scale_has_the_attacks_and_defenses_of_the_full_one(path):
    full, small = (read_plan(path, [f"scale={scale}"])[0] for scale in ("full", "small"))

    settings = [[(one.name, one.settings) for one in plan.lineup()] for plan in (full, small)]
    assert settings[0] == settings[1]
    assert full.defenses == small.defenses
    evaluations = sum(spec.budget for spec in trial_specs(small) if spec.searches)
    assert evaluations < 200_000


def test_table_3_has_the_papers_attacks_and_defenses():
    plan, _ = read_plan(next(path for path in PLANS if path.stem == "table3"))

    names = {one.name for one in plan.lineup()}
    assert {"dlg", "idlg", "inverting_gradients", "gradinversion", "ggl"} <= names
    strengths = [{"name": chain[0].name, **chain[0].settings()} for chain in plan.defenses]
    assert strengths == [
        {"name": "none"},
        {"name": "gaussian_noise", "std": 0.1},
        {"name": "clipping", "max_norm": 4},
        {"name": "sparsification", "percent": 90},
        {"name": "soteria", "percent": 80},
    ]
