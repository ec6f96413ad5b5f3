import hashlib
import os
from dataclasses import replace

import pytest
import torch
from torch import nn

from engine import assets, lab
from engine.attacks import PRESETS, AttackSettings, attack
from engine.errors import InputError, PlanError
from engine.federation.client import LocalTraining
from engine.lab import build_lab, check_plan, input_hashes, trial_specs
from engine.plan import DEFAULT_PLAN, make_plan, read_plan
from engine.plan.threat_card import threat_card
from engine.setups import part_path
from engine.trial import observe
from engine.trial.record import spec_hash, to_params


def plan_of(**values):
    return make_plan(values, source="test")


def settings_of(**values):
    return [attack.settings for attack in plan_of(**values).lineup()]


def test_an_empty_plan_is_all_defaults():
    plan = plan_of()

    assert plan == make_plan({}, source="elsewhere")
    assert (plan.data, plan.targets, plan.target_model.name) == ("fashion-mnist", 8, "lenet")


def test_the_embedded_plan_is_checked_as_a_whole():
    plan, text = read_plan(DEFAULT_PLAN)

    check_plan(plan)
    assert text == DEFAULT_PLAN.read_text()


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ({}, True),
        ({"data": "fashion-mnist"}, True),
        ({"images": {"report": False}}, False),
        ({"data": "cifar10"}, False),
        ({"data": "mine.safetensors"}, False),
        ({"captures": ["captured.safetensors"]}, False),
        ({"shift": "cifar10"}, False),
        ({"data": "mine.safetensors", "images": {"report": True}}, True),
    ],
)
def test_pictures_are_shown_of_embedded_images_and_of_others_only_where_a_plan_says_so(
    values, shown
):
    plan = plan_of(**values)

    assert plan.images.report == shown


@pytest.mark.parametrize(
    ("override", "name"),
    [("data=cifar10", "cifar10"), ("data=mine.safetensors", "audit"), ("name=own", "own")],
)
def test_an_audit_is_named_after_its_data_unless_the_plan_names_it(override, name):
    plan, _ = read_plan(DEFAULT_PLAN, [override])

    assert plan.name == name


def test_another_data_set_in_the_embedded_plan_is_not_shown():
    plan, _ = read_plan(DEFAULT_PLAN, ["data=mine.safetensors"])

    assert not plan.images.report
    assert not plan.images.tracking


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
    [settings] = settings_of(attack={"preset": "ggl", "searcher": "random"})

    [published] = settings_of(attack={"preset": "ggl"})
    assert settings.searcher == "random"
    assert settings.regulariser == published.regulariser


@pytest.mark.parametrize(
    ("override", "values"),
    [
        ("targets=3", {"targets": 3}),
        ("attack.budget=70", {"attack": {"budget": 70}}),
        ("tracking.uri=http://host?a=b", {"tracking": {"uri": "http://host?a=b"}}),
        (
            "defenses=[none, {name: clipping, max_norm: 2}]",
            {"defenses": ["none", {"name": "clipping", "max_norm": 2}]},
        ),
    ],
)
def test_overrides_are_yaml_at_dotted_keys(override, values, tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text("name: mine\n")

    plan, text = read_plan(path, [override])

    assert plan == plan_of(name="mine", **values)
    assert text == "name: mine\n"


def test_later_overrides_win_over_earlier_ones_and_over_the_file(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text("targets: 2\n")

    plan, _ = read_plan(path, ["targets=3", "targets=4"])

    assert plan.targets == 4


def test_relative_paths_are_those_of_where_the_command_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    plan = plan_of(
        data="mine.safetensors",
        captures=["a/b.safetensors"],
        generator={"weights": "../g.safetensors"},
        target_model={"weights": "/t.safetensors"},
    )

    assert plan.data == str(tmp_path / "mine.safetensors")
    assert plan.captures == (str(tmp_path / "a" / "b.safetensors"),)
    assert plan.generator.weights == str(tmp_path.parent / "g.safetensors")
    assert plan.target_model.weights == "/t.safetensors"
    assert plan.classifier.weights == "fashion-mnist"


def test_an_embedded_name_stands_for_embedded_files():
    asset = assets.asset("fashion-mnist", "generator")

    assert part_path("fashion-mnist", "generator") == asset
    assert input_hashes(plan_of())["generator"] == hashlib.sha256(asset.read_bytes()).hexdigest()


def test_a_file_that_is_gone_has_no_hash(tmp_path):
    capture = tmp_path / "client-0.safetensors"
    capture.write_bytes(b"x")
    plan = plan_of(targets=1, captures=[str(capture)])
    before = input_hashes(plan)
    capture.unlink()

    assert input_hashes(plan) == before | {"capture 0": ""}


def test_every_defense_attack_and_target_is_one_trial_and_the_oracle_needs_no_defense():
    plan = plan_of(targets=2, defenses=["none", {"name": "clipping", "max_norm": 1}])

    names = [spec.id for spec in trial_specs(plan)]

    assert len(names) == len(set(names)) == 2 * 2 * 4 + 2
    assert {"any-oracle-target0", "defense1-shuffled-target1"} < set(names)


def test_captures_went_through_the_one_defense_and_none_beside_it_is_simulated():
    clipping = {"name": "clipping", "max_norm": 1}

    specs = trial_specs(plan_of(captures=["c.safetensors"], defenses=["none", clipping]))

    captured = {spec.defense_label for spec in specs if spec.captured}
    assert captured == {"clipping(max_norm=1)"}
    assert "none" in {spec.defense_label for spec in specs if not spec.captured}


def test_random_search_is_a_control_with_the_attack_otherwise_the_same():
    specs = {s.attack: s for s in trial_specs(plan_of(targets=1, attack={"preset": "ggl"}))}

    control, attack = specs["random_best"], specs["ggl"]
    assert control.settings == attack.settings.with_searcher("random")
    assert control.budget == attack.budget


def test_a_file_that_changed_since_it_was_pinned_is_refused():
    with pytest.raises(InputError, match="sha256"):
        check_plan(plan_of(classifier={"sha256": "0" * 64}))


def test_every_client_holds_as_many_images_and_trains_alike():
    client = {"images": 3, "local_steps": 5, "learning_rate": 0.2}
    plan = plan_of(targets=2, client=client)

    specs = trial_specs(plan)

    assert {(spec.images, spec.training) for spec in specs} == {(3, LocalTraining(5, 0.2))}
    assert [spec.id for spec in specs] == [spec.id for spec in trial_specs(plan_of(targets=2))]


def test_the_searcher_is_checked_with_the_latents_of_all_images(monkeypatch):
    seen = []
    check = attack.make_searcher
    monkeypatch.setattr(
        attack,
        "make_searcher",
        lambda *names, **rest: seen.append(rest["dim"]) or check(*names, **rest),
    )

    check_plan(plan_of(client={"images": 3}))
    check_plan(plan_of(client={"images": 3}, attack={"space": "shell"}))
    subspace = {"space": "principal", "space_settings": {"directions": 5}}
    check_plan(plan_of(client={"images": 3}, attack=subspace))
    features = {"space": "features", "space_settings": {"directions": 5}}
    check_plan(plan_of(client={"images": 3}, attack=features))

    assert seen == [3 * 32, 3 * 32, 3 * 5, 3 * 37]


def test_more_directions_than_the_generator_has_coordinates_are_refused_before_any_work():
    subspace = {"space": "random_embedding", "space_settings": {"directions": 33}}

    with pytest.raises(PlanError, match="Expected directions between 1 and 32"):
        check_plan(plan_of(attack=subspace))


def test_a_stage_that_the_generator_does_not_have_is_refused_before_any_work():
    features = {"space": "features", "space_settings": {"stage": 3}}

    with pytest.raises(PlanError, match="Expected stage between 1 and 2, the stages the generator"):
        check_plan(plan_of(attack=features))


def test_a_plan_gives_the_settings_of_a_space():
    [given] = settings_of(attack={"space": "box", "space_settings": {"half_width": 3}})
    [default] = settings_of(attack={"space": "box"})

    assert (given.space_settings, default.space_settings) == ({"half_width": 3}, {})


def test_another_space_than_the_presets_has_settings_of_its_own(monkeypatch):
    preset = AttackSettings(space="box", space_settings={"half_width": 3})
    monkeypatch.setattr("engine.plan.parts.PRESETS", {"boxed": preset})

    kept, other = (
        settings_of(attack={"preset": "boxed", **changes})[0]
        for changes in ({}, {"space": "shell"})
    )

    assert kept.space_settings == {"half_width": 3}
    assert (other.space, other.space_settings) == ("shell", {})


def test_unknown_settings_of_a_space_are_refused_with_the_plan():
    with pytest.raises(PlanError, match="attack: Unknown setting 'width' of the space 'box'"):
        plan_of(attack={"space": "box", "space_settings": {"width": 3}})


def test_what_determines_a_trial_includes_the_settings_of_its_space():
    hashes = {
        spec_hash(trial_specs(plan_of(attack={"space": "box", "space_settings": settings}))[0])
        for settings in ({}, {"half_width": 2.0}, {"half_width": 3.0})
    }

    assert len(hashes) == 3


def test_a_client_holds_one_image_and_takes_one_gradient_unless_the_plan_says_otherwise():
    assert {(spec.images, spec.training.steps) for spec in trial_specs(plan_of())} == {(1, 1)}


def test_the_threat_card_says_what_the_client_did_and_that_the_server_knows():
    plain, other = (
        {row["what"]: row["how"] for row in threat_card(plan_of(client=client))}["Observes"]
        for client in ({}, {"images": 4, "local_steps": 5, "learning_rate": 0.02})
    )

    assert "FedSGD, one gradient, batch of 1; both are known" in plain
    assert "FedAvg, 5 local steps of learning rate 0.02, batch of 4; both are known" in other
    assert "clients report how many images" in other


def test_the_threat_card_names_what_the_attacker_knows():
    rows = {row["what"]: row["how"] for row in threat_card(plan_of(target_model={"seed": 5}))}

    assert rows["Target model"] == "known: lenet (untrained, seed 5), in evaluation mode"
    assert "fashion-mnist" in rows["Prior"]
    assert "gauss_newton in the space gaussian, 1000 candidate evaluations" in rows["Search"]
    assert rows["Search"].endswith("gradient-free")


def test_the_threat_card_says_when_an_attack_sees_more_than_a_server():
    plan = plan_of(attack={"searcher": "adam"})

    rows = {row["what"]: row["how"] for row in threat_card(plan)}

    assert "white-box: along gradients through the generator" in rows["Search"]


def test_the_space_of_a_search_is_shown_with_its_settings():
    subspace = {"space": "principal", "space_settings": {"directions": 16}}
    plan = plan_of(attack=subspace)

    rows = {row["what"]: row["how"] for row in threat_card(plan)}

    assert "in the space principal(directions=16), " in rows["Search"]
    assert to_params(trial_specs(plan)[0])["space"] == "principal(directions=16)"


def test_a_generators_precision_and_layout_reach_the_lab(monkeypatch):
    plan = plan_of(generator={"precision": "bfloat16", "channels_last": True})
    load = lab.load_generator

    def with_a_convolution(*arguments, **settings):
        generator = load(*arguments, **settings)
        generator.unused = nn.Conv2d(2, 2, 3)
        return generator

    monkeypatch.setattr(lab, "load_generator", with_a_convolution)

    built = check_plan(plan)

    weight = built.generator.unused.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()
    assert {spec.precision for spec in trial_specs(plan)} == {"bfloat16"}
    rows = {row["what"]: row["how"] for row in threat_card(plan)}
    assert rows["Prior"].endswith("in bfloat16, channels last")


def test_an_unknown_precision_is_refused_with_the_known_ones():
    with pytest.raises(PlanError, match="'float32', 'tf32' or 'bfloat16'; got 'float16'"):
        plan_of(generator={"precision": "float16"})


BY_CANDIDATE = {"fan_out": "candidates"}


@pytest.mark.parametrize(
    "searcher", ["random", "optuna:TPE", "optuna", "nevergrad:DiagonalCMA", "ax:Sobol", "ax:BO"]
)
def test_tune_can_propose_the_candidates_of_these_searchers(searcher):
    attack = {"searcher": searcher, "searcher_settings": {}}
    check_plan(plan_of(attack=attack, compute=BY_CANDIDATE))


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        ({"searcher": "sepcma"}, "one of: random, optuna:<Sampler>, .* got 'sepcma'"),
        ({"searcher": "cma"}, "got 'cma'. Use one of those"),
        ({"searcher": "turbo"}, "got 'turbo'"),
        ({"searcher": "gauss_newton"}, "got 'gauss_newton'"),
        ({"searcher": "nevergrad", "space": "raw"}, "Expected a bounded space"),
        (
            {"searcher": "nevergrad", "searcher_settings": {"workers": 3, "init": "zeros"}},
            "no searcher_settings but population, got init, workers",
        ),
        (
            {
                "searcher": "nevergrad",
                "space": "principal",
                "space_settings": {"directions": 1},
            },
            "at least 2 coordinates",
        ),
    ],
)
def test_a_search_whose_candidates_tune_cannot_propose_is_refused_before_any_work(attack, message):
    with pytest.raises(PlanError, match=message):
        check_plan(plan_of(attack=attack, compute=BY_CANDIDATE))


AXES = {
    "seeds": [4, 7],
    "attack": {"searchers": ["sepcma", {"name": "optuna:CmaEs", "population": 9}]},
}


def without_id(spec):
    return replace(spec, id="")


def test_one_searcher_and_one_seed_are_the_same_trials_given_alone_or_in_lists():
    alone = trial_specs(plan_of(seed=3, targets=2, attack={"searcher": "sepcma"}))
    listed = trial_specs(plan_of(seeds=[3], targets=2, attack={"searchers": ["sepcma"]}))

    assert listed == alone
    assert alone[0].id == "defense0-ggl-target0"


def test_trials_are_named_by_searcher_and_seed_where_there_are_several():
    both, searchers, seeds = (
        [spec.id for spec in trial_specs(plan_of(targets=1, **values))]
        for values in (AXES, {"attack": AXES["attack"]}, {"seeds": AXES["seeds"]})
    )

    assert both == [
        "defense0-ggl-target0-searcher0-seed4",
        "defense0-ggl-target0-searcher0-seed7",
        "defense0-ggl-target0-searcher1-seed4",
        "defense0-ggl-target0-searcher1-seed7",
        "defense0-prior_only-target0-seed4",
        "defense0-prior_only-target0-seed7",
        "defense0-shuffled-target0-searcher0-seed4",
        "defense0-shuffled-target0-searcher0-seed7",
        "defense0-shuffled-target0-searcher1-seed4",
        "defense0-shuffled-target0-searcher1-seed7",
        "defense0-random_best-target0-seed4",
        "defense0-random_best-target0-seed7",
        "any-oracle-target0-seed4",
        "any-oracle-target0-seed7",
    ]
    assert searchers[:3] == [
        "defense0-ggl-target0-searcher0",
        "defense0-ggl-target0-searcher1",
        "defense0-prior_only-target0",
    ]
    assert seeds[:2] == ["defense0-ggl-target0-seed4", "defense0-ggl-target0-seed7"]


def test_an_audit_with_several_seeds_is_the_audits_with_each_of_them():
    together = trial_specs(plan_of(targets=2, seeds=[4, 7]))

    for seed in (4, 7):
        own = [without_id(spec) for spec in together if spec.seed == seed]
        assert own == [without_id(spec) for spec in trial_specs(plan_of(targets=2, seed=seed))]


def test_a_searcher_of_several_has_the_search_it_has_alone():
    specs = trial_specs(plan_of(targets=1, attack=AXES["attack"] | {"restarts": 2}))

    alone = {"searcher": "optuna:CmaEs", "searcher_settings": {"population": 9}, "restarts": 2}
    [search] = [s for s in specs if s.id == "defense0-ggl-target0-searcher1"]
    assert without_id(search) == without_id(trial_specs(plan_of(targets=1, attack=alone))[0])


def test_searchers_attack_the_same_updates_and_seeds_draw_other_noise():
    noise = {"name": "gaussian_noise", "std": 0.1}
    plan = plan_of(targets=1, controls=[], defenses=[noise], **AXES)
    lab = build_lab(plan)

    updates = {}
    for spec in trial_specs(plan):
        update, _ = observe(spec, lab, 0)
        weights = next(iter(update.tensors.values()))
        updates.setdefault(spec.seed, []).append(weights)

    assert all(torch.equal(*by_searcher) for by_searcher in updates.values())
    assert not torch.equal(updates[4][0], updates[7][0])


def test_a_resolved_plan_with_several_searchers_and_seeds_reads_back_as_itself():
    plan = plan_of(**AXES)

    assert make_plan(plan.to_dict(), source="test") == plan
    assert plan.to_dict()["seeds"] == [4, 7]
    assert plan_of(seed=3).to_dict()["seed"] == 3


def test_mlflow_is_where_the_plan_says_or_else_the_environment(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert plan_of().tracking.uri == f"sqlite:///{os.getcwd()}/mlflow.db"

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert plan_of().tracking.uri == "http://mlflow:5000"
    assert plan_of(tracking={"experiment": "other"}).tracking.uri == "http://mlflow:5000"
    assert plan_of(tracking={"uri": "http://other:5000"}).tracking.uri == "http://other:5000"


@pytest.mark.parametrize(
    "uri",
    [
        "https://me:s3cret@mlflow",
        "https://s3cret@mlflow",
        "postgresql://me:s3cret@db/mlflow",
        "postgresql://db/mlflow?user=me&password=s3cret",
    ],
)
def test_a_login_is_not_kept_in_a_plan(uri, monkeypatch):
    with pytest.raises(PlanError, match="expected no login in it") as refusal:
        plan_of(tracking={"uri": uri})
    assert "s3cret" not in str(refusal.value)

    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(PlanError, match="MLFLOW_TRACKING_PASSWORD"):
        plan_of()


@pytest.mark.parametrize(
    ("uri", "kept"),
    [
        ("sqlite:///runs/mlflow.db", "sqlite:///{here}/runs/mlflow.db"),
        ("sqlite:////there/mlflow.db", "sqlite:////there/mlflow.db"),
        ("sqlite+pysqlite:///mlflow.db", "sqlite+pysqlite:///{here}/mlflow.db"),
        ("postgresql://me@db/mlflow", "postgresql://me@db/mlflow"),
    ],
)
def test_mlflows_file_is_found_from_any_folder(uri, kept, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    assert plan_of(tracking={"uri": uri}).tracking.uri == kept.format(here=tmp_path)


def test_tracking_is_told_the_searcher_of_every_search_and_the_seed_of_every_trial():
    params = [to_params(spec) for spec in trial_specs(plan_of(targets=1, **AXES))]

    searchers = {}
    for row in params:
        searchers.setdefault(row["attack"], set()).add(row.get("searcher"))
    assert searchers == {
        "ggl": {"sepcma", "optuna:CmaEs"},
        "shuffled": {"sepcma", "optuna:CmaEs"},
        "random_best": {"random"},
        "prior_only": {None},
        "oracle": {None},
    }
    assert {row["seed"] for row in params} == {4, 7}


def test_the_threat_card_names_every_searcher_and_which_of_them_see_more_than_a_server():
    plain, mixed = (
        {row["what"]: row["how"] for row in threat_card(plan_of(attack={"searchers": names}))}
        for names in (["sepcma", "cma"], ["sepcma", "adam"])
    )

    assert plain["Search"].startswith("sepcma, cma in the space gaussian, 1000 candidate")
    assert "evaluations each" in plain["Search"]
    assert plain["Search"].endswith("gradient-free")
    assert "gradient-free but for adam, white-box: along gradients" in mixed["Search"]


def test_candidates_of_several_searchers_are_tune_trials_if_tune_can_propose_for_each():
    check_plan(plan_of(attack={"searchers": ["random", "optuna:TPE"]}, compute=BY_CANDIDATE))

    with pytest.raises(PlanError, match=r"^attack.searchers.1: .* got 'sepcma'"):
        check_plan(plan_of(attack={"searchers": ["random", "sepcma"]}, compute=BY_CANDIDATE))


def test_by_candidates_the_inferred_labels_alone_are_searched():
    values = {"compute": BY_CANDIDATE, "attack": {"searcher": "random"}}

    plan = make_plan(values, source="test")

    assert {spec.settings.label_hypotheses for spec in trial_specs(plan)} == {1}
    values["attack"]["label_hypotheses"] = 2
    with pytest.raises(PlanError, match=r"attack\.label_hypotheses: expected 1 with compute\.fan"):
        make_plan(values, source="test")


def test_settings_of_one_of_several_searchers_are_refused_by_its_place():
    values = {"attack": {"searchers": ["random", {"name": "sepcma", "dim": 2}]}}

    with pytest.raises(PlanError, match=r"attack: searchers\.1: .*without dim"):
        make_plan(values, source="test")


def test_attacks_are_their_presets_by_name_with_budgets_of_their_own():
    plan = plan_of(
        attacks={
            "dlg": {"budget": 40},
            "adaptive_dlg": {"preset": "dlg", "adaptive": True, "budget": 60},
            "ggl": None,
        }
    )

    found = [(one.name, one.settings, one.budget) for one in plan.lineup()]

    dlg = PRESETS["dlg"]
    assert found == [
        ("dlg", dlg, 40),
        ("adaptive_dlg", replace(dlg, adaptive=True), 60),
        ("ggl", PRESETS["ggl"], 1000),
    ]


def test_every_attack_has_its_trials_and_shuffled_controls_beside_the_common_ones():
    plan = plan_of(
        targets=1,
        attacks={
            "dlg": {"budget": 40},
            "ggl": {"searchers": ["cma", "sepcma"], "budget": 50},
        },
    )

    specs = {spec.id: spec for spec in trial_specs(plan)}

    assert list(specs) == [
        "defense0-dlg-target0",
        "defense0-ggl-target0-searcher0",
        "defense0-ggl-target0-searcher1",
        "defense0-prior_only-target0",
        "defense0-shuffled-dlg-target0",
        "defense0-shuffled-ggl-target0-searcher0",
        "defense0-shuffled-ggl-target0-searcher1",
        "defense0-random_best-target0",
        "any-oracle-target0",
    ]
    assert [spec.of for spec in specs.values()] == ["", "", "", "", "dlg", "ggl", "ggl", "ggl", ""]
    random = specs["defense0-random_best-target0"]
    assert (random.settings.space, random.settings.searcher, random.budget) == ("raw", "random", 50)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"attack": {}, "attacks": {"dlg": {}}}, "attacks: expected in place of attack, got both"),
        ({"attacks": {"oracle": {}}}, "attacks: expected other names than those of controls"),
        ({"attacks": {}}, "attacks: .*at least 1 item"),
        ({"attacks": ["dlg"]}, "attacks: .*dictionary"),
        ({"attacks": {"d l g": {}}}, "attacks.d l g"),
        ({"attacks": {"dlg-2": {}}}, "attacks.dlg-2.*any of . _ in a name, .* got 'dlg-2'"),
        ({"attacks": {"dlg": {"budgett": 3}}}, "Unknown key 'attacks.dlg.budgett'.*'budget'"),
        ({"attacks": {"mine": {"preset": "dgl"}}}, "attacks.mine: Unknown attack preset 'dgl'"),
        (
            {"attacks": {"dlg": {"searchers": ["cma", "cma"]}}},
            "attacks.dlg.searchers: expected each once",
        ),
        ({"attacks": {"dlg": {"image_priors": {"tv": 1.0}}}}, "image_priors to be one of: batch_n"),
        ({"attacks": {"dlg": {"image_priors": {"batch_norm": -1.0}}}}, "image_priors.batch_norm"),
        ({"attack": {"space": "pixels"}}, "Expected regulariser: none with space: pixels"),
    ],
)
def test_impossible_attacks_are_refused_by_their_place(values, said):
    with pytest.raises(PlanError, match=said):
        plan_of(**values)


def test_a_name_may_be_part_of_a_files():
    with pytest.raises(
        PlanError, match=r"name: Expected letters, digits and any of . _ - in .*'a/b'"
    ):
        plan_of(name="a/b")


def test_several_attacks_have_threat_cards_of_their_own():
    card = {row["what"]: row["how"] for row in threat_card(plan_of(attacks={"dlg": {}, "ggl": {}}))}

    assert card["Attack dlg"] == (
        "prior: none, pixels are searched; label: not known, searched with the images; "
        "defense: not known, and not imitated; search: lbfgs in the space pixels, 1000 candidate "
        "evaluations, white-box: along gradients through the target model; loss: squared_l2"
    )
    assert "estimated from the observed update" in card["Attack ggl"]
    assert "gradient-free; loss: squared_l2 + kl (weight 0.1)" in card["Attack ggl"]
    plain = {row["what"] for row in threat_card(plan_of())}
    assert {"Prior", "Label", "Defense", "Search", "Loss"} <= plain
