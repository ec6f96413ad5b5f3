"""One audit: a plan's trials run, recorded, summarised and reported; resumable at any moment."""

import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console

from engine import tuning
from engine.driver import STOPPED_EXIT, Driver, drive, stop_signals
from engine.errors import AuditError, InputError
from engine.lab import check_plan, input_hashes, trial_specs
from engine.outcome import conclude_audit, finished_trials
from engine.plan import Plan, make_plan
from engine.progress import ProgressView
from engine.run_folder import RunFolder, storing, write_json
from engine.run_folder.history_file import remove_histories
from engine.run_folder.provenance import collect_provenance
from engine.run_folder.recorder import Recorder
from engine.tracking import Uploader, check_server
from engine.trial.parts import Lab

TRACKING_PATIENCE_SECONDS = 30.0


class InterruptedAuditError(AuditError):
    """The user stopped the audit; what is finished is kept."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def start_audit(plan: Plan, text: str, parent: Path) -> tuple[RunFolder, Lab]:
    """Checks a plan as a whole and creates its run folder.

    Returns:
        The run folder, and what the check has built.

    Raises:
        AuditError: If anything the plan names is missing or does not fit, or its MLflow refuses;
            nothing is written then.
    """
    lab = check_plan(plan)
    if plan.tracking.mlflow:
        check_server(plan.tracking.uri, plan.tracking.experiment)  # If it is down, we go on.
    folder = RunFolder.create(parent, plan.name, plan=text, resolved=plan.to_dict())
    provenance, specs = collect_provenance(plan), trial_specs(plan)
    with storing(folder.path):
        write_json(folder.path / "provenance.json", provenance)
    folder.append_event(
        "audit_started",
        run=folder.name,
        name=plan.name,
        params=_audit_params(plan),
        tags={"leaktune": provenance["leaktune"], "commit": str(provenance["commit"])},
        trials=len(specs),
        evaluations=sum(spec.budget for spec in specs if spec.searches),
    )
    return folder, lab


def run_audit(
    folder: RunFolder,
    *,
    address: str | None,
    console: Console,
    lab: Lab | None = None,
    driver: Driver | None = None,
) -> dict[str, Any]:
    """Runs the trials of a run folder that are not finished, then summarises and reports all.

    Args:
        folder: From :func:`start_audit`, or one of an interrupted audit.
        address: Ray cluster to use; None for one of this machine's own.
        console: Where progress is shown.
        lab: What :func:`start_audit` has built; None to resume an audit, which is checked again.
        driver: This process as the run's driver; None to become it for as long as this takes.

    Returns:
        The summary, as written to ``summary.json``.

    Raises:
        InterruptedAuditError: If the user stopped it.
        InfrastructureError: If another driver is at work on the run, or took it over.
    """
    if driver is None:
        with drive(folder.path, console.print) as driver:
            return run_audit(folder, address=address, console=console, lab=lab, driver=driver)
    plan = make_plan(folder.plan(), source=str(folder.path / "plan.resolved.yaml"))
    _check_inputs(folder, plan)
    if lab is None:
        lab = check_plan(plan)
        if damaged := folder.forget_damaged():
            console.print(f"Damaged, so run again: {', '.join(damaged)}.", soft_wrap=True)
        folder.append_event("audit_resumed", done=len(finished_trials(folder, plan)))
    uploader = _uploader(folder, plan, console)
    try:
        _run_remaining(folder, plan, lab, address, console, driver, uploader)
        summary = conclude_audit(folder, plan, lab)
    except (AuditError, SystemExit, KeyboardInterrupt):
        if driver.holds():
            folder.append_event("audit_interrupted")
        raise
    finally:
        _finish_tracking(uploader, console)
    return summary


def _run_remaining(
    folder: RunFolder,
    plan: Plan,
    lab: Lab,
    address: str | None,
    console: Console,
    driver: Driver,
    uploader: Uploader | None,
) -> None:
    """Runs the trials that have no result; raises InterruptedAuditError if not all came to one.

    Tracking starts once there are machines: an audit that is refused is no audit yet.
    """
    specs = {spec.id: spec for spec in trial_specs(plan)}
    done = finished_trials(folder, plan)
    defenses = {name: spec.defense_label for name, spec in specs.items()}
    view = ProgressView(console, defenses, [*done], _evaluations_kept(folder))
    recorder = Recorder(folder, specs, view, driver.holds)
    for name in done:  # A driver that was killed may have left them.
        remove_histories(folder.trial_folder(name))
    remaining = [name for name in specs if name not in done]
    if not remaining:
        _start(uploader)
        return

    def last_words() -> None:
        if driver.holds():
            folder.append_event("audit_interrupted")
        driver.end("stopped")
        message = _interrupted(folder, len(finished_trials(folder, plan)), len(specs))
        Console(stderr=True).print(message, style="red", markup=False, soft_wrap=True)

    with stop_signals(last_words) as stopped, tuning.connect(address):
        if awaited := tuning.check_machines(plan.compute, folder.path, alone=address is None):
            console.print(awaited, highlight=False)
        _start(uploader)
        with view:
            _run_trials(plan, remaining, folder, recorder, lab)
    driver.check()
    done = finished_trials(folder, plan)
    if len(done) + recorder.failures < len(specs):
        raise InterruptedAuditError(
            _interrupted(folder, len(done), len(specs)),
            exit_code=STOPPED_EXIT if signal.SIGTERM in stopped else 130,
        )


def _evaluations_kept(folder: RunFolder) -> dict[str, int]:
    """Returns how far each trial ever came, as far as was reported."""
    kept: dict[str, int] = {}
    for event in folder.events():
        if event["kind"] == "trial_progress":
            kept[event["trial"]] = max(kept.get(event["trial"], 0), event["evaluations"])
    return kept


def _interrupted(folder: RunFolder, done: int, trials: int) -> str:
    return (
        f"Interrupted with {done} of {trials} trials done; nothing is lost. "
        f"Finish it with: leaktune resume {folder.path}"
    )


def _run_trials(
    plan: Plan, trials: list[str], folder: RunFolder, recorder: Recorder, lab: Lab
) -> None:
    if plan.compute.fan_out == "candidates":
        tuning.run_candidates(plan, trials, folder.path, recorder, lab)
    else:
        tuning.run_trials(plan, trials, folder.path, recorder)


def _check_inputs(folder: RunFolder, plan: Plan) -> None:
    """Raises InputError if a file the audit started with is another one by now."""
    before, now = folder.provenance()["sha256"], input_hashes(plan)
    changed = [name for name in before | now if now.get(name) != before.get(name)]
    if changed:
        raise InputError(
            f"Expected the files that {folder.name} started with, but these have changed since: "
            f"{', '.join(changed)}. Put them back, or start a new audit."
        )


def _uploader(folder: RunFolder, plan: Plan, console: Console) -> Uploader | None:
    if not plan.tracking.mlflow:
        return None

    def warn(problem: str) -> None:
        console.print(problem, style="yellow", markup=False, soft_wrap=True)

    return Uploader(folder, plan.tracking.uri, plan.tracking.experiment, warn)


def _start(uploader: Uploader | None) -> None:
    if uploader:
        uploader.start()


def _finish_tracking(uploader: Uploader | None, console: Console) -> None:
    problem = uploader and uploader.finish(TRACKING_PATIENCE_SECONDS)
    if problem:
        console.print(problem, style="yellow", markup=False, soft_wrap=True)


def _audit_params(plan: Plan) -> dict[str, str | float]:
    return {
        "targets": plan.targets,
        "client_images": plan.client.images,
        "local_steps": plan.client.local_steps,
        "learning_rate": plan.client.learning_rate,
        "seed": ", ".join(map(str, plan.all_seeds())),
        "data": plan.data,
        "target_model": plan.target_model.name,
        "generator": plan.generator.weights,
        "generator_precision": plan.generator.precision,
        **{name: value for name in ("scale", "shift") if (value := getattr(plan, name))},
        "attack": _listed(attack.name for attack in plan.lineup()),
        "searcher": _listed(attack.settings.searcher for attack in plan.lineup()),
        "budget": _listed(str(attack.budget) for attack in plan.lineup()),
    }


def _listed(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values))
