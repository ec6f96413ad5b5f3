"""What a finished audit leaves behind: its summary, table, report and pictures."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from engine.errors import InputError
from engine.lab import trial_specs
from engine.plan import Plan
from engine.plan.threat_card import threat_card
from engine.reporting import (
    draw_attacks,
    montage,
    paper_markdown,
    render_page,
    several_attacks,
    table_rows,
)
from engine.run_folder import RunFolder, storing, write_json
from engine.scoring.groups import summarise_groups
from engine.scoring.metrics import HIGHER_LEAKS
from engine.scoring.variants import is_attack, with_names
from engine.scoring.verdict import judge
from engine.trial.parts import Lab
from engine.trial.record import place_of, spec_hash


def conclude_audit(folder: RunFolder, plan: Plan, lab: Lab, *, over: bool = True) -> dict[str, Any]:
    """Writes summary, table and report from the results in the folder; returns the summary.

    Args:
        folder: The audit's run folder.
        plan: Its plan.
        lab: What its trials share.
        over: Whether the audit is, and is logged to be; else this is a look at it as it stands.
    """
    summary = summarise(folder, plan)
    images = _images(folder, summary, lab)
    with storing(folder.path):
        _write_outcome(folder.path, plan, summary, images)
        if images is not None:
            (folder.private / "montage.png").write_bytes(montage(summary, images))
    if over:
        folder.append_event(
            "audit_finished",
            verdict=summary["verdict"]["sentence"],
            metrics=_audit_metrics(summary),
            artifacts=_artifacts(plan, with_montage=images is not None),
        )
    return summary


def _write_outcome(
    run: Path,
    plan: Plan,
    summary: Mapping[str, Any],
    images: Mapping[str, np.ndarray] | None,
) -> None:
    """Writes what everybody may see; images only where the plan asks for them."""
    write_json(run / "summary.json", summary)
    _write_csv(run / "metrics.csv", summary["trials"])
    page = render_page(summary, images if plan.images.report else None)
    (run / "report" / "index.html").write_text(page, encoding="utf-8")
    rows = table_rows(summary)
    if several_attacks(rows):
        (run / "report" / "attacks.svg").write_text(draw_attacks(rows), encoding="utf-8")
    if plan.paper_table:
        table = paper_markdown(summary)
        (run / "report" / "paper_table.md").write_text(table, encoding="utf-8")


def summarise(folder: RunFolder, plan: Plan) -> dict[str, Any]:
    """Returns the summary of a run folder, see ``docs/run-folder.md``."""
    results = finished_trials(folder, plan)
    errors = {
        event["trial"]: event["error"]
        for event in folder.events()
        if event["kind"] == "trial_failed"
    }
    failed = [
        {"id": spec.id, **place_of(spec), "error": errors[spec.id]}
        for spec in trial_specs(plan)
        if spec.id not in results and spec.id in errors
    ]
    named = with_names([*results.values(), *failed])
    trials, failed = named[: len(results)], named[len(results) :]
    groups = summarise_groups(trials)
    return {
        "schema_version": 1,
        "run": folder.name,
        "verdict": judge(
            groups,
            missing=len(trial_specs(plan)) - len(trials),
            controls=plan.controls,
            asked=plan.verdict,
        ),
        "plan": plan.to_dict(),
        "threat": threat_card(plan),
        "provenance": folder.provenance(),
        "failed": failed,
        "trials": trials,
        "groups": groups,
    }


def finished_trials(folder: RunFolder, plan: Plan) -> dict[str, dict[str, Any]]:
    """Returns the results of the plan's own trials by their ids, in the plan's order."""
    results = folder.results()
    return {
        spec.id: results[spec.id]
        for spec in trial_specs(plan)
        if spec.id in results and results[spec.id].get("spec") == spec_hash(spec)
    }


def _audit_metrics(summary: Mapping[str, Any]) -> dict[str, float]:
    """Returns the attack's figures by ``figure/defense``, or ``figure/defense/attack``."""
    attacks = [group for group in summary["groups"] if is_attack(group)]
    several = len({group["by"] for group in attacks}) > 1
    figures: dict[str, float] = {}
    for group in attacks:
        label = group["defense"] + (f"/{group['by']}" if several else "")
        figures[f"psnr/{label}"] = group["metrics"]["psnr"]["mean"]
        figures[f"identification/{label}"] = group["identification"]["top1"]
        if group["leakage_fraction"]:
            figures[f"leakage_fraction/{label}"] = group["leakage_fraction"]["mean"]
    return figures


def _artifacts(plan: Plan, *, with_montage: bool) -> list[str]:
    """Returns the files that may leave this machine under the plan; the montage if there is one."""
    plain = ["summary.json", "metrics.csv", "plan.resolved.yaml", "provenance.json"]
    if plan.images.tracking and with_montage:
        plain.append("private/montage.png")
    if plan.images.tracking or not plan.images.report:
        plain.append("report/index.html")
    return plain


def _images(
    folder: RunFolder, summary: Mapping[str, Any], lab: Lab
) -> dict[str, np.ndarray] | None:
    """Returns originals and reconstructions by the names the report uses.

    None if ``private/`` was emptied, as one may: the figures do not need it.

    Raises:
        InputError: If a crash of the machine left images damaged.
    """
    try:
        images = {trial["id"]: folder.load_images(trial["id"]) for trial in summary["trials"]}
    except FileNotFoundError:
        return None
    except (SafetensorError, KeyError) as error:
        raise InputError(
            f"Expected the images in {folder.private} to be whole, got: {error}. "
            f"Have the trials they are of run again: leaktune resume {folder.path}"
        ) from error
    for target in {trial["target"] for trial in summary["trials"]}:
        held = lab.private.of_client(target, summary["plan"]["client"]["images"])
        images[f"target/{target}"] = held.images.numpy()
    return images


def _write_csv(path: Path, trials: Sequence[Mapping[str, Any]]) -> None:
    """Writes one line a trial."""
    plain = ("id", "defense", "attack", "of", "searcher", "target", "seed", "loss", "evaluations")
    labels = ("labels", "inferred_labels")
    more = ("nonfinite", "wall_s", *labels, "defense_change", "among")
    metrics = list(HIGHER_LEAKS)
    hits = list(trials[0]["hits"]) if trials else []
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*plain, *more, *metrics, *(f"identification_{name}" for name in hits)])
        for trial in trials:
            texts = {name: " ".join(map(str, trial[name])) for name in labels}
            row = [{**trial, **texts}[name] for name in (*plain, *more)]
            row += [trial["metrics"].get(name) for name in metrics]
            writer.writerow(row + [trial["hits"].get(name) for name in hits])
