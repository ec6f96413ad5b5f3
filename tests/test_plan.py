import hashlib

import pytest

from engine import assets
from engine.errors import InputError, PlanError
from engine.lab import check_plan, input_hashes, trial_specs, weights_path
from engine.plan import DEFAULT_PLAN, describe_settings, make_plan, read_plan, threat_card


def plan_of(**values):
    return make_plan(values, source="test")


def test_an_empty_plan_is_all_defaults():
    plan = plan_of()

    assert plan == make_plan({}, source="elsewhere")
    assert (plan.data, plan.targets, plan.target_model.name) == ("fashion-mnist", 8, "lenet")


def test_the_embedded_plan_is_checked_as_a_whole():
    plan, text = read_plan(DEFAULT_PLAN)

    check_plan(plan)
    assert text == DEFAULT_PLAN.read_text()
    assert plan.images.report


def test_a_resolved_plan_reads_back_as_itself():
    plan, _ = read_plan(DEFAULT_PLAN)

    assert make_plan(plan.to_dict(), source="test") == plan


def test_a_defense_is_a_name_a_mapping_or_a_chain():
    clipping = {"name": "clipping", "max_norm": 1}
    plan = plan_of(defenses=["none", clipping, ["none", clipping]])

    chains = [[(part.name, part.settings()) for part in chain] for chain in plan.defenses]
    assert chains == [
        [("none", {})],
        [("clipping", {"max_norm": 1})],
        [("none", {}), ("clipping", {"max_norm": 1})],
    ]


def test_the_attack_is_its_preset_with_the_given_keys_in_place():
    settings = plan_of(attack={"preset": "ggl", "searcher": "random"}).attack.settings()

    published = plan_of(attack={"preset": "ggl"}).attack.settings()
    assert settings.searcher == "random"
    assert settings.regulariser == published.regulariser
    assert describe_settings(settings)["searcher"] == "random"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("targets=3", {"targets": 3}),
        ("attack.budget=70", {"attack": {"budget": 70}}),
        ("name=a=b", None),
        ("defenses=[none, {name: clipping, max_norm: 2}]", None),
    ],
)
def test_overrides_are_yaml_at_dotted_keys(override, expected, tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text("seed: 7\n")
    if override == "name=a=b":
        with pytest.raises(PlanError, match="got 'a=b'"):
            read_plan(path, [override])
        return

    plan, text = read_plan(path, [override])

    assert plan.seed == 7
    assert text == "seed: 7\n"
    if expected:
        assert plan == make_plan({"seed": 7} | expected, source="test")
    else:
        assert len(plan.defenses) == 2
