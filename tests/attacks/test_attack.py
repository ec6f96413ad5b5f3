import dataclasses

import numpy as np
import pytest
import torch

from engine.attacks import PRESETS, AttackSettings, prepare_objective, run_attack
from engine.attacks.attack import check_settings
from engine.defenses import Clipping, GaussianNoise
from engine.errors import InputError, PlanError
from engine.federation import compute_update
from tests.conftest import seeded

PLANTED = torch.tensor([[0.3, -0.7, 0.9]])
LABEL = torch.tensor([2])


@pytest.fixture
def planted(model, generator):
    """The update of a private image that the generator can draw."""
    return compute_update(model, generator(PLANTED, LABEL), LABEL)


def median_prior_loss(objective):
    return float(objective(torch.randn(64, 3, generator=seeded(0))).median())


def test_the_default_attack_recovers_a_planted_image(planted, knowledge, generator):
    settings = PRESETS["default"]
    objective = prepare_objective(planted, knowledge, settings)

    found = run_attack(objective, settings, budget=600, seed=0)

    assert found.loss < 0.01 * median_prior_loss(objective)
    assert (found.images - generator(PLANTED, LABEL)).abs().max() < 0.1
    torch.testing.assert_close(objective.generate(found.latent), found.images)
    torch.testing.assert_close(objective(found.latent), torch.tensor([found.loss]))
    assert found.losses.shape == (600,)
    assert found.loss == found.losses.min()


def test_the_attack_of_the_published_code_comes_near_a_planted_image(planted, knowledge):
    # Its regulariser stays; the matching part of the loss is what must shrink.
    settings = PRESETS["ggl"]
    objective = prepare_objective(planted, knowledge, settings)

    found = run_attack(objective, settings, budget=1500, seed=0)

    matching = dataclasses.replace(objective, regulariser_weight=0.0)
    assert float(matching(found.latent)) < 0.25 * median_prior_loss(matching)


@pytest.mark.parametrize("defense", [Clipping(max_norm=0.05)])
def test_the_default_attack_recovers_a_planted_image_behind_clipping(planted, knowledge, defense):
    observed = defense(planted, client=None, rng=None)
    knowledge = dataclasses.replace(knowledge, defense_kinds=("clipping",))
    objective = prepare_objective(observed, knowledge, PRESETS["default"])

    found = run_attack(objective, PRESETS["default"], budget=600, seed=0)

    assert found.loss < 0.01 * median_prior_loss(objective)
    assert (found.images - objective.generate(PLANTED)).abs().max() < 0.1


def test_equal_seeds_agree_and_different_seeds_differ(planted, knowledge):
    objective = prepare_objective(planted, knowledge, PRESETS["default"])

    first, second, other = (
        run_attack(objective, PRESETS["default"], budget=40, seed=seed) for seed in (0, 0, 1)
    )

    np.testing.assert_array_equal(first.losses, second.losses)
    assert torch.equal(first.images, second.images)
    assert not np.array_equal(first.losses, other.losses)


def test_an_interrupted_attack_resumes_to_the_same_end(planted, knowledge):
    objective = prepare_objective(planted, knowledge, PRESETS["default"])
    whole = run_attack(objective, PRESETS["default"], budget=60, seed=0)

    resumed = run_attack(
        objective, PRESETS["default"], budget=60, seed=0, known_losses=whole.losses[:28]
    )

    np.testing.assert_array_equal(resumed.losses, whole.losses)
    assert torch.equal(resumed.images, whole.images)


def test_an_attack_without_a_finite_loss_is_refused(planted, knowledge):
    broken = planted.map(lambda tensor: tensor * float("nan"))
    objective = prepare_objective(broken, knowledge, PRESETS["default"])

    with pytest.raises(InputError, match="at least one finite loss among 20 candidates"):
        run_attack(objective, PRESETS["default"], budget=20, seed=0)


def test_an_attacker_may_expect_no_defense_at_all(planted, knowledge):
    knowledge = dataclasses.replace(knowledge, defense_kinds=())
    objective = prepare_objective(planted, knowledge, PRESETS["default"])

    assert float(objective(PLANTED)) == pytest.approx(0, abs=1e-6)


def test_the_label_is_inferred_from_the_observed_update(planted, knowledge):
    for rule in ("bias", "row_sum"):
        settings = AttackSettings(label_inference=rule)

        assert prepare_objective(planted, knowledge, settings).labels == (2,)


def test_the_posterior_weight_is_the_estimated_variance_over_the_tensors(planted, knowledge):
    knowledge = dataclasses.replace(knowledge, defense_kinds=("gaussian_noise",))
    observed = GaussianNoise(0.4)(planted, client=None, rng=seeded(0))

    objective = prepare_objective(observed, knowledge, PRESETS["default"])

    entries = np.concatenate([tensor.numpy().ravel() for tensor in observed.tensors.values()])
    deviation = np.sort(np.abs(entries))[(len(entries) - 1) // 2] / 0.6744897501960817
    assert objective.regulariser_weight == pytest.approx(deviation**2 / 6)
    latents = torch.randn(3, 3, generator=seeded(1))
    matching = dataclasses.replace(objective, regulariser_weight=0.0)
    expected = matching(latents) + deviation**2 / 6 * latents.square().sum(1)
    torch.testing.assert_close(objective(latents), expected)


def test_without_noise_the_posterior_weight_is_zero(planted, knowledge):
    assert prepare_objective(planted, knowledge, PRESETS["default"]).regulariser_weight == 0


def test_a_given_weight_is_taken_as_it_is(planted, knowledge):
    settings = AttackSettings(regulariser="norm", regulariser_weight=0.3)

    assert prepare_objective(planted, knowledge, settings).regulariser_weight == 0.3


def test_the_preset_of_the_published_code_is_to_its_letter():
    settings = PRESETS["ggl"]

    assert settings.searcher == "nevergrad:OldCMA"
    assert settings.searcher_settings == {
        "population": 50,
        "workers": 1,
        "planned_budget": 500,
        "init": "zeros",
    }
    assert (settings.space, settings.label_inference) == ("raw", "row_sum")
    assert (settings.distance, settings.regulariser) == ("squared_l2", "kl")
    assert settings.regulariser_weight == 0.1
    assert settings.published_code


@pytest.mark.parametrize("kinds", [("gaussian_noise",), ("sparsification",), ("soteria",)])
def test_the_published_code_is_passed_on_to_the_estimates(kinds, planted, knowledge):
    knowledge = dataclasses.replace(knowledge, defense_kinds=kinds)

    weight = planted.tensors["readout.weight"].clone()
    weight[:, 0] = 0
    observed = planted.replace(**{"readout.weight": weight})

    imitations = [
        prepare_objective(observed, knowledge, AttackSettings(published_code=published)).imitate
        for published in (False, True)
    ]

    assert str(imitations[0]) != str(imitations[1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"space": "sphere"}, "Expected space to be one of: gaussian, raw, tanh"),
        ({"label_inference": "given"}, "Expected label_inference to be one of: bias, row_sum"),
        ({"distance": "l1"}, "Expected distance to be one of: cosine, squared_l2"),
        ({"regulariser": "tv"}, "Expected regulariser to be one of: kl, none, norm, prior"),
        ({"regulariser_weight": -1}, "Expected regulariser_weight between 0"),
        ({"regulariser_weight": "a lot"}, "Expected regulariser_weight between 0"),
        ({"distance": "cosine"}, "posterior, got 'cosine' and 'prior'. Give a number"),
        ({"regulariser": "kl"}, "posterior, got 'squared_l2' and 'kl'. Give a number"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(PlanError, match=message):
        AttackSettings(**settings)


def test_checking_settings_finds_an_unknown_optimizer():
    with pytest.raises(PlanError, match="Unknown Nevergrad optimizer"):
        check_settings(AttackSettings(searcher="nevergrad:Nope"), latent_dim=3, budget=10)


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_the_presets_pass_the_check(preset):
    check_settings(PRESETS[preset], latent_dim=3, budget=10)
