"""How an experiment looks in MLflow's pages: views of its runs, and a note that links them.

MLflow keeps a view that someone shares as a tag of the experiment: filter, columns, groups and
charts, as its pages write them. Ours are such tags, so that nobody has to put a view together.
"""

import json
from collections.abc import Iterable
from typing import Any

from engine.scoring.variants import CONTROLS
from engine.tracking.changes import RUN_TAG

NOTE = "mlflow.note.content"
KIND = "mlflow.experimentKind"  # Without it MLflow shows its pages for agents, which are empty.
SHARED = "mlflow.sharedViewState."

# What each view is of: audits are the runs with targets, trials those with a target.
ATTACKS, TRIALS, AUDITS = "leaktune-attacks", "leaktune-trials", "leaktune-audits"
_FILTERS = {
    ATTACKS: " AND ".join(f"params.attack != '{control}'" for control in CONTROLS)
    + " AND params.target LIKE '%'",
    TRIALS: "params.target LIKE '%'",
    AUDITS: "params.targets LIKE '%'",
}

# Columns wide enough for what is in them; they come first.
_WIDTHS = {"attributes.`Run Name`": 420, "params.`defense`": 220, "tags.`leaktune.verdict`": 480}
_LINK = "#/experiments/{id}/runs?workflowType=machine_learning&viewStateShareKey="
_NOTE_TEXT = f"""\
Audits by leaktune: an audit is a parent run, each of its trials a child run.

- [Attacks]({_LINK}{ATTACKS}&compareRunsMode=CHART): loss and PSNR against candidate evaluations, by
  defense; and what leaked at the end
- [All trials]({_LINK}{TRIALS}), with the controls, by defense and attack
- [Audits]({_LINK}{AUDITS}) with their verdicts

Groups are means of the trials that MLflow has loaded, a hundred at first, of the same targets in
every group: press *Load more* below the table for all of them. Quote the report's figures.

A loss is what the attacker sees: lower matches the update better (`loss_so_far`, while a search is
under way). PSNR and SSIM compare with the private image: higher leaks more. `prior_only` is the
floor, `oracle` the ceiling. Pictures are among the artifacts of an audit if its plan says
`images: {{{{tracking: true}}}}`.
"""


def experiment_tags(experiment: str) -> dict[str, str]:
    """Returns the tags that are the views of the experiment of this id, and the note."""
    views = {ATTACKS: _attacks(), TRIALS: _trials(), AUDITS: _audits()}
    tags = {SHARED + name: json.dumps(view) for name, view in views.items()}
    return {**tags, KIND: "custom_model_development", NOTE: _NOTE_TEXT.format(id=experiment)}


def _attacks() -> dict[str, Any]:
    """Returns the view of attacks: a curve for each defense, and bars of what leaked."""
    return _view(
        ATTACKS,
        params=("defense", "attack", "searcher"),
        metrics=("loss", "psnr", "ssim"),
        groups=("defense", "attack", "searcher"),
        compareRunCharts=[
            _line("loss", scaleType="log"),
            _line("psnr"),
            *(_bar(metric) for metric in ("psnr", "ssim", "feature_distance")),
        ],
        compareRunSections=[
            _section("LINE", "The search, against candidate evaluations", columns=2),
            _section("BAR", "What leaked, at the end", columns=3),
        ],
    )


def _trials() -> dict[str, Any]:
    """Returns the view of trials, controls among them, by defense and attack."""
    return _view(
        TRIALS,
        params=("defense", "attack"),
        metrics=("loss", "psnr", "ssim", "feature_distance"),
        groups=("defense", "attack"),
    )


def _audits() -> dict[str, Any]:
    """Returns the view of audits; MLflow charts whatever figures they have by itself."""
    return _view(
        AUDITS,
        params=("data", "targets", "attack", "searcher", "budget"),
        tags=("leaktune.verdict",),
        newest_first=True,
    )


def _view(
    name: str,
    *,
    params: Iterable[str],
    metrics: Iterable[str] = (),
    tags: Iterable[str] = (),
    groups: Iterable[str] = (),
    newest_first: bool = False,
    **more: Any,
) -> dict[str, Any]:
    columns = {"params": params, "metrics": metrics, "tags": tags}
    keys = [{"mode": "param", "groupByData": group} for group in groups]
    if keys:  # No figure is of several audits.
        keys.append({"mode": "tag", "groupByData": RUN_TAG})
    selected = [f"{kind}.`{column}`" for kind, names in columns.items() for column in names]
    return {
        "searchFilter": _FILTERS[name],
        # MLflow averages the runs that it has loaded, the first hundred: the same targets of every
        # group, not those that leaked most. By time, trials would be shown below their audits.
        "orderByKey": "attributes.start_time" if newest_first else "params.`target`",
        "orderByAsc": not newest_first,
        "selectedColumns": selected,
        "columnOrder": [*_WIDTHS, *(column for column in selected if column not in _WIDTHS)],
        "columnWidths": _WIDTHS,
        "groupBy": {"aggregateFunction": "average", "groupByKeys": keys} if keys else None,
        "runsHiddenMode": "SHOW_ALL",
        "isAccordionReordered": True,  # Or charts that MLflow makes by itself come first.
        **more,
    }


def _line(metric: str, **more: Any) -> dict[str, Any]:
    curve = {"selectedMetricKeys": [metric], "xAxisKey": "step", "yAxisKey": "metric"}
    return _chart("LINE", metric) | curve | {"displayPoints": False} | more


def _bar(metric: str) -> dict[str, Any]:
    return _chart("BAR", metric)


def _chart(kind: str, metric: str) -> dict[str, Any]:
    """Returns a chart of one metric; the sections are named after the kinds of charts."""
    return {
        "type": kind,
        "uuid": f"leaktune-{kind}-{metric}",
        "metricKey": metric,
        "metricSectionId": kind,
        "runsCountToCompare": 30,
        "deleted": False,
        "isGenerated": False,
    }


def _section(kind: str, name: str, *, columns: int) -> dict[str, Any]:
    shown = {"display": True, "isReordered": False, "columns": columns, "cardHeight": 400}
    return {"uuid": kind, "name": name, **shown}
