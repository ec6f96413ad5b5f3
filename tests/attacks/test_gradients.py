"""Losses with gradients: those of autograd through one client a candidate, found however."""

import dataclasses

import pytest
import torch

from engine.attacks import PRESETS, Evaluation, evaluate_together, prepare_objective
from engine.attacks.matching import matcher
from engine.federation import compute_update, find_head
from engine.lab import build_lab, trial_specs
from engine.plan import make_plan
from engine.trial import knowledge_of, observe
from tests.conftest import seeded

STRENGTHS = {
    "none": {},
    "clipping": {"max_norm": 0.2},
    "sparsification": {"percent": 90},
    "soteria": {"percent": 80},
}
# From the strictest tests down: single precision through a network of twenty layers.
TOLERANCE = 1e-5


def objective_of(preset, defense, **changes):
    return prepare_objective(*parts_of(preset, defense, **changes))


def parts_of(preset, defense, *, model="lenet", images=2, local_steps=1):
    plan = make_plan(
        {
            "targets": 1,
            "target_model": {"name": model},
            "defenses": [{"name": defense, **STRENGTHS[defense]}],
            "attack": {"preset": preset, "adaptive": True},
            "client": {"images": images, "local_steps": local_steps},
        },
        source="test",
    )
    lab, spec = build_lab(plan), trial_specs(plan)[0]
    observed, _ = observe(spec, lab, 0)
    return observed, knowledge_of(spec, lab), spec.settings


def latents_of(objective, candidates):
    labels = 10 * objective.knowledge.images_per_client if objective.joint_labels else 0
    shape = (candidates, objective.decoder.dim + labels)
    return 0.5 * torch.randn(shape, generator=seeded(0))


def by_autograd(objective, latents):
    """One client's update a candidate, differentiated by torch alone."""
    losses, gradients = [], []
    for latent in latents:
        leaf = latent[None].clone().requires_grad_()
        images = objective.decoder.generate(leaf)
        update = compute_update(
            objective.knowledge.model,
            images,
            objective.decoder.labels(leaf),
            images_per_client=objective.knowledge.images_per_client,
            training=objective.knowledge.training,
            differentiable=True,
        )
        loss = objective.distance(objective.imitate(update), objective.observed)
        loss = loss + objective.penalties(leaf, images[None])
        losses.append(loss.detach())
        gradients += torch.autograd.grad(loss.sum(), [leaf])
    return torch.cat(losses), torch.cat(gradients)


def assert_gradients_are_autograds(objective, candidates=3):
    latents = latents_of(objective, candidates)

    [scores] = evaluate_together([Evaluation(objective, latents, "gradients")])

    losses, gradients = by_autograd(objective, latents)
    torch.testing.assert_close(scores.losses, losses, rtol=TOLERANCE, atol=0)
    assert (scores.details - gradients).norm() < TOLERANCE * gradients.norm()


@pytest.mark.parametrize("small", [0, matcher.SMALL_MODEL], ids=["moments", "updates"])
@pytest.mark.parametrize("defense", STRENGTHS)
@pytest.mark.parametrize("preset", ["dlg", "inverting_gradients", "default"])
def test_gradients_are_autograds_by_moments_and_by_updates(preset, defense, small, monkeypatch):
    monkeypatch.setattr(matcher, "SMALL_MODEL", small)
    matcher.make_matcher.cache_clear()

    assert_gradients_are_autograds(objective_of(preset, defense))
    matcher.make_matcher.cache_clear()


def test_gradients_of_a_deep_network_are_autograds():
    objective = objective_of("gradinversion", "none", model="resnet18", images=1)
    assert not objective.matcher.prefers_updates(torch.zeros(1, requires_grad=True))

    assert_gradients_are_autograds(objective, candidates=2)


def test_gradients_through_a_layer_without_a_rule_are_autograds(monkeypatch):
    monkeypatch.setattr(matcher, "SMALL_MODEL", 0)
    _, knowledge, settings = parts_of("inverting_gradients", "none", images=1)
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 5, stride=3),
        torch.nn.PReLU(4),
        torch.nn.ConvTranspose2d(4, 2, 3),
        torch.nn.Flatten(),
        torch.nn.Linear(200, 10),
    ).eval()
    update = compute_update(model, torch.rand(1, 1, 28, 28), torch.tensor([3]))
    knowledge = dataclasses.replace(
        knowledge, model=model, head=find_head(model, (1, 28, 28)), defense_kinds=("none",)
    )
    objective = prepare_objective(update, knowledge, settings)
    assert objective.matcher.has_kernels
    assert "no rule" in objective.path

    assert_gradients_are_autograds(objective)


def test_gradients_through_several_local_steps_are_autograds():
    assert_gradients_are_autograds(objective_of("inverting_gradients", "none", local_steps=3))


def test_gradients_near_the_minimum_keep_their_digits(monkeypatch):
    """Where a loss is far smaller than the numbers whose difference it is."""
    monkeypatch.setattr(matcher, "SMALL_MODEL", 0)
    matcher.make_matcher.cache_clear()
    plan = make_plan({"targets": 1, "attack": {"preset": "inverting_gradients"}}, source="test")
    lab, spec = build_lab(plan), trial_specs(plan)[0]
    observed, _ = observe(spec, lab, 0)
    objective = prepare_objective(observed, knowledge_of(spec, lab), spec.settings)
    objective = dataclasses.replace(objective, image_priors=())
    truth = 2 * lab.private.images[0].flatten() - 1
    latents = truth + 1e-3 * torch.randn(3, len(truth), generator=seeded(1))

    [scores] = evaluate_together([Evaluation(objective, latents, "gradients")])

    losses, gradients = by_autograd(objective, latents)
    assert losses.max() < 1e-4
    torch.testing.assert_close(scores.losses, losses, rtol=1e-3, atol=0)
    assert (scores.details - gradients).norm() < 1e-3 * gradients.norm()
    matcher.make_matcher.cache_clear()


def test_searches_together_have_the_gradients_they_have_alone():
    objectives = [objective_of(name, "none", images=1) for name in ("idlg", "inverting_gradients")]
    evaluations = [
        Evaluation(objective, latents_of(objective, candidates), "gradients")
        for objective, candidates in zip(objectives, (4, 8), strict=True)
    ]

    together = evaluate_together(evaluations)

    assert PRESETS["idlg"].space == "pixels"
    for one, scores in zip(evaluations, together, strict=True):
        [alone] = evaluate_together([one])
        assert torch.equal(scores.losses, alone.losses)
        assert torch.equal(scores.details, alone.details)
