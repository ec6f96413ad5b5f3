import dataclasses
import math
import time

import numpy as np
import pytest
import torch

import engine.trial.trial
from engine.attacks import PRESETS, AttackSettings, History
from engine.defenses.sparsification import KnownMask
from engine.errors import PlanError
from engine.federation import compute_update
from engine.federation.private_images import PrivateImages
from engine.lab import build_lab
from engine.plan import make_plan
from engine.scoring.evaluation_classifier import EvaluationClassifier
from engine.scoring.variants import CONTROLS
from engine.trial import knowledge_of, observe, run_trial, run_trials
from engine.trial.parts import Lab, TrialSpec
from engine.trial.record import to_record
from tests.conftest import CLASSES, IMAGE_SHAPE, MappedGenerator, TinyMlp, build, seeded

ATTACKS = ("ggl", *CONTROLS)
LABELS = torch.tensor([2, 0, 2, 1])
PLANTED = torch.tensor([[0.3, -0.7, 0.9], [1.0, 0.2, -0.4], [-0.8, 0.0, 1.1], [0.1, -1.2, 0.5]])


def random_images(generator, seed):
    """Private images the generator can draw, and distractors it cannot."""
    latents = PLANTED if seed == 0 else torch.randn(4, 3, generator=seeded(seed))
    return PrivateImages(
        images=generator(latents, LABELS),
        labels=LABELS,
        distractor_images=torch.rand(12, *IMAGE_SHAPE, generator=seeded(seed + 1)),
        distractor_labels=torch.arange(12) % CLASSES,
    )


@pytest.fixture(scope="module")
def lab(model, head, generator):
    return Lab(
        model=model,
        head=head,
        generator=generator,
        private=random_images(generator, 0),
        classifier=build(lambda: EvaluationClassifier(image_shape=IMAGE_SHAPE, classes=CLASSES), 4),
    )


@pytest.fixture(scope="module")
def embedded():
    """The lab of the default plan: layers of such sizes that the last candidate is as any other."""
    return build_lab(make_plan({}, source="test"))


def spec_of(attack="ggl", defense=(("none", {}),), **changes):
    settings = AttackSettings(searcher="random" if attack == "random_best" else "nevergrad")
    values = {"target": 0, "budget": 70, "seed": 0, "settings": settings, **changes}
    return TrialSpec(**{"id": "t", "attack": attack, "defense": defense, **values})


def assert_equal_results(first, second):
    for field in dataclasses.fields(first):
        if field.name not in ("wall_s", "restored"):
            np.testing.assert_equal(getattr(first, field.name), getattr(second, field.name))


def test_the_attack_recovers_a_planted_private_image(lab):
    result = run_trial(spec_of(budget=600), lab)

    assert result.metrics["psnr"] > 40
    assert result.hits == {"top1": 1.0, "top5": 1.0, "top1_features": 1.0, "top5_features": 1.0}
    assert result.among == 4
    assert (result.labels, result.inferred_labels) == ((2,), (2,))
    assert result.metrics["label_accuracy"] == 1.0
    assert result.defense_change == 0
    assert result.imitation == "nothing to imitate"
    assert result.matching == "kernels"
    assert (result.population, result.chunk_size) == (14, 14)


@pytest.mark.parametrize("attack", ATTACKS)
def test_every_attack_gives_a_whole_result(attack, lab):
    result = run_trial(spec_of(attack), lab)

    searched = attack in ("ggl", "shuffled", "random_best")
    assert result.evaluations == len(result.losses) == (70 if searched else 0)
    assert (result.loss is None) == (not searched)
    assert result.nonfinite == 0
    assert result.images.shape == (1, *IMAGE_SHAPE)
    assert 0 <= result.images.min() <= result.images.max() <= 1
    assert all(math.isfinite(value) for value in result.metrics.values())
    assert set(result.metrics) == {
        "mse",
        "psnr",
        "ssim",
        "mse_r",
        "feature_distance",
        "label_accuracy",
    }
    assert result.wall_s > 0


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("space", ["shell", "principal", "random_embedding", "features", "w"])
@pytest.mark.parametrize("images", [1, 2])
def test_every_attack_gives_a_whole_result_in_every_space(attack, space, images, lab):
    kind = TinyMlp if space == "features" else MappedGenerator
    fitting = dataclasses.replace(lab, generator=build(kind, 6))
    settings = AttackSettings(
        searcher="random" if attack == "random_best" else "gauss_newton",
        space=space,
        space_settings={} if space in ("shell", "w") else {"directions": 2},
        regulariser="none",
        regulariser_weight=0.0,
    )

    spec = spec_of(attack, settings=settings, images=images)
    [[result]] = run_trials([spec], fitting)

    assert not isinstance(result.result, Exception), result.result
    assert result.result.images.shape == (images, *IMAGE_SHAPE)
    assert all(math.isfinite(value) for value in result.result.metrics.values())


@pytest.mark.parametrize(
    ("space", "settings", "kind"),
    [("w", {}, MappedGenerator), ("features", {"directions": 2}, TinyMlp)],
)
def test_draws_from_the_prior_are_the_same_whatever_space_is_searched(space, settings, kind, lab):
    fitting = dataclasses.replace(lab, generator=build(kind, 6))
    plain = AttackSettings(regulariser="none", regulariser_weight=0.0)
    searched = dataclasses.replace(plain, space=space, space_settings=settings)

    first, second = (
        run_trial(spec_of("prior_only", settings=some), fitting) for some in (plain, searched)
    )

    assert_equal_results(first, second)


@pytest.mark.parametrize("attack", ATTACKS)
def test_equal_specs_give_equal_results(attack, lab):
    defense = (("gaussian_noise", {"std": 0.01}),)

    assert_equal_results(
        run_trial(spec_of(attack, defense), lab), run_trial(spec_of(attack, defense), lab)
    )


def test_the_id_of_a_trial_changes_nothing(lab):
    renamed = dataclasses.replace(spec_of(), id="another")

    assert_equal_results(run_trial(spec_of(), lab), run_trial(renamed, lab))


@pytest.mark.parametrize("attack", ["ggl", "shuffled", "random_best", "prior_only"])
def test_different_seeds_give_different_results(attack, lab):
    first, second = (run_trial(spec_of(attack, seed=seed), lab) for seed in (0, 1))

    assert not np.array_equal(first.images, second.images)


def test_a_resumed_trial_equals_an_uninterrupted_one(lab):
    whole = run_trial(spec_of(), lab)

    resumed = run_trial(spec_of(), lab, known=History(whole.losses[:28]))

    assert_equal_results(whole, resumed)
    assert (whole.restored, resumed.restored) == (0, 28)


def several_specs():
    """Trials of all sorts, with different targets, labels, defenses, searchers and budgets."""
    noise, pruned = ("gaussian_noise", {"std": 0.01}), ("sparsification", {"percent": 50})
    kinds = [
        ("ggl", (("none", {}),), 70),
        ("random_best", (noise,), 130),
        ("prior_only", (("none", {}),), 70),
        ("shuffled", (pruned,), 45),
        ("oracle", (("none", {}),), 70),
        ("ggl", (("clipping", {"max_norm": 0.5}), pruned), 70),
    ]
    return [
        dataclasses.replace(
            spec_of(attack, defense, target=place % 4, budget=budget), id=f"trial{place}"
        )
        for place, (attack, defense, budget) in enumerate(kinds)
    ]


def test_trials_run_together_have_the_results_they_have_alone(embedded):
    specs = several_specs()

    together = [outcome for batch in run_trials(specs, embedded) for outcome in batch]

    assert sorted(outcome.spec.id for outcome in together) == [spec.id for spec in specs]
    matchings = {outcome.spec.id: outcome.result.matching for outcome in together}
    assert matchings["trial0"] == matchings["trial3"] == "kernels"
    assert matchings["trial5"].startswith("one update a candidate")
    for outcome in together:
        assert_equal_results(outcome.result, run_trial(outcome.spec, embedded))


def test_trials_run_together_resume_and_report_each_by_its_own_name(embedded):
    specs, seen = several_specs()[:2], []
    known = {specs[1].id: History(run_trial(specs[1], embedded).losses[:64])}

    batches = run_trials(specs, embedded, known=known, on_batch=lambda *news: seen.append(news))
    results = {outcome.spec.id: outcome.result for batch in batches for outcome in batch}

    assert_equal_results(results[specs[1].id], run_trial(specs[1], embedded))
    assert [p.evaluations for name, p in seen if name == specs[0].id] == [28, 56, 70]
    assert [p.evaluations for name, p in seen if name == specs[1].id] == [64, 128, 130]


def test_a_trial_that_fails_leaves_those_beside_it_alone(embedded, monkeypatch):
    def fail(*_):
        raise ValueError("this defense cannot be imitated")

    specs = several_specs()
    monkeypatch.setattr(KnownMask, "masked_scaling", lambda _: None)
    monkeypatch.setattr(KnownMask, "__call__", fail)

    outcomes = {o.spec.id: o.result for batch in run_trials(specs, embedded) for o in batch}

    failed = [name for name, result in outcomes.items() if isinstance(result, ValueError)]
    assert failed == ["trial3", "trial5"]
    assert_equal_results(outcomes["trial0"], run_trial(specs[0], embedded))
    with pytest.raises(ValueError, match="cannot be imitated"):
        run_trial(specs[3], embedded)


def test_what_trials_share_is_counted_once(embedded):
    started = time.monotonic()
    results = [o.result for batch in run_trials(several_specs(), embedded) for o in batch]
    wall = time.monotonic() - started

    assert sum(result.wall_s for result in results) <= wall


def test_progress_is_passed_on(lab):
    seen = []

    run_trial(spec_of(), lab, on_batch=seen.append)

    assert [progress.evaluations for progress in seen] == [14, 28, 42, 56, 70]


def test_the_trace_ends_with_the_result(lab):
    result = run_trial(spec_of(), lab)

    evaluations, loss, psnr = result.trace[-1]
    assert evaluations == 70
    assert loss == result.loss
    assert psnr == pytest.approx(result.metrics["psnr"])
    losses = [row[1] for row in result.trace]
    assert losses == sorted(losses, reverse=True)
    for evaluations, loss, _ in result.trace:
        assert loss == result.losses[:evaluations].min()


@pytest.mark.parametrize("attack", ["ggl", "shuffled", "random_best", "prior_only"])
def test_private_images_reach_no_attack_but_through_the_observed_update(
    attack, lab, generator, monkeypatch
):
    observed = observe(spec_of(), lab, 0)
    monkeypatch.setattr(engine.trial.trial, "observe", lambda *_: observed)
    others = random_images(generator, 50)
    elsewhere = dataclasses.replace(
        lab,
        private=dataclasses.replace(others, labels=LABELS.flip(0), images=others.images.flip(1)),
    )

    here, there = run_trial(spec_of(attack), lab), run_trial(spec_of(attack), elsewhere)

    np.testing.assert_array_equal(here.images, there.images)
    np.testing.assert_array_equal(here.losses, there.losses)
    assert here.inferred_labels == there.inferred_labels
    assert here.metrics["mse"] != there.metrics["mse"]


def test_the_parameters_of_a_defense_reach_no_attack(lab):
    # Neither bound binds, so both observed updates are equal.
    first, second = (
        run_trial(spec_of(defense=(("clipping", {"max_norm": bound}),)), lab)
        for bound in (1e3, 1e6)
    )

    assert_equal_results(first, second)


def test_the_attacker_knows_the_kinds_of_the_defenses_only(lab):
    chain = (("clipping", {"max_norm": 0.3}), ("gaussian_noise", {"std": 0.01}))

    assert knowledge_of(spec_of(defense=chain), lab).defense_kinds == ("clipping", "gaussian_noise")


def test_the_observed_update_is_the_defended_one_of_the_victim(lab):
    chain = (("sparsification", {"percent": 60}), ("clipping", {"max_norm": 0.01}))

    observed, change = observe(spec_of(defense=chain), lab, 1)

    update = compute_update(lab.model, lab.private.images[1:2], lab.private.labels[1:2])
    flat = np.concatenate([t.numpy().ravel() for t in update.tensors.values()])
    defended = np.concatenate(
        [
            np.where(np.abs(t.numpy()) < np.percentile(np.abs(t.numpy()), 60), 0, t.numpy()).ravel()
            for t in update.tensors.values()
        ]
    )
    defended *= 0.01 / (np.linalg.norm(defended) + 1e-6)
    found = np.concatenate([t.numpy().ravel() for t in observed.tensors.values()])
    np.testing.assert_allclose(found, defended, rtol=1e-4, atol=1e-8)
    expected = np.linalg.norm(defended - flat) / np.linalg.norm(flat)
    assert change == pytest.approx(expected, rel=1e-4)


def test_the_noise_of_a_defense_depends_on_seed_and_victim_alone(lab):
    chain = (("gaussian_noise", {"std": 1.0}),)

    def noise(attack, seed, victim):
        observed, _ = observe(spec_of(attack, chain, seed=seed), lab, victim)
        update = compute_update(
            lab.model, lab.private.images[[victim]], lab.private.labels[[victim]]
        )
        return observed.tensors["readout.bias"] - update.tensors["readout.bias"]

    torch.testing.assert_close(noise("ggl", 0, 1), noise("prior_only", 0, 1))
    assert not torch.allclose(noise("ggl", 0, 1), noise("ggl", 1, 1))
    assert not torch.allclose(noise("ggl", 0, 1), noise("ggl", 0, 2))


def test_the_shuffled_control_attacks_another_image_of_the_class(lab):
    result = run_trial(spec_of("shuffled", budget=600), lab)

    donor = lab.private.images[2].numpy()
    assert np.abs(result.images - donor).max() < 0.1
    assert result.metrics["label_accuracy"] == 1.0
    assert result.metrics["mse"] == pytest.approx(
        float(np.square(result.images - lab.private.images[0].numpy()).mean())
    )


def test_the_oracle_is_no_worse_than_any_other_attack(lab):
    errors = {attack: run_trial(spec_of(attack), lab).metrics["mse"] for attack in ATTACKS}

    assert min(errors, key=errors.get) == "oracle"
    assert errors["ggl"] < errors["prior_only"]


def test_metrics_of_the_prior_are_averaged_over_its_draws(lab):
    result = run_trial(spec_of("prior_only"), lab)

    truth = lab.private.images[0].numpy()
    assert result.metrics["mse"] != pytest.approx(float(np.square(result.images - truth).mean()))
    assert 0 < result.hits["top1"] < 1 or 0 < result.hits["top1_features"] < 1


def test_the_label_is_scored_against_the_true_one(lab):
    # Noise this strong drowns the label of the update.
    results = [
        run_trial(spec_of("prior_only", (("gaussian_noise", {"std": 50.0}),), seed=seed), lab)
        for seed in range(6)
    ]

    for result in results:
        assert result.labels == (2,)
        assert result.metrics["label_accuracy"] == float(result.inferred_labels == (2,))
    assert any(result.inferred_labels != (2,) for result in results)


def test_trials_are_labelled_by_their_defenses():
    chain = (("clipping", {"max_norm": 4}), ("none", {}))

    assert spec_of(defense=chain).defense_label == "clipping(max_norm=4) + none"


def test_a_wrong_defense_is_refused():
    with pytest.raises(PlanError, match="Unknown defense 'cliping'"):
        spec_of(defense=(("cliping", {}),)).chain()


def test_nothing_of_the_lab_is_changed(lab):
    state = {name: tensor.clone() for name, tensor in lab.model.state_dict().items()}
    images = lab.private.images.clone()

    for attack in ATTACKS:
        run_trial(spec_of(attack, (("soteria", {"percent": 40}),), budget=20), lab)

    assert torch.equal(lab.private.images, images)
    for name, tensor in lab.model.state_dict().items():
        assert torch.equal(tensor, state[name])


def test_in_another_precision_the_attack_has_other_images_and_the_oracle_the_same(lab):
    def run(attack, precision):
        return run_trial(dataclasses.replace(spec_of(attack, budget=40), precision=precision), lab)

    losses = {name: run("ggl", name).losses for name in ("float32", "bfloat16")}
    oracles = [run("oracle", name).images for name in ("float32", "bfloat16")]

    assert not np.array_equal(losses["float32"], losses["bfloat16"])
    np.testing.assert_allclose(losses["bfloat16"][:8], losses["float32"][:8], rtol=0.1)
    assert np.array_equal(*oracles)


def test_a_search_that_is_cut_short_says_so_in_its_record(lab):
    settings = AttackSettings(searcher="random", max_seconds=1e-9)
    hurried, whole = spec_of(settings=settings, budget=70), spec_of("random_best", budget=70)

    assert to_record(hurried, run_trial(hurried, lab))["cut_short"]
    assert not to_record(whole, run_trial(whole, lab))["cut_short"]


@pytest.mark.parametrize("scheduler", ["none", "halving", "median"])
def test_restarts_have_the_same_result_in_company_and_after_an_interruption(scheduler, embedded):
    settings = AttackSettings(restarts=4, scheduler=scheduler)
    specs = [
        dataclasses.replace(spec_of(settings=settings, budget=280, target=target), id=f"{target}")
        for target in (0, 1)
    ]
    alone = [run_trial(spec, embedded) for spec in specs]
    known = {"0": History(alone[0].losses[:100])}

    together = [one for some in run_trials(specs, embedded, known=known) for one in some]

    for outcome in together:
        assert_equal_results(outcome.result, alone[int(outcome.spec.id)])


def test_different_attacks_in_turn_have_the_results_they_have_alone(embedded):
    specs = [
        spec_of(name, budget=40, settings=PRESETS[name], target=target, id=f"{name}{target}")
        for name in ("dlg", "ggl", "inverting_gradients", "gradinversion", "default")
        for target in (0, 1)
    ]

    together = {one.spec.id: one.result for some in run_trials(specs, embedded) for one in some}

    for spec in specs:
        assert_equal_results(together[spec.id], run_trial(spec, embedded))


def test_pixels_without_a_box_are_scored_as_images(embedded):
    spec = spec_of("dlg", budget=8, settings=PRESETS["dlg"])

    found = run_trial(spec, embedded)

    assert found.images.min() >= 0
    assert found.images.max() <= 1
    assert found.matching == "one update a candidate, differentiated"


def test_attacks_of_other_names_start_alike_and_share_a_floor(embedded):
    settings = PRESETS["inverting_gradients"]
    named = [spec_of(name, budget=24, settings=settings) for name in ("a", "b")]
    adaptive = spec_of("c", budget=24, settings=dataclasses.replace(settings, adaptive=True))
    floors = [spec_of("prior_only", settings=PRESETS[name]) for name in ("ggl", "default", "dlg")]

    first, second, third = (run_trial(spec, embedded) for spec in (*named, adaptive))
    images = [run_trial(spec, embedded).images for spec in floors]

    assert_equal_results(first, second)
    np.testing.assert_array_equal(first.losses, third.losses)  # Undefended they are the same.
    np.testing.assert_array_equal(images[0], images[1])
    np.testing.assert_array_equal(images[0], images[2])
