"""Trials of clients that hold several images, or take several steps on them."""

import dataclasses
from collections import Counter
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch

import engine.trial.trial
from engine.attacks import History
from engine.federation import compute_update
from engine.federation.captures import write_capture
from engine.federation.client import LocalTraining
from engine.federation.private_images import PrivateImages
from engine.lab import build_lab, trial_specs
from engine.plan import make_plan
from engine.scoring.evaluation_classifier import EvaluationClassifier
from engine.seeding import stream
from engine.trial import knowledge_of, observe, run_trial, run_trials
from engine.trial.parts import Lab
from engine.trial.record import spec_hash
from tests.conftest import CLASSES, IMAGE_SHAPE, LATENT_DIM, build, seeded
from tests.trial.test_trial import ATTACKS, assert_equal_results, spec_of

LABELS = torch.tensor([2, 0, 0, 2, 3, 3, 1, 2])
STEPS = LocalTraining(3, 0.5)
NOISE, PRUNED = ("gaussian_noise", {"std": 0.01}), ("sparsification", {"percent": 50})


def lab_with(model, head, generator, *, seed=0):
    return Lab(
        model=model,
        head=head,
        generator=generator,
        private=PrivateImages(
            images=generator(torch.randn(8, LATENT_DIM, generator=seeded(seed)), LABELS),
            labels=LABELS,
            distractor_images=torch.rand(12, *IMAGE_SHAPE, generator=seeded(seed + 1)),
            distractor_labels=torch.arange(12) % CLASSES,
        ),
        classifier=build(lambda: EvaluationClassifier(image_shape=IMAGE_SHAPE, classes=CLASSES), 4),
    )


@pytest.fixture(scope="module")
def lab(model, head, generator):
    return lab_with(model, head, generator)


@pytest.fixture(scope="module")
def embedded():
    return build_lab(make_plan({}, source="test"))


@pytest.mark.parametrize(
    ("images", "training", "budget"),
    [(2, LocalTraining(), 3000), (1, STEPS, 600), (2, STEPS, 3000)],
)
def test_the_attack_recovers_the_planted_images_of_a_client(images, training, budget, lab):
    result = run_trial(spec_of(images=images, training=training, budget=budget), lab)

    assert result.metrics["psnr"] > 30
    assert result.hits == {"top1": 1.0, "top5": 1.0, "top1_features": 1.0, "top5_features": 1.0}
    assert result.labels == (2, 0)[:images]
    assert result.inferred_labels == tuple(sorted(result.labels))
    assert result.metrics["label_accuracy"] == 1.0
    assert np.abs(result.images - lab.private.images[:images].numpy()).max() < 0.1
    assert result.matching.startswith("kernels" if training.steps == 1 else "one gradient")


@pytest.mark.parametrize("training", [LocalTraining(), STEPS])
@pytest.mark.parametrize("attack", ATTACKS)
def test_every_attack_gives_a_whole_result(attack, training, lab):
    result = run_trial(spec_of(attack, images=2, training=training, target=3), lab)

    assert result.images.shape == (2, *IMAGE_SHAPE)
    assert result.labels == (1, 2)
    assert len(result.inferred_labels) == 2
    assert np.isfinite(list(result.metrics.values())).all()
    assert result.evaluations == len(result.losses)


@pytest.mark.parametrize("images", [1, 2, 3])
def test_the_server_observes_what_training_with_a_plain_optimizer_changes(images, lab):
    model = build(type(lab.model), 1)
    held = slice(images, 2 * images)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    for _ in range(3):
        optimizer.zero_grad()
        logits = model(lab.private.images[held])
        torch.nn.functional.cross_entropy(logits, LABELS[held]).backward()
        optimizer.step()

    observed, change = observe(spec_of(images=images, training=STEPS), lab, 1)

    assert change == 0
    for name, after in model.named_parameters():
        expected = (before[name] - after.detach()) / 0.5
        torch.testing.assert_close(observed.tensors[name][0], expected, rtol=1e-4, atol=1e-6)


def test_the_attacker_knows_the_training_and_the_number_of_images(lab):
    knowledge = knowledge_of(spec_of(images=4, training=STEPS), lab)

    assert (knowledge.images_per_client, knowledge.training) == (4, STEPS)


def test_the_shuffled_control_attacks_another_client_with_the_same_classes(lab):
    result = run_trial(spec_of("shuffled", images=2, budget=3000), lab)

    # Client 1 holds the classes 0 and 2, in the other order.
    donor = lab.private.images[2:4].numpy()
    assert min(np.abs(result.images - donor[order]).max() for order in ([0, 1], [1, 0])) < 0.1
    assert result.labels == (2, 0)
    assert result.metrics["label_accuracy"] == 1.0


def least_mse(images, truths):
    return min(
        np.mean(
            [np.square(images[i] - truth).mean() for i, truth in zip(order, truths, strict=True)]
        )
        for order in permutations(range(len(truths)))
    )


def test_each_draw_of_the_prior_is_assigned_by_itself(lab, generator):
    result = run_trial(spec_of("prior_only", images=3), lab)

    latents = torch.randn(64, 3 * LATENT_DIM, generator=stream(0, "prior_only", 0))
    assert result.inferred_labels == (0, 0, 2)
    labels = torch.tensor(result.inferred_labels).repeat(64)
    draws = generator(latents.view(-1, LATENT_DIM), labels).view(64, 3, *IMAGE_SHAPE).numpy()
    expected = np.mean([least_mse(draw, lab.private.images[:3].numpy()) for draw in draws])
    assert result.metrics["mse"] == pytest.approx(expected, rel=1e-5)


def test_the_attack_is_scored_in_the_best_order(lab):
    result = run_trial(spec_of(images=4, budget=28), lab)

    truths = lab.private.images[:4].numpy()
    assert result.metrics["mse"] == pytest.approx(least_mse(result.images, truths), rel=1e-5)
    assert result.metrics["mse"] == pytest.approx(np.square(result.images - truths).mean())
    assert result.trace[-1][2] == pytest.approx(result.metrics["psnr"])


def test_the_oracle_projects_every_image(lab):
    result = run_trial(spec_of("oracle", images=4), lab)

    assert result.metrics["psnr"] > 40
    assert np.abs(result.images - lab.private.images[:4].numpy()).max() < 0.02
    assert result.inferred_labels == (2, 0, 0, 2)


def test_label_accuracy_is_the_share_of_the_true_labels_that_were_found(lab):
    # Noise this strong drowns some of the labels.
    results = [
        run_trial(
            spec_of("prior_only", (("gaussian_noise", {"std": 1.0}),), seed=seed, images=4), lab
        )
        for seed in range(6)
    ]

    for result in results:
        left, found = list(result.labels), 0
        for label in result.inferred_labels:
            if label in left:
                left.remove(label)
                found += 1
        assert result.metrics["label_accuracy"] == found / 4
    assert len({result.metrics["label_accuracy"] for result in results}) > 1


def batch_specs():
    """Trials of clients alike, with all attacks, defenses and budgets of different kinds."""
    kinds = [
        ("ggl", (("none", {}),), 70),
        ("random_best", (NOISE,), 130),
        ("prior_only", (("soteria", {"percent": 40}),), 70),
        ("shuffled", (PRUNED,), 45),
        ("oracle", (("none", {}),), 70),
        ("ggl", (("clipping", {"max_norm": 0.5}), PRUNED), 70),
    ]
    return [
        dataclasses.replace(
            spec_of(attack, defense, target=place % 4, budget=budget, images=2), id=f"trial{place}"
        )
        for place, (attack, defense, budget) in enumerate(kinds)
    ]


@pytest.mark.parametrize("training", [LocalTraining(), LocalTraining(3, 0.05)])
def test_trials_run_together_have_the_results_they_have_alone(training, embedded):
    specs = [dataclasses.replace(spec, training=training) for spec in batch_specs()]

    together = [outcome for batch in run_trials(specs, embedded) for outcome in batch]

    assert sorted(outcome.spec.id for outcome in together) == [spec.id for spec in specs]
    for outcome in together:
        assert_equal_results(outcome.result, run_trial(outcome.spec, embedded))


def test_a_resumed_trial_equals_an_uninterrupted_one(lab):
    spec = spec_of(images=2, training=STEPS)
    whole = run_trial(spec, lab)

    resumed = run_trial(spec, lab, known=History(whole.losses[:28]))

    assert_equal_results(whole, resumed)


@pytest.mark.parametrize(
    "chain",
    [
        (NOISE,),
        (("clipping", {"max_norm": 0.1}),),
        (("clipping_per_layer", {"max_norm": 0.1}),),
        (PRUNED,),
        (("soteria", {"percent": 50}),),
    ],
)
@pytest.mark.parametrize("training", [LocalTraining(), STEPS])
def test_every_defense_is_applied_and_estimated(chain, training, lab):
    result = run_trial(spec_of(defense=chain, images=2, training=training), lab)

    assert result.defense_change > 1e-3
    assert result.imitation != "nothing to imitate"
    assert np.isfinite(result.losses).all()


def test_the_image_count_and_the_training_determine_a_trial(lab):
    specs = [spec_of(), spec_of(images=2), spec_of(training=STEPS)]

    assert len({spec_hash(spec) for spec in specs}) == 3


@pytest.mark.parametrize("attack", ["ggl", "shuffled", "random_best", "prior_only"])
def test_private_images_reach_no_attack_but_through_the_observed_update(
    attack, lab, model, head, generator, monkeypatch
):
    spec = spec_of(attack, images=2, training=STEPS)
    observed = observe(spec, lab, 0)
    monkeypatch.setattr(engine.trial.trial, "observe", lambda *_: observed)
    others = lab_with(model, head, generator, seed=50)
    private = dataclasses.replace(others.private, labels=LABELS.flip(0))

    here = run_trial(spec, lab)
    there = run_trial(spec, dataclasses.replace(others, private=private))

    assert_same_images_in_any_order(here.images, there.images)
    np.testing.assert_array_equal(here.losses, there.losses)
    assert here.inferred_labels == there.inferred_labels
    assert here.metrics["mse"] != there.metrics["mse"]


def assert_same_images_in_any_order(first, second):
    """The order is the scoring side's, which may look at the truth."""
    assert Counter(image.tobytes() for image in first) == Counter(
        image.tobytes() for image in second
    )


def test_one_step_is_the_gradient_whatever_the_learning_rate(lab):
    observed, _ = observe(spec_of(images=2, training=LocalTraining(1, 7.0)), lab, 0)

    update = compute_update(lab.model, lab.private.images[:2], LABELS[:2], images_per_client=2)
    for name, tensor in update.tensors.items():
        assert torch.equal(observed.tensors[name], tensor)


@pytest.mark.parametrize("client", [{"images": 2}, {"images": 3, "local_steps": 3}])
def test_captures_of_clients_give_what_simulating_them_gives(client, tmp_path):
    plan = {
        "client": client,
        "targets": 2,
        "defenses": [{"name": "clipping", "max_norm": 0.5}],
        "attack": {"budget": 56},
    }
    simulated = make_plan(plan, source="test")
    spec, lab = trial_specs(simulated)[0], build_lab(simulated)
    paths = [str(tmp_path / f"{number}.safetensors") for number in range(2)]
    for number, path in enumerate(paths):
        write_capture(Path(path), observe(spec, lab, number)[0])

    received = make_plan({**plan, "captures": paths}, source="test")

    lab_of_captures = build_lab(received)
    assert len(lab_of_captures.private.images) == 2 * client["images"]
    for one, other in zip(trial_specs(simulated), trial_specs(received), strict=True):
        if one.attack in ("ggl", "prior_only"):
            assert_equal_results(run_trial(one, lab), run_trial(other, lab_of_captures))
