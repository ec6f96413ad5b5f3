import numpy as np
import pytest

from engine.scoring.groups import summarise_groups
from engine.scoring.statistics import estimate_mean, estimate_proportion


def result(attack, target, psnr, *, defense="none", top1=0.0, **changes):
    return {
        "defense": defense,
        "attack": attack,
        "searcher": "random",
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


def group_of(results, defense, attack):
    groups = summarise_groups(results)
    return next(g for g in groups if (g["defense"], g["attack"]) == (defense, attack))


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
