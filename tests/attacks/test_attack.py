import dataclasses

import numpy as np
import pytest
import torch

from engine.attacks import (
    PRESETS,
    AttackSettings,
    History,
    prepare_objective,
    run_attack,
    run_search,
)
from engine.attacks import attack as attack_module
from engine.attacks.attack import check_settings, searched_space, searcher_of
from engine.attacks.searchers import RandomSearcher, make_searcher
from engine.attacks.spaces import entered
from engine.defenses import Clipping, GaussianNoise
from engine.errors import InputError, PlanError
from engine.federation import compute_update
from engine.generators.precision import in_precision
from tests.conftest import MappedGenerator, TinyMlp, build, seeded

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
        objective, PRESETS["default"], budget=60, seed=0, known=History(whole.losses[:28])
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


def test_hypotheses_of_the_label_are_one_search_where_it_is_certain(planted, knowledge):
    several = AttackSettings(label_hypotheses=4)
    objective = prepare_objective(planted, knowledge, several)

    found = run_attack(objective, several, budget=60, seed=0)

    alone = run_attack(objective, AttackSettings(label_hypotheses=1), budget=60, seed=0)
    assert objective.other_labels == ()
    np.testing.assert_array_equal(found.losses, alone.losses)
    assert torch.equal(found.latent, alone.latent)
    assert torch.equal(found.images, alone.images)


@pytest.mark.parametrize(
    ("searcher", "budget"), [("gauss_newton", 300), ("sepcma", 300), ("adam", 100)]
)
def test_a_search_finds_the_label_where_noise_hides_it_from_inference(
    planted, knowledge, searcher, budget
):
    """The whole update tells more of the class than the few entries inference reads."""
    knowledge = dataclasses.replace(knowledge, defense_kinds=("gaussian_noise",))
    settings = AttackSettings(searcher=searcher, label_hypotheses=4)
    inferred = found = 0
    for seed in range(8):
        observed = GaussianNoise(0.6)(planted, client=None, rng=seeded(seed))
        objective = prepare_objective(observed, knowledge, settings)

        labels = run_attack(objective, settings, budget=budget, seed=0).labels

        inferred += objective.labels == (2,)
        found += labels == (2,)
    assert inferred <= 6
    assert found == 8


def hypotheses_asked(observed, knowledge, settings, *, budget):
    """Returns, candidate by candidate, which hypothesis of the label a search asks for."""
    objective = prepare_objective(observed, knowledge, settings)
    space = searched_space(objective, settings, seed=0)
    searcher = searcher_of(settings, space, budget=budget, seed=0)
    asked = []

    class Watched:
        def scores(self, latents, wanted=None):
            asked.extend(latents[:, -1].int().tolist())
            return objective.scores(latents, wanted)

        def __call__(self, latents):
            return self.scores(latents).losses

    population = min(searcher.preferred_population, budget)
    run_search(Watched(), searcher, space, budget=budget, population=population)
    return asked


@pytest.fixture
def hidden(planted, knowledge):
    """An update whose noise leaves all four labels plausible, and who knows of it."""
    knowledge = dataclasses.replace(knowledge, defense_kinds=("gaussian_noise",))
    return GaussianNoise(0.6)(planted, client=None, rng=seeded(1)), knowledge


def test_every_hypothesis_is_searched_and_the_worse_half_stopped(hidden):
    asked = hypotheses_asked(*hidden, AttackSettings(), budget=600)

    spent = sorted(asked.count(choice) for choice in range(4))
    assert sum(spent) == 600
    assert spent[0] == spent[1]
    assert 45 <= spent[0] <= 70
    assert spent[3] > 2 * spent[2] > 2 * spent[1]


@pytest.mark.parametrize("restarts", [1, 2])
def test_searches_of_hypotheses_plan_as_one_alone_does(hidden, monkeypatch, restarts):
    """Nevergrad chooses by the budget: what a plan's check has built must be what is built."""
    planned = []

    def watched(name, *, budget, **arguments):
        planned.append(budget)
        return make_searcher(name, budget=budget, **arguments)

    monkeypatch.setattr(attack_module, "make_searcher", watched)

    hypotheses_asked(*hidden, AttackSettings(restarts=restarts), budget=300)

    assert len(planned) > 4 * restarts
    assert set(planned) == {300 // restarts}


@pytest.mark.parametrize(
    ("budget", "restarts", "searched"), [(13, 1, 1), (40, 1, 2), (63, 1, 4), (70, 2, 2)]
)
def test_as_many_hypotheses_are_searched_as_the_budget_has_a_generation_for(
    hidden, budget, restarts, searched
):
    asked = hypotheses_asked(*hidden, AttackSettings(restarts=restarts), budget=budget)

    assert len(asked) == budget
    assert set(asked) == set(range(searched))


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


def test_the_preset_for_biggan_squashes_latents_and_penalises_none():
    settings = PRESETS["ggl_biggan"]

    assert (settings.space, settings.regulariser, settings.regulariser_weight) == (
        "tanh",
        "none",
        0.0,
    )
    assert settings.searcher_settings["init"] == "uniform"
    for part in ("searcher", "label_inference", "distance", "published_code"):
        assert getattr(settings, part) == getattr(PRESETS["ggl"], part)


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
        ({"space": "shel"}, "Expected space to be one of: box, .*got 'shel'. Did you mean 'shell'"),
        ({"space_settings": {"bond": 2}}, "Unknown setting 'bond' of the space 'gaussian'"),
        ({"space": "principal"}, "The space 'principal' needs a value for: directions"),
        ({"space": "w"}, "Expected regulariser: none with space: w"),
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


def test_checking_settings_finds_an_unknown_optimizer(knowledge):
    with pytest.raises(PlanError, match="Unknown Nevergrad optimizer"):
        check_settings(AttackSettings(searcher="nevergrad:Nope"), knowledge, budget=10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"space_settings": {"bound": -1}}, "Expected bound > 0, got bound=-1"),
        (
            {"space": "principal", "space_settings": {"directions": 4}},
            "Expected directions between 1 and 3, the latent coordinates of an image",
        ),
        ({"space": "features"}, "Expected a generator with to_features and from_features"),
        (
            {"space": "w", "regulariser": "none", "regulariser_weight": 0.0},
            "Expected a generator with mapping and synthesise",
        ),
    ],
)
def test_checking_settings_finds_an_impossible_space(settings, message, knowledge):
    with pytest.raises(PlanError, match=message):
        check_settings(AttackSettings(**settings), knowledge, budget=10)


def test_a_searcher_of_the_unit_view_needs_a_bounded_space(knowledge, monkeypatch):
    monkeypatch.setattr(RandomSearcher, "view", "unit")

    check_settings(AttackSettings(searcher="random"), knowledge, budget=10)
    with pytest.raises(PlanError, match="bounded space for the searcher 'random', got space='raw'"):
        check_settings(AttackSettings(searcher="random", space="raw"), knowledge, budget=10)


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_the_presets_pass_the_check(preset, knowledge):
    check_settings(PRESETS[preset], knowledge, budget=10)


@pytest.mark.parametrize(
    ("space", "settings"),
    [
        ("box", {"half_width": 1.5}),
        ("shell", {}),
        ("principal", {"directions": 3}),
        ("random_embedding", {"directions": 3}),
    ],
)
def test_the_attack_finds_a_planted_image_in_every_space_that_holds_it(
    space, settings, planted, knowledge, generator
):
    attack = AttackSettings(space=space, space_settings=settings)
    objective = prepare_objective(planted, knowledge, attack)
    # The shell holds but one latent in each direction.
    latent = PLANTED * (3**0.5 / PLANTED.norm() if space == "shell" else 1)
    held = compute_update(knowledge.model, generator(latent, LABEL), LABEL)
    objective = dataclasses.replace(objective, observed=held)

    found = run_attack(objective, attack, budget=600, seed=0)

    assert found.loss < 0.01 * median_prior_loss(objective)
    torch.testing.assert_close(found.latent, latent, rtol=0, atol=0.15)


def test_a_search_in_a_subspace_has_as_many_coordinates_as_directions(
    planted, knowledge, monkeypatch
):
    asked = []
    monkeypatch.setattr(
        attack_module,
        "make_searcher",
        lambda *names, dim, **rest: asked.append(dim) or make_searcher(*names, dim=dim, **rest),
    )
    attack = AttackSettings(space="principal", space_settings={"directions": 2})
    objective = prepare_objective(planted, knowledge, attack)

    found = run_attack(objective, attack, budget=20, seed=0)

    assert asked == [2]
    assert found.latent.shape == (1, 3)
    assert torch.linalg.matrix_rank(found.latent) == 1


def test_the_images_of_a_client_each_have_a_subspace(model, knowledge, generator):
    labels = torch.tensor([0, 2])
    images = generator(torch.randn(2, 3, generator=seeded(0)), labels)
    update = compute_update(model, images, labels, images_per_client=2)
    attack = AttackSettings(space="principal", space_settings={"directions": 2})
    knowledge = dataclasses.replace(knowledge, images_per_client=2)

    check_settings(attack, knowledge, budget=20)
    found = run_attack(prepare_objective(update, knowledge, attack), attack, budget=20, seed=0)

    assert found.latent.shape == (1, 6)
    assert found.images.shape == (2, 1, 12, 12)


def test_the_attack_finds_a_planted_image_among_mapped_latents(model, knowledge):
    generator = build(MappedGenerator, 2)
    mapped = generator.mapping(torch.tensor([[0.8, -0.5]]), LABEL)
    observed = compute_update(model, generator.synthesise(mapped, LABEL), LABEL)
    knowledge = dataclasses.replace(
        knowledge, generate=in_precision(generator, "float32"), latent_dim=2
    )
    attack = AttackSettings(space="w", regulariser="none", regulariser_weight=0.0)
    check_settings(attack, knowledge, budget=600)
    objective = prepare_objective(observed, knowledge, attack)

    found = run_attack(objective, attack, budget=600, seed=0)

    assert found.loss < 0.01 * median_prior_loss(objective)
    torch.testing.assert_close(found.latent, mapped, rtol=0, atol=0.15)


@pytest.fixture
def split(knowledge):
    """What an attacker knows whose generator can be split."""
    return dataclasses.replace(knowledge, generate=in_precision(build(TinyMlp, 2), "float32"))


def beyond(split, latents, labels):
    """Returns images that the generator has no latents for: of features, moved."""
    return entered("features", {"directions": 2}, split).generate(latents, labels)


def test_the_attack_finds_an_image_out_of_the_generators_range_by_its_features(model, split):
    planted = torch.tensor([[0.3, -0.7, 0.9, 3.0, -2.5]])
    image = beyond(split, planted, LABEL)
    observed = compute_update(model, image, LABEL)
    found = {}

    for attack in (
        AttackSettings(),
        AttackSettings(space="features", space_settings={"directions": 2}),
    ):
        check_settings(attack, split, budget=1500)
        objective = prepare_objective(observed, split, attack)
        found[attack.space] = run_attack(objective, attack, budget=1500, seed=0)

    assert found["features"].loss < 0.01 * found["gaussian"].loss
    torch.testing.assert_close(found["features"].latent, planted, rtol=0, atol=0.15)
    errors = {space: (one.images - image).square().mean() for space, one in found.items()}
    assert errors["features"] < 0.01 * errors["gaussian"]


def test_the_images_of_a_client_each_have_moves_of_their_own(model, split):
    labels = torch.tensor([0, 2])
    planted = torch.tensor([[0.3, -0.7, 0.9, 3.0, 0.0], [1.0, 0.2, -0.4, 0.0, -2.5]])
    images = beyond(split, planted, labels)
    observed = compute_update(model, images, labels, images_per_client=2)
    split = dataclasses.replace(split, images_per_client=2)
    attack = AttackSettings(space="features", space_settings={"directions": 2})
    check_settings(attack, split, budget=3000)
    objective = prepare_objective(observed, split, attack)

    found = run_attack(objective, attack, budget=3000, seed=0)

    assert float(objective(planted.view(1, 10))) == pytest.approx(0, abs=1e-9)
    torch.testing.assert_close(found.images, images, rtol=0, atol=0.05)


def test_moves_of_features_are_regularised_as_latents_are(observed, split):
    attack = AttackSettings(
        space="features", space_settings={"directions": 2}, regulariser_weight=0.5
    )
    objective = prepare_objective(observed, split, attack)
    latents = torch.tensor([[0.0, 0.0, 0.0, 2.0, -1.0]])

    penalty = objective(latents) - dataclasses.replace(objective, regulariser_weight=0.0)(latents)

    torch.testing.assert_close(penalty, torch.tensor([0.5 * 5.0]))


def test_adam_goes_down_the_gradient_by_features_too(model, split):
    planted = torch.tensor([[0.3, -0.7, 0.9, 3.0, -2.5]])
    observed = compute_update(model, beyond(split, planted, LABEL), LABEL)
    attack = AttackSettings(searcher="adam", space="features", space_settings={"directions": 2})
    objective = prepare_objective(observed, split, attack)

    found = run_attack(objective, attack, budget=400, seed=0)

    assert found.loss < 0.1 * np.median(found.losses[: found.population])


@pytest.mark.parametrize("space", ["gaussian", "tanh", "shell", "box"])
def test_adam_goes_down_the_gradient_in_any_space(planted, knowledge, space):
    attack = AttackSettings(searcher="adam", space=space)
    objective = prepare_objective(planted, knowledge, attack)

    found = run_attack(objective, attack, budget=400, seed=0)

    assert found.loss < 0.1 * np.median(found.losses[: found.population])
    assert objective(found.latent).item() == pytest.approx(found.loss, rel=1e-3)
