"""How an experiment looks in MLflow's pages: two views of its runs, and a note that links them.

MLflow keeps a view that someone shares as a tag of the experiment: filter, columns, groups and
charts, as its pages write them. Ours are such tags, so that nobody has to put a view together.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

NOTE = "mlflow.note.content"
KIND = "mlflow.experimentKind"  # Without it MLflow shows its pages for agents, which are empty.
SHARED = "mlflow.sharedViewState."

# Of the runs of trials and of audits, by what only they have.
TRIALS, AUDITS = "leaktune-trials", "leaktune-audits"
_FILTERS = {TRIALS: "params.target LIKE '%'", AUDITS: "params.targets LIKE '%'"}

_LINK = "#/experiments/{id}/runs?viewStateShareKey="
_NOTE_TEXT = f"""\
Audits by leaktune: an audit is a parent run, each of its trials a child run.

- [Trials, compared]({_LINK}{TRIALS}&compareRunsMode=CHART): loss and PSNR against candidate
  evaluations, by defense and attack
- [Trials, as a table]({_LINK}{TRIALS})
- [Audits]({_LINK}{AUDITS}) with their verdicts

A loss is what the attacker sees: lower matches the update better. PSNR and SSIM compare with the
private image: higher leaks more. `prior_only` is the floor, `oracle` the ceiling. Pictures are
among the artifacts of an audit if its plan says `images: {{{{tracking: true}}}}`.
"""


def experiment_tags(experiment: str) -> dict[str, str]:
    """Returns the tags that are the views of the experiment of this id, and the note."""
    views = {TRIALS: _trials(), AUDITS: _audits()}
    tags = {SHARED + name: json.dumps(view) for name, view in views.items()}
    return {**tags, KIND: "custom_model_development", NOTE: _NOTE_TEXT.format(id=experiment)}


def _trials() -> dict[str, Any]:
    """Returns the view of trials: groups of defense and attack, and charts over evaluations."""
    charts = [
        _line("loss", "search", "Matching loss against candidate evaluations", scaleType="log"),
        _line("psnr", "search", "PSNR of the best candidate so far, dB"),
        *(_bar(metric, "leakage") for metric in ("psnr", "ssim", "feature_distance")),
    ]
    return _view(
        TRIALS,
        params=("defense", "attack", "searcher", "target", "budget"),
        metrics=("loss", "psnr", "ssim"),
        orderByKey="metrics.`psnr`",
        groupBy={
            "aggregateFunction": "average",
            "groupByKeys": [
                {"mode": "param", "groupByData": name} for name in ("defense", "attack")
            ],
        },
        compareRunCharts=charts,
        compareRunSections=[
            _section("search", "The search"),
            _section("leakage", "What leaked, at the end"),
        ],
    )


def _audits() -> dict[str, Any]:
    """Returns the view of audits; MLflow charts whatever figures they have by itself."""
    return _view(
        AUDITS,
        params=("data", "targets", "attack", "searcher", "budget"),
        tags=("leaktune.verdict", "commit"),
        orderByKey="attributes.start_time",
    )


def _view(
    name: str,
    *,
    params: Iterable[str],
    metrics: Iterable[str] = (),
    tags: Iterable[str] = (),
    **more: Any,
) -> dict[str, Any]:
    columns = {"params": params, "metrics": metrics, "tags": tags}
    return {
        "searchFilter": _FILTERS[name],
        "orderByAsc": False,
        "selectedColumns": [
            f"{kind}.`{column}`" for kind, names in columns.items() for column in names
        ],
        "runsHiddenMode": "SHOW_ALL",
        **more,
    }


def _line(metric: str, section: str, title: str, **more: Any) -> dict[str, Any]:
    curve = {"selectedMetricKeys": [metric], "xAxisKey": "step", "yAxisKey": "metric"}
    return _chart("LINE", metric, section) | curve | {"displayName": title} | more


def _bar(metric: str, section: str) -> dict[str, Any]:
    return _chart("BAR", metric, section)


def _chart(kind: str, metric: str, section: str) -> dict[str, Any]:
    return {
        "type": kind,
        "uuid": f"leaktune-{kind}-{metric}".lower(),
        "metricKey": metric,
        "metricSectionId": section,
        "runsCountToCompare": 30,
        "deleted": False,
        "isGenerated": False,
    }


def _section(uuid: str, name: str) -> Mapping[str, Any]:
    return {"uuid": uuid, "name": name, "display": True, "isReordered": False}
