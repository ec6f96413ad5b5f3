import json
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from engine.errors import InputError
from engine.run_folder import RunFolder, json_lines, write_json
from engine.run_folder.lease import lease_path, take_lease, write_lease
from engine.run_folder.status import read_status

START = 1_000_000.0
PRIVATE = {"psnr": 22.5, "mse": 0.01, "identification_top1": 1.0}


class Log:
    """A run folder written as an audit would write it, at times the test gives."""

    def __init__(self, parent, *, trials=4, evaluations=300):
        self.folder = RunFolder.create(parent, "mine", plan="", resolved={"seed": 7})
        totals = {} if evaluations is None else {"evaluations": evaluations}
        self.event(0, "audit_started", run=self.folder.name, trials=trials, **totals)

    @property
    def run(self):
        return self.folder.path

    def event(self, seconds, kind, **fields):
        event = {"time": START + seconds, "kind": kind, **fields}
        json_lines.append(self.run / "events.jsonl", event)

    def start(self, seconds, trial, *, defense="none", attack="ggl", searcher="cma", **more):
        params = {"defense": defense, "attack": attack, "budget": 100, **more}
        if searcher:
            params["searcher"] = searcher
        self.event(seconds, "trial_started", trial=trial, params=params)

    def progress(self, seconds, trial, evaluations, loss):
        self.event(seconds, "trial_progress", trial=trial, evaluations=evaluations, loss=loss)

    def finish(self, seconds, trial, evaluations=100, loss=0.25, *, result=True):
        metrics = PRIVATE | {"evaluations": float(evaluations), "loss": loss}
        self.event(seconds, "trial_finished", trial=trial, metrics=metrics, trace=[[1, 1.0, 22.5]])
        if result:
            write_json(self.folder.trial_folder(trial) / "result.json", {})

    def fail(self, seconds, trial):
        self.event(seconds, "trial_failed", trial=trial, error="ValueError: no", traceback="...")

    def drive(self, seconds=0, *, heard=0, **changes):
        """Leaves a driver's lease that was last renewed ``heard`` seconds after the start."""
        lease = take_lease(self.run, print)
        times = {"started": START + seconds, "heartbeat": START + heard}
        write_lease(self.run, replace(lease, **times, **changes))


@pytest.fixture
def log(tmp_path):
    return Log(tmp_path)


def counts(status):
    return {name: count for name, count in status.trials.items() if count}


def test_a_run_that_just_began_has_everything_before_it(log):
    log.drive()

    status = read_status(log.run)

    assert status.state == "running"
    assert counts(status) == {"total": 4, "waiting": 4}
    assert (status.evaluations["spent"], status.evaluations["total"]) == (0, 300)
    assert status.left_s is None
    assert (status.losses, status.failures, status.next) == ((), (), None)


def test_a_run_under_way_says_how_far_and_how_fast_and_how_long(log):
    log.start(10, "a")
    log.start(10, "b")
    log.start(10, "oracle", attack="oracle", searcher=None)
    log.finish(20, "oracle", 0)
    log.progress(50, "a", 40, 0.5)
    log.finish(100, "a", 100, 0.25)
    log.progress(400, "b", 50, 0.125)
    log.drive(heard=500)

    status = read_status(log.run)

    assert counts(status) == {"total": 4, "done": 2, "running": 1, "waiting": 1}
    assert status.evaluations == {
        "total": 300,
        "spent": 150,
        "recent_per_s": 50 / 300,
        "whole_per_s": 150 / 500,
    }
    assert status.left_s == pytest.approx((300 - 150) * 300 / 50)
    assert status.driver["alive"]


def test_a_search_cut_short_leaves_less_to_do(log):
    log.start(0, "a")
    log.finish(100, "a", 10)
    log.drive(heard=100)

    assert read_status(log.run).left_s == pytest.approx((300 - 100) / 0.1)


def test_only_matching_losses_of_searches_are_shown_by_defense_and_attack(log):
    for trial, loss in (("a", 0.5), ("b", 0.25), ("c", 0.125)):
        log.start(0, trial, defense="clipping(max_norm=4)")
        log.finish(1, trial, loss=loss)
    log.start(1, "d", attack="shuffled", of="ggl")
    log.progress(2, "d", 10, 0.75)
    log.progress(3, "d", 20, 0.875)
    log.start(1, "e", attack="random_best", searcher="random")
    log.progress(2, "e", 10, None)
    log.start(1, "oracle", attack="oracle", searcher=None)
    log.finish(2, "oracle", 0, 0.001)

    status = read_status(log.run)

    assert status.losses == (
        {
            "defense": "clipping(max_norm=4)",
            "attack": "ggl",
            "of": None,
            "searcher": "cma",
            "trials": 3,
            "lowest": 0.125,
            "median": 0.25,
        },
        {
            "defense": "none",
            "attack": "shuffled",
            "of": "ggl",
            "searcher": "cma",
            "trials": 1,
            "lowest": 0.75,
            "median": 0.75,
        },
    )
    shown = json.dumps(status.to_dict())
    assert not [name for name in (*PRIVATE, "22.5") if name in shown]


def interrupted(log):
    log.start(0, "a")
    log.finish(10, "a")
    log.start(10, "b")
    log.progress(20, "b", 30, 0.5)


@pytest.mark.parametrize(
    ("ended", "state"),
    [("interrupted", "interrupted"), ("stopped", "stopped"), ("failed", "interrupted")],
)
def test_a_run_that_was_ended_says_how_and_what_goes_on_with_it(ended, state, log):
    interrupted(log)
    log.event(21, "audit_interrupted")
    log.drive(ended=ended)

    status = read_status(log.run)

    assert status.state == state
    assert counts(status) == {"total": 4, "done": 1, "waiting": 3}
    assert status.evaluations["spent"] == 130
    assert status.evaluations["recent_per_s"] is None
    assert status.left_s is None
    assert status.next == f"leaktune resume {log.run}"
    assert (status.driver["alive"], status.driver["ended"]) == (False, ended)


def test_a_run_whose_driver_was_killed_is_interrupted(log):
    interrupted(log)
    log.drive(process="of another process")

    status = read_status(log.run)

    assert status.state == "interrupted"
    assert counts(status) == {"total": 4, "done": 1, "waiting": 3}
    assert (status.driver["alive"], status.driver["ended"]) == (False, None)


def test_a_trial_whose_result_was_not_written_any_more_is_not_done(log):
    log.start(0, "a")
    log.finish(10, "a", result=False)
    log.drive(process="of another process")

    assert counts(read_status(log.run)) == {"total": 4, "waiting": 4}


def test_a_resumed_run_counts_nothing_twice_and_leaves_the_pause_out(log):
    interrupted(log)
    log.event(1020, "audit_resumed", done=1)
    log.start(1030, "b")
    log.progress(1040, "b", 10, 0.75)  # It is being told what it had found.
    restored = read_status(log.run)
    log.progress(1060, "b", 90, 0.25)
    log.drive(heard=1060)

    status = read_status(log.run)

    assert restored.evaluations["spent"] == 130
    assert status.evaluations["spent"] == 190
    assert status.evaluations["recent_per_s"] == pytest.approx(60 / 40)
    assert status.evaluations["whole_per_s"] == pytest.approx(190 / 60)
    [losses] = status.losses
    assert losses["lowest"] == 0.25


def over(log, *, failed):
    for trial in ("a", "b", "c", "d"):
        log.start(0, trial)
        if trial in failed:
            log.fail(10, trial)
        else:
            log.finish(10, trial)


def test_a_finished_run_leaves_nothing_to_do(log):
    over(log, failed="")
    log.event(20, "audit_finished", verdict="", metrics={}, artifacts=[])
    log.drive(ended="finished")

    status = read_status(log.run)

    assert status.state == "finished"
    assert counts(status) == {"total": 4, "done": 4}
    assert status.next is None


def test_a_run_that_was_killed_before_its_summary_is_not_finished(log):
    over(log, failed="")

    assert read_status(log.run).state == "interrupted"


def test_a_report_written_in_the_middle_does_not_make_a_run_finished(log):
    interrupted(log)
    log.event(30, "audit_finished", verdict="", metrics={}, artifacts=[])

    assert read_status(log.run).state == "interrupted"


def test_failed_trials_are_named_and_can_be_tried_again(log):
    over(log, failed="bd")
    log.event(20, "audit_finished", verdict="", metrics={}, artifacts=[])
    log.drive(ended="finished")

    status = read_status(log.run)

    assert status.state == "finished"
    assert counts(status) == {"total": 4, "done": 2, "failed": 2}
    assert status.failures == (
        {"trial": "b", "error": "ValueError: no"},
        {"trial": "d", "error": "ValueError: no"},
    )
    assert status.next == f"leaktune resume {log.run}"


def test_failed_trials_of_a_resumed_run_wait_for_another_try(log):
    over(log, failed="bd")
    log.event(1000, "audit_resumed", done=2)
    log.start(1001, "b")
    log.drive(heard=1001)

    status = read_status(log.run)

    assert counts(status) == {"total": 4, "done": 2, "running": 1, "waiting": 1}
    assert status.failures == ()


def test_a_run_of_a_version_that_wrote_no_totals_is_shown_as_far_as_it_goes(tmp_path):
    log = Log(tmp_path, evaluations=None)
    interrupted(log)

    status = read_status(log.run)

    assert status.evaluations["total"] is None
    assert status.driver is None


@pytest.mark.parametrize(
    "line",
    [
        "{}",
        '{"kind": "trial_started", "time": 1}',
        '{"kind": "trial_started", "time": 1, "trial": "a", "params": 7}',
        '{"kind": "audit_resumed", "time": "x"}',
    ],
)
def test_a_damaged_log_is_refused_by_the_line(line, log):
    with (log.run / "events.jsonl").open("a") as file:
        file.write(line + "\n")

    with pytest.raises(InputError, match=r"Expected an event in each line .* after line 1:"):
        read_status(log.run)


def test_a_trial_whose_start_was_lost_with_its_line_is_counted(log):
    before = read_status(log.run).trials["done"]
    log.event(1, "trial_finished", trial="a", metrics={"evaluations": 7, "loss": 0.5})
    (log.run / "trials" / "a").mkdir(parents=True, exist_ok=True)
    (log.run / "trials" / "a" / "result.json").write_text("{}")

    assert read_status(log.run).trials["done"] == before + 1


@pytest.mark.parametrize("content", ["", '{"kind": "audit_st'])
def test_an_empty_log_is_refused(content, log):
    (log.run / "events.jsonl").write_text(content)

    with pytest.raises(InputError, match="got an empty log"):
        read_status(log.run)


def test_a_damaged_plan_is_refused(log):
    (log.run / "plan.resolved.yaml").write_text("[")

    with pytest.raises(InputError, match="Expected YAML"):
        read_status(log.run)


def test_a_damaged_lease_is_refused(log):
    log.drive()
    lease_path(log.run, 1).write_text("[]")

    with pytest.raises(InputError, match="Expected the lease of a driver"):
        read_status(log.run)


def test_a_last_line_that_is_being_written_is_left_out(log):
    with (log.run / "events.jsonl").open("a") as file:
        file.write('{"kind": "trial_sta')

    assert counts(read_status(log.run)) == {"total": 4, "waiting": 4}


def test_a_large_run_is_read_at_once_and_without_torch(tmp_path):
    log = Log(tmp_path, trials=920, evaluations=92_000)
    lines = log.run / "events.jsonl"
    first = lines.read_bytes()
    for trial in range(40):
        log.start(trial, str(trial))
        for evaluations in range(0, 100, 2):
            log.progress(trial + 1, str(trial), evaluations, 0.5)
        log.finish(trial + 2, str(trial))
    rest = lines.read_bytes()[len(first) :]
    lines.write_bytes(first + 20 * rest)
    script = (
        "import sys, pathlib; from engine.run_folder.status import read_status; "
        "print(read_status(pathlib.Path(sys.argv[1])).trials['done']); print(sorted(sys.modules))"
    )
    started = time.monotonic()

    ran = subprocess.run(
        [sys.executable, "-c", script, log.run], capture_output=True, text=True, check=True
    )

    assert time.monotonic() - started < 10  # About one on an idle machine.
    done, modules = ran.stdout.splitlines()
    assert done == "40"
    assert not {"torch", "ray", "mlflow"} & set(json.loads(modules.replace("'", '"')))
