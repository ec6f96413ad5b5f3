"""The embedded default as it ships: does it do what the README says of it?"""

import pytest
import torch

from engine import assets
from engine.attacks import PRESETS, prepare_objective, run_attack
from engine.checkpoints import read_card
from engine.federation import compute_update
from engine.generators import load_generator
from engine.lab import check_plan, trial_specs
from engine.plan import DEFAULT_PLAN, read_plan
from engine.scoring.evaluation_classifier import load_classifier
from engine.seeding import stream
from engine.trial import knowledge_of

DATASET, COLOUR = "fashion-mnist", "cifar10"


@pytest.fixture(scope="module")
def plan():
    return read_plan(DEFAULT_PLAN)[0]


@pytest.fixture(scope="module")
def lab(plan):
    return check_plan(plan)


def test_every_embedded_file_is_small_and_has_its_two_cards():
    paths = sorted((assets.FOLDER / DATASET).glob("*.safetensors"))

    assert [path.stem for path in paths] == ["classifier", "generator", "private_images"]
    for path in paths:
        assert path.stat().st_size <= 8 * 1024**2
        assert read_card(path.with_suffix(".json"))["licence"] == "MIT"
        assert path.with_suffix(".md").is_file()


@pytest.mark.parametrize("dataset", assets.datasets())
def test_the_generator_reaches_the_ceiling_its_card_promises(dataset):
    figures = read_card(assets.asset(dataset, "generator").with_suffix(".json"))["figures"]

    assert figures["oracle_psnr_db"] >= 20


def test_of_cifar10_no_images_ship_but_what_draws_and_judges_them():
    folder = assets.FOLDER / COLOUR

    assert sorted(path.stem for path in folder.glob("*.safetensors")) == ["classifier", "generator"]
    for path in folder.glob("*.safetensors"):
        card = read_card(path.with_suffix(".json"))
        assert path.stat().st_size <= 25 * 1024**2
        assert "JPEG re-encodings (quality 75)" in card["data"]
        assert path.with_suffix(".md").is_file()


def test_the_generator_of_cifar10_draws_what_its_judge_recognises():
    generator = load_generator(assets.asset(COLOUR, "generator"))
    judge = load_classifier(assets.asset(COLOUR, "classifier"))
    card = read_card(assets.asset(COLOUR, "generator").with_suffix(".json"))
    labels = torch.arange(200) % 10

    images = generator(torch.randn(200, 128, generator=stream(0, "drawn")), labels)

    assert images.shape == (200, 3, 32, 32)
    recognised = torch.eq(judge(images).argmax(1), labels).float().mean()
    assert abs(recognised - card["figures"]["recognised"]) < 0.12


def test_judges_are_as_good_as_their_cards_say():
    for dataset, least in ((DATASET, 0.9), (COLOUR, 0.75)):
        card = read_card(assets.asset(dataset, "classifier").with_suffix(".json"))
        assert card["figures"]["test_accuracy"] >= least


def test_the_default_audit_covers_the_papers_four_defenses_with_all_controls(plan):
    specs = trial_specs(plan)

    assert plan.targets >= 8
    assert {spec.defense_label for spec in specs if spec.attack == "ggl"} == {
        "none",
        "gaussian_noise(std=0.1)",
        "clipping(max_norm=4)",
        "sparsification(percent=90)",
        "soteria(percent=80, version=ggl)",
    }
    assert {spec.attack for spec in specs} == {
        "ggl",
        "prior_only",
        "shuffled",
        "random_best",
        "oracle",
    }


def test_a_planted_latent_is_recovered(plan, lab):
    label = 4
    spec = trial_specs(plan)[0]
    planted = torch.randn(1, lab.generator.latent_dim, generator=stream(3, "planted", label))
    labels = torch.tensor([label])
    observed = compute_update(lab.model, lab.generator(planted, labels), labels)
    objective = prepare_objective(observed, knowledge_of(spec, lab), spec.settings)
    prior = torch.randn(256, lab.generator.latent_dim, generator=stream(3, "prior"))

    found = run_attack(objective, PRESETS["default"], budget=10_000, seed=0)

    assert objective.labels == (label,)
    assert found.loss < 0.01 * objective(prior).median()


def test_targets_and_distractors_are_different_images(lab):
    targets = {image.numpy().tobytes() for image in lab.private.images}
    distractors = {image.numpy().tobytes() for image in lab.private.distractor_images}

    assert len(targets) == 40
    assert not targets & distractors
