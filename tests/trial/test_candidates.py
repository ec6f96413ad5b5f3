import dataclasses

import numpy as np
import pytest
import torch

from engine.attacks import AttackSettings
from engine.attacks.attack import lone_searcher, searched_space
from engine.federation.client import LocalTraining
from engine.trial import run_trial, search_seed
from engine.trial.candidates import conclude_trial, problem_of
from search_spaces.native import to_suggestion
from tests.trial.test_trial import lab, spec_of  # noqa: F401 # lab is a fixture.

BUDGET = 12
SETTINGS = AttackSettings(searcher="optuna:Random", searcher_settings={"population": 4})


def proposed(spec, problem):
    """Returns what the search of the spec would propose, its searcher being memoryless."""
    dim, seed = problem.space.dim, search_seed(spec)
    searcher = lone_searcher(spec.settings, dim=dim, budget=spec.budget, seed=seed)
    return np.concatenate([searcher.ask(4) for _ in range(BUDGET // 4)])


@pytest.mark.parametrize("attack", ["ggl", "shuffled", "random_best"])
@pytest.mark.parametrize(
    "defense",
    [(("none", {}),), (("gaussian_noise", {"std": 0.01}),), (("soteria", {"percent": 50}),)],
)
def test_candidates_one_by_one_have_the_result_of_the_whole_search(attack, defense, lab):  # noqa: F811
    spec = spec_of(attack, defense, budget=BUDGET, settings=SETTINGS)
    whole = run_trial(spec, lab)
    problem = problem_of(spec, lab)
    points = proposed(spec, problem)

    losses = [problem.loss_of(to_suggestion(problem.space, point)) for point in points]
    result = conclude_trial(spec, lab, points=points, losses=np.array(losses, dtype=np.float32))

    np.testing.assert_allclose(result.losses, whole.losses, rtol=1e-4)
    np.testing.assert_allclose(result.images, whole.images, atol=1e-6)
    assert result.metrics == pytest.approx(whole.metrics, rel=1e-4)
    assert (result.evaluations, result.population, result.chunk_size) == (BUDGET, 1, 1)
    assert [row[0] for row in result.trace] == list(range(1, BUDGET + 1))
    for name in ("labels", "inferred_labels", "imitation", "matching", "defense_change", "among"):
        assert getattr(result, name) == getattr(whole, name)


def test_candidates_of_several_images_and_steps_are_whole_batches(lab):  # noqa: F811
    spec = spec_of(budget=BUDGET, images=2, training=LocalTraining(2, 0.1), settings=SETTINGS)
    problem = problem_of(spec, lab)
    points = proposed(spec, problem)

    losses = [problem.loss_of(to_suggestion(problem.space, point)) for point in points]

    np.testing.assert_allclose(losses, run_trial(spec, lab).losses, rtol=1e-4)


def test_candidates_of_unsure_labels_choose_among_hypotheses(lab):  # noqa: F811
    settings = dataclasses.replace(SETTINGS, label_hypotheses=3)
    noise = (("gaussian_noise", {"std": 2.0}),)
    spec = spec_of(defense=noise, budget=BUDGET, settings=settings)
    problem = problem_of(spec, lab)
    points = proposed(spec, problem)

    suggestions = [to_suggestion(problem.space, point) for point in points]
    losses = np.array([problem.loss_of(one) for one in suggestions], dtype=np.float32)
    result = conclude_trial(spec, lab, points=points, losses=losses)

    labels = (problem.objective.labels, *problem.objective.other_labels)
    assert len(labels) == 3
    assert {one["labels"] for one in suggestions} == {0, 1, 2}
    best = suggestions[int(losses.argmin())]
    assert result.inferred_labels == labels[best["labels"]]
    assert result.loss == losses.min()


def test_a_candidate_costs_the_generator_its_own_images_alone(lab):  # noqa: F811
    made = []

    class Counting(torch.nn.Module):
        latent_dim, classes, image_shape = (
            lab.generator.latent_dim,
            lab.generator.classes,
            lab.generator.image_shape,
        )

        def forward(self, latents, labels):
            made.append(len(latents))
            return lab.generator(latents, labels)

    problem = problem_of(spec_of(settings=SETTINGS), dataclasses.replace(lab, generator=Counting()))
    made.clear()

    problem.objective.loss_alone(torch.zeros(1, 3))
    made.clear()
    problem.objective.loss_alone(torch.ones(1, 3))

    assert made == [1]


def test_the_problem_is_searched_in_the_space_of_the_attack(lab):  # noqa: F811
    settings = AttackSettings(space="random_embedding", space_settings={"directions": 2})
    spec = spec_of(settings=settings)
    problem = problem_of(spec, lab)

    expected = searched_space(problem.objective, settings, seed=search_seed(spec))

    point = torch.tensor([[0.2, 0.7]], dtype=torch.float64)
    assert torch.equal(problem.space.to_latents(point, "unit"), expected.to_latents(point, "unit"))
