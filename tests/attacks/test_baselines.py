"""The attacks on pixels find what is known to be there."""

import dataclasses

import pytest
import torch
from torch import nn

from engine.attacks import PRESETS, ThreatKnowledge, prepare_objective, run_attack
from engine.defenses import ClientContext, NoDefense, Sparsification, apply_defenses
from engine.federation import compute_update, find_head
from tests.conftest import build, seeded

BASELINES = ("dlg", "idlg", "inverting_gradients", "gradinversion")
CLASSES = 4
SHAPE = (1, 6, 6)
LABEL = 2


def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(36, CLASSES))


def smooth():
    """Sigmoids throughout, as DLG has them."""
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.Sigmoid(), nn.Flatten(), nn.Linear(12 * 36, CLASSES)
    )


def smooth_image():
    """An image without noise, whose total variation is small: half a wave along each axis."""
    steps = torch.linspace(0, torch.pi, SHAPE[1])
    return (0.5 + 0.4 * torch.sin(steps)[:, None] * torch.cos(steps)[None]).expand(1, *SHAPE)


def attack(preset, model, defense=None, *, budget, seed=0, **changes):
    """Attacks the update of one image; returns the reconstruction and the update."""
    image, label = smooth_image(), torch.tensor([LABEL])
    update = compute_update(model, image, label)
    head = find_head(model, SHAPE)
    chain = (defense or NoDefense(),)
    client = ClientContext(model, head, image, label)
    observed = apply_defenses(chain, update, client=client, rng=seeded(1))
    knowledge = ThreatKnowledge(
        model=model,
        head=head,
        classes=CLASSES,
        generate=lambda latents, labels: latents.sigmoid().view(-1, *SHAPE),
        latent_dim=36,
        defense_kinds=tuple(defense.name for defense in chain),
    )
    settings = dataclasses.replace(PRESETS[preset], **changes)
    objective = prepare_objective(observed, knowledge, settings)
    return run_attack(objective, settings, budget=budget, seed=seed), update


def mse_of(found):
    return float((found.images - smooth_image()).square().mean())


@pytest.mark.parametrize("preset", BASELINES)
def test_of_a_linear_model_every_attack_finds_what_its_gradient_says_in_closed_form(preset):
    model = build(linear, 0).eval()

    found, update = attack(preset, model, budget=2000)

    weight, bias = (update.tensors[name][0] for name in ("1.weight", "1.bias"))
    closed_form = (weight[LABEL] / bias[LABEL]).view(1, *SHAPE)
    torch.testing.assert_close(closed_form, smooth_image(), atol=1e-5, rtol=0)
    assert found.labels == (LABEL,)
    assert float((found.images - closed_form).square().mean()) < 1e-3


@pytest.mark.parametrize("preset", BASELINES)
def test_a_smooth_networks_image_is_recovered(preset):
    found, _ = attack(preset, build(smooth, 0).eval(), budget=2400)

    assert found.labels == (LABEL,)
    assert mse_of(found) < 1e-3


def test_an_adaptive_attack_matches_only_what_the_defense_has_left():
    defense = Sparsification(percent=90)
    published, adaptive = (
        attack("inverting_gradients", build(smooth, 0), defense, budget=1600, adaptive=adaptive)[0]
        for adaptive in (False, True)
    )

    assert mse_of(adaptive) < 0.5 * mse_of(published)


def test_the_baselines_as_published_know_of_no_defense_and_of_no_generator():
    for preset in BASELINES:
        assert not PRESETS[preset].adaptive
        assert PRESETS[preset].space == "pixels"
    assert PRESETS["ggl"].adaptive


def test_labels_searched_jointly_are_those_of_the_images():
    """Two images of different classes: DLG's setting, in which the order is not known."""
    model, labels = build(linear, 0).eval(), torch.tensor([3, 1])
    images = torch.cat([smooth_image(), smooth_image().flip(2)])
    observed = compute_update(model, images, labels, images_per_client=2)
    knowledge = ThreatKnowledge(
        model=model,
        head=find_head(model, SHAPE),
        classes=CLASSES,
        generate=lambda latents, labels: latents.sigmoid().view(-1, *SHAPE),
        latent_dim=36,
        defense_kinds=("none",),
        images_per_client=2,
    )
    objective = prepare_objective(observed, knowledge, PRESETS["dlg"])

    found = run_attack(objective, PRESETS["dlg"], budget=1200, seed=0)

    assert found.labels == (1, 3)
    assert found.latent.shape == (1, 2 * 36 + 2 * CLASSES)
    assert found.images.shape == (2, *SHAPE)
    assert found.loss < 1e-6
