import numpy as np
import pytest

from engine.scoring.groups import summarise_groups as summarise_named
from engine.scoring.statistics import estimate_mean, estimate_proportion
from engine.scoring.variants import with_names


def result(attack, target, psnr, *, defense="none", top1=0.0, **changes):
    return {
        "defense": defense,
        "attack": attack,
        "of": "ggl" if attack == "shuffled" else None,
        "searcher": None if attack in ("prior_only", "oracle") else "sepcma",
        "target": target,
        "evaluations": 100,
        "wall_s": 1.0 + target,
        "defense_change": 0.5,
        "among": 100,
        "metrics": {"psnr": psnr, "mse": 10 ** (-psnr / 10), "label_accuracy": 1.0},
        "hits": {"top1": top1, "top5": 1.0, "top1_features": 0.0, "top5_features": 0.5},
    } | changes


ATTACKED, FLOOR, CEILING = (18.0, 20.0, 17.0), (10.0, 12.0, 11.0), (25.0, 26.0, 22.0)
RESULTS = [
    *(result("ggl", t, psnr, top1=float(t > 0)) for t, psnr in enumerate(ATTACKED)),
    *(result("prior_only", t, psnr) for t, psnr in enumerate(FLOOR)),
    *(result("oracle", t, psnr, defense="any") for t, psnr in enumerate(CEILING)),
]


def group_of(results, defense, attack, searcher=None):
    [found] = [
        group
        for group in summarise_groups(results)
        if (group["defense"], group["attack"]) == (defense, attack)
        and searcher in (None, group["searcher"])
    ]
    return found


def summarise_groups(results):
    return summarise_named(with_names(results))


def bounds_of(estimate):
    return [estimate[name] for name in ("mean", "low", "high")]


def test_there_is_one_group_for_each_defense_and_attack_in_order():
    groups = summarise_groups(RESULTS)

    names = [(group["defense"], group["attack"], group["n"]) for group in groups]
    assert names == [("none", "ggl", 3), ("none", "prior_only", 3), ("any", "oracle", 3)]


def test_a_metric_has_its_mean_its_interval_and_the_value_that_leaks_most():
    group = group_of(RESULTS, "none", "ggl")

    psnr = group["metrics"]["psnr"]
    expected = estimate_mean(np.array(ATTACKED))
    assert (psnr["mean"], psnr["low"], psnr["high"]) == (
        expected.mean,
        expected.low,
        expected.high,
    )
    assert psnr["worst"] == 20.0
    assert group["metrics"]["mse"]["worst"] == pytest.approx(10**-2)


def test_the_leakage_fraction_joins_attack_floor_and_ceiling_by_target():
    shuffled = RESULTS[::-1]

    fraction = group_of(shuffled, "none", "ggl")["leakage_fraction"]
    assert fraction["mean"] == pytest.approx((8 + 8 + 6) / (15 + 14 + 11))
    assert group_of(shuffled, "none", "prior_only")["leakage_fraction"]["mean"] == 0
    assert group_of(shuffled, "any", "oracle")["leakage_fraction"] is None


def test_a_target_without_its_floor_is_left_out_of_the_fraction():
    partial = [r for r in RESULTS if (r["attack"], r["target"]) != ("prior_only", 2)]

    fraction = group_of(partial, "none", "ggl")["leakage_fraction"]
    assert fraction["mean"] == pytest.approx((8 + 8) / (15 + 14))


def test_identification_is_by_pixels_with_chance_and_features_beside_it():
    identified = group_of(RESULTS, "none", "ggl")["identification"]

    assert identified["top1"] == pytest.approx(2 / 3)
    assert identified["low"] < 2 / 3 < identified["high"]
    assert identified["chance"] == 0.01
    assert identified["space"] == "pixels"
    assert identified["features_top5"] == 0.5


def test_rates_of_a_clients_images_have_another_interval_than_those_of_many_draws():
    rates = (0.25, 0.5, 0.25)
    results = [
        result(attack, target, 15.0, top1=rate)
        for attack in ("ggl", "prior_only")
        for target, rate in enumerate(rates)
    ]

    attack, drawn = (group_of(results, "none", name) for name in ("ggl", "prior_only"))

    for group, often in ((attack, False), (drawn, True)):
        expected = estimate_proportion(np.array(rates), often=often)
        found = group["identification"]
        assert (found["top1"], found["low"], found["high"]) == (
            expected.mean,
            expected.low,
            expected.high,
        )
    assert attack["identification"]["high"] > drawn["identification"]["high"]


def test_a_metric_that_some_trials_lack_is_left_out():
    some = [dict(r, metrics={**r["metrics"], "lpips": 0.1}) for r in RESULTS[:1]] + RESULTS[1:]

    assert "lpips" not in group_of(some, "none", "ggl")["metrics"]


# By target and then by seed: targets differ, seeds of a target hardly do.
REPEATED = ((18.0, 18.2), (24.0, 23.6), (12.0, 12.1), (15.0, 15.6))
SEEDED = [
    result("ggl", target, psnr, top1=float(psnr > 15.2), seed=seed)
    for target, psnrs in enumerate(REPEATED)
    for seed, psnr in enumerate(psnrs)
]


def test_seeds_of_a_target_are_averaged_before_an_interval_over_targets_is_computed():
    group = group_of(SEEDED, "none", "ggl")

    by_target, all_alike = np.mean(REPEATED, axis=1), np.ravel(REPEATED)
    assert (group["n"], group["targets"]) == (8, 4)
    found = bounds_of(group["metrics"]["psnr"])
    assert found == bounds_of(vars(estimate_mean(by_target)))
    assert group["metrics"]["psnr"]["worst"] == pytest.approx(23.8)
    too_narrow = estimate_mean(all_alike)
    assert found[2] - found[1] > 1.5 * (too_narrow.high - too_narrow.low)


def test_a_target_identified_with_some_seeds_is_a_rate():
    identified = group_of(SEEDED, "none", "ggl")["identification"]

    rates = np.array([1.0, 1.0, 0.0, 0.5])
    expected = estimate_proportion(rates)
    assert (identified["top1"], identified["low"], identified["high"]) == (
        0.625,
        expected.low,
        expected.high,
    )


def test_the_leakage_fraction_joins_the_means_over_seeds():
    floors = [
        result("prior_only", target, 10.0 + seed, seed=seed)
        for target in range(4)
        for seed in (0, 1)
    ]
    ceilings = [
        result("oracle", target, 26.0 + seed, defense="any", seed=seed)
        for target in range(4)
        for seed in (0, 1)
    ]

    fraction = group_of(SEEDED + floors + ceilings, "none", "ggl")["leakage_fraction"]

    attacked = np.mean(REPEATED, axis=1).sum()
    assert fraction["mean"] == pytest.approx((attacked - 4 * 10.5) / (4 * 26.5 - 4 * 10.5))


def test_a_target_that_failed_with_one_seed_has_the_value_of_the_others():
    left = [r for r in SEEDED if (r["target"], r["seed"]) != (1, 0)]

    group = group_of(left, "none", "ggl")

    assert (group["n"], group["targets"]) == (7, 4)
    assert group["metrics"]["psnr"]["worst"] == 23.6


def test_searchers_have_groups_of_their_own_and_share_the_floor_and_the_ceiling():
    other = [result("ggl", t, psnr, searcher="cma") for t, psnr in enumerate((11.0, 13.0, 12.0))]

    results = RESULTS + other
    first, second = (group_of(results, "none", "ggl", name) for name in ("sepcma", "cma"))

    assert (first["n"], second["n"]) == (3, 3)
    assert first == group_of(RESULTS, "none", "ggl")
    assert second["leakage_fraction"]["mean"] == pytest.approx((1 + 1 + 1) / (15 + 14 + 11))
