import json
import re

import pytest

from engine.audit import _audit_params
from engine.lab import trial_specs
from engine.plan import make_plan
from engine.scoring.metrics import HIGHER_LEAKS
from engine.scoring.variants import CONTROLS
from engine.tracking.changes import MAX_TAG, RUN_TAG
from engine.tracking.experiment import describe_experiment
from engine.tracking.views import ATTACKS, AUDITS, NOTE, SHARED, TRIALS, experiment_tags
from engine.trial.record import to_params


class Experiments:
    """A client of MLflow that knows one experiment."""

    def __init__(self, tags):
        self.tags = tags

    def get_experiment(self, experiment):
        return self

    def set_experiment_tag(self, experiment, key, text):
        self.tags[key] = text


@pytest.fixture(scope="module")
def plan():
    return make_plan({}, source="test")


@pytest.fixture
def tags():
    return experiment_tags("7")


def view(tags, name):
    return json.loads(tags[SHARED + name])


def columns(view, kind):
    found = [re.fullmatch(rf"{kind}\.`(.+)`", column) for column in view["selectedColumns"]]
    return {match[1] for match in found if match}


def grouped_by(view, mode):
    return {g["groupByData"] for g in view["groupBy"]["groupByKeys"] if g["mode"] == mode}


def test_no_tag_is_longer_than_a_server_takes(tags):
    assert max(map(len, tags.values())) <= MAX_TAG


@pytest.mark.parametrize("name", [ATTACKS, TRIALS])
def test_trials_are_shown_by_what_they_have(tags, plan, name):
    trials = view(tags, name)
    params = to_params(trial_specs(plan)[0])
    metrics = {"loss", *HIGHER_LEAKS}

    assert columns(trials, "params") <= set(params)
    assert columns(trials, "metrics") <= metrics
    assert grouped_by(trials, "param") <= set(params)
    assert {chart["metricKey"] for chart in trials.get("compareRunCharts", ())} <= metrics


@pytest.mark.parametrize("name", [ATTACKS, TRIALS])
def test_no_group_is_of_several_audits(tags, name):
    assert grouped_by(view(tags, name), "tag") == {RUN_TAG}


@pytest.mark.parametrize("name", [ATTACKS, TRIALS])
def test_trials_that_are_loaded_first_are_not_those_that_leaked_most(tags, name):
    trials = view(tags, name)

    assert (trials["orderByKey"], trials["orderByAsc"]) == ("params.`target`", True)
    assert "Load more" in tags[NOTE]


def test_every_chart_is_in_a_section_that_is_shown(tags):
    trials = view(tags, ATTACKS)
    sections = {each["uuid"] for each in trials["compareRunSections"] if each["display"]}

    assert {chart["metricSectionId"] for chart in trials["compareRunCharts"]} == sections
    lines = [chart for chart in trials["compareRunCharts"] if chart["type"] == "LINE"]
    assert [chart["metricKey"] for chart in lines] == ["loss", "psnr"]
    assert {chart["xAxisKey"] for chart in lines} == {"step"}


def test_audits_are_shown_by_what_they_have(tags, plan):
    assert columns(view(tags, AUDITS), "params") <= set(_audit_params(plan))


def test_each_view_is_of_one_kind_of_run_alone(tags, plan):
    trial, audit = set(to_params(trial_specs(plan)[0])), set(_audit_params(plan))

    for name, own in {ATTACKS: trial - audit, TRIALS: trial - audit, AUDITS: audit - trial}.items():
        (asked,) = re.findall(r"params\.(\w+) LIKE '%'", view(tags, name)["searchFilter"])
        assert asked in own, name


def test_the_view_of_attacks_leaves_every_control_out(tags):
    left_out = set(re.findall(r"params\.attack != '(\w+)'", view(tags, ATTACKS)["searchFilter"]))

    assert left_out == set(CONTROLS)


def test_the_note_links_every_view_of_this_experiment(tags):
    links = set(re.findall(r"\(#/experiments/7/runs\?.*viewStateShareKey=([\w-]+)", tags[NOTE]))

    assert links == {ATTACKS, TRIALS, AUDITS}
    assert "{tracking: true}" in tags[NOTE]


def test_an_experiment_gets_views_and_note_once_and_keeps_what_its_team_changed():
    experiments = Experiments({NOTE: "ours", "team": "red"})

    describe_experiment(experiments, "7")
    experiments.tags[SHARED + AUDITS] = "changed"
    describe_experiment(experiments, "7")

    assert experiments.tags[NOTE] == "ours"
    assert experiments.tags[SHARED + AUDITS] == "changed"
    assert experiments.tags[SHARED + TRIALS] == experiment_tags("7")[SHARED + TRIALS]
