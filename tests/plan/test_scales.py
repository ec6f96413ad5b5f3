import pytest

from engine.errors import PlanError
from engine.plan import read_plan
from engine.plan.scales import scaled

VALUES = {
    "targets": 20,
    "attacks": {"dlg": {"budget": 900}, "ggl": {"budget": 800, "restarts": 2}},
    "scales": {"full": {}, "small": {"targets": 2, "attacks": {"ggl": {"budget": 10}}}},
}


def test_the_first_scale_is_meant_where_none_is_named():
    assert scaled(VALUES, source="x") == {
        "targets": 20,
        "attacks": VALUES["attacks"],
        "scale": "full",
    }


def test_a_scale_changes_what_it_names_and_nothing_else():
    assert scaled({**VALUES, "scale": "small"}, source="x") == {
        "targets": 2,
        "attacks": {"dlg": {"budget": 900}, "ggl": {"budget": 10, "restarts": 2}},
        "scale": "small",
    }
    assert VALUES["attacks"]["ggl"]["budget"] == 800


def test_a_plan_without_scales_is_as_it_was():
    assert scaled({"targets": 3}, source="x") == {"targets": 3}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({**VALUES, "scale": "smal"}, "Unknown scale 'smal'.*Did you mean 'small'"),
        ({"scales": []}, "x:\n  scales: expected names with what differs, got \\[\\]"),
        ({"scales": {"small": 3}}, "scales.small: expected keys and values, got 3"),
    ],
)
def test_impossible_scales_are_refused(values, said):
    with pytest.raises(PlanError, match=said):
        scaled(values, source="x")


def test_overrides_choose_the_scale_and_come_last(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text("targets: 8\nscales:\n  full:\n  small: {targets: 2, attack: {budget: 30}}\n")

    full, _ = read_plan(path)
    small, _ = read_plan(path, ["scale=small"])
    own, _ = read_plan(path, ["scale=small", "attack.budget=40"])
    other, _ = read_plan(path, ["scale=small", "scales.small.targets=3"])

    assert (full.scale, full.targets, full.attack.budget) == ("full", 8, 1000)
    assert (small.scale, small.targets, small.attack.budget) == ("small", 2, 30)
    assert (own.targets, own.attack.budget) == (2, 40)
    assert (other.targets, other.attack.budget) == (3, 30)


def test_a_scale_that_no_file_has_is_refused_but_a_resolved_plan_keeps_its_own(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text("targets: 8\nscale: small\n")

    plan, _ = read_plan(path)

    assert plan.scale == "small"
    with pytest.raises(PlanError, match="Expected --set scale with a plan that has scales"):
        read_plan(path, ["scale=full"])
    path.write_text("scales: {full: {}}\n")
    with pytest.raises(PlanError, match=r"scale: expected a name, got \['full'\]"):
        read_plan(path, ["scale=[full]"])


def test_an_override_within_what_is_null_fills_it_in(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text("attacks:\n  dlg:\n  ggl:\n")

    plan, _ = read_plan(path, ["attacks.dlg.budget=7"])

    assert [one.budget for one in plan.lineup()] == [7, 1000]
