"""Workers and drivers killed at random moments: every trial ends as if nothing had happened."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

import engine
from engine.history_file import FORMAT, _records
from tests.with_ray.test_audit import without_times

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LAUNCHER = Path(engine.__file__).parent / "run.py"
SEARCHERS = ("gauss_newton", "nevergrad:DiagonalCMA")
KILLS = 6  # Of workers, and of drivers, for each searcher.
LOSSES_OF_A_TRIAL = 3  # Workers a trial may lose.
INCONCLUSIVE = 101
PATIENCE_SECONDS = 240


def plan_of(searcher):
    return {
        "name": "killed",
        "targets": 6,
        "controls": [],
        "attack": {"searcher": searcher, "budget": 4000},
        "compute": {"workers": 2, "searches_per_trial": 2},
        "tracking": {"mlflow": False},
    }


@dataclass
class Audit:
    """A command that runs an audit, in a session of its own, and what is seen of its folder.

    Attributes:
        home: Where the plan lies and runs are written.
        options: Of the command line, besides.
        growing: Whether a generation was kept since the command started or a worker was killed.
        losses: By trial, how many workers it may have lost.
        kept: By trial, then by number of attempt: evaluations it was restored from, and all of
            those in its history.
        seen: Ids of its processes, some of them ended.
    """

    home: Path
    options: tuple[str, ...] = ()
    process: subprocess.Popen = None
    growing: bool = False
    losses: Counter = field(default_factory=Counter)
    kept: dict = field(default_factory=dict)
    seen: set = field(default_factory=set)

    @property
    def run(self):
        """The run folder, once it is there."""
        return next((path.parent for path in self.home.glob("runs/*/events.jsonl")), None)

    def start(self):
        """Starts the audit, or resumes it where there is a run folder."""
        self.growing = False
        words = ["resume", self.run] if self.run else ["run", "--config", "plan.yaml"]
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, LAUNCHER, *words, *self.options],
                cwd=self.home,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def over(self):
        """Whether the command has ended; notes what the histories hold."""
        for path in self.home.glob("runs/*/trials/*/history-*.bin"):
            try:
                counts = evaluations_in(path)
            except OSError:
                continue  # The trial has just finished.
            if counts:
                attempts = self.kept.setdefault(path.parent.name, {})
                before, attempts[path.name] = attempts.get(path.name), (counts[0], sum(counts))
                self.growing |= before != attempts[path.name]
        return self.process.poll() is not None

    def wait(self, condition):
        """Waits for a condition or the end of the command; returns whether it came to it."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self.over() and not condition():
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.03)
        return condition()

    def sleep(self, seconds):
        until = time.monotonic() + seconds
        self.wait(lambda: time.monotonic() >= until)

    def wait_started(self):
        """Waits for the run folder."""
        return self.wait(lambda: self.run)

    def wait_searching(self):
        """Waits until a generation is kept."""
        return self.wait(lambda: self.growing)

    def kill_driver(self, *, alone):
        """Kills the command, alone or with all its processes."""
        family = processes_of(self.process.pid)
        self.seen.update(family)
        kill(family[:1] if alone else family)
        self.process.wait()
        self.over()

    def kill_worker(self, rng):
        """Kills a worker, if every trial under way may lose one; returns whether it did."""
        workers = self.workers()
        done = {event["trial"] for event in self.events("trial_finished")}
        under_way = {event["trial"] for event in self.events("trial_started")} - done
        if (
            not workers
            or max((self.losses[trial] for trial in under_way), default=0) == LOSSES_OF_A_TRIAL
        ):
            return False
        self.growing = False
        self.losses.update(under_way)
        kill([rng.choice(workers)])
        return True

    def workers(self):
        """Returns the ids of its workers' processes."""
        family = processes_of(self.process.pid)
        self.seen.update(family)
        return [pid for pid in family if is_worker(pid)]

    def clear_away(self):
        """Ends what is left of its processes."""
        kill(processes_of(self.process.pid) if self.process.poll() is None else [])
        kill(pid for pid in self.seen if "ray" in command_of(pid))

    def assert_kept_what_was_reported(self):
        reported = {e["trial"]: e["evaluations"] for e in self.events("trial_progress")}
        for trial, attempts in self.kept.items():
            most = max(total for _, total in attempts.values())
            assert most >= reported.get(trial, 0), (trial, attempts, reported)

    def events(self, kind):
        lines = (self.run / "events.jsonl").read_text().splitlines() if self.run else []
        events = [json.loads(line) for line in lines if line.endswith("}")]
        return [event for event in events if event["kind"] == kind]

    def log(self):
        return (self.home / "log").read_text()

    def finish(self):
        """Waits for the end; returns the trials without their times."""
        self.wait(lambda: False)
        assert self.process.returncode in (0, INCONCLUSIVE), self.log()
        summary = self.summary()
        assert summary["failed"] == [], self.log()
        return [without_times(trial) for trial in summary["trials"]]

    def summary(self):
        return json.loads((self.run / "summary.json").read_text())

    def repeated(self):
        """Counts the recorded evaluations that an attempt did again, by trial."""
        again = Counter()
        for trial, attempts in self.kept.items():
            numbered = [attempts[name] for name in sorted(attempts)]
            for (_, before), (restored, _) in itertools.pairwise(numbered):
                again[trial] += max(0, before - restored)
        return again


def evaluations_in(path):
    """Returns how many evaluations each record of a history has; the first was restored."""
    head, _, records = path.read_bytes().partition(b"\n")
    assert head.startswith(FORMAT.encode()[: len(head)])
    return [len(record.losses) for record in _records(memoryview(records))]


def processes_of(pid):
    """Returns the ids of a process and of all its descendants."""
    children = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def command_of(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def is_worker(pid):
    return command_of(pid).startswith("ray::ImplicitFunc")


def kill(pids):
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


@pytest.fixture
def audits(tmp_path):
    """Starts audits, and ends what is left of them."""
    made = []

    def start(searcher):
        made.append(started(tmp_path / str(len(made)), plan_of(searcher)))
        return made[-1]

    yield start
    for audit in made:
        audit.clear_away()


def started(home, plan, *options):
    home.mkdir(exist_ok=True)
    (home / "plan.yaml").write_text(yaml.safe_dump(plan))
    audit = Audit(home, options)
    audit.start()
    return audit


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Returns what an audit that nothing happens to finds, by searcher."""
    found = {}

    def of(searcher):
        if searcher not in found:
            plan = plan_of(searcher)
            found[searcher] = started(tmp_path_factory.mktemp("whole"), plan).finish()
        return found[searcher]

    return of


@pytest.mark.parametrize("searcher", SEARCHERS)
def test_a_killed_driver_costs_no_more_than_the_generation_under_way(
    searcher, audits, whole, record_property
):
    """Killed with all its processes, as by a crash, or alone, so that its Ray is left over."""
    rng = random.Random(searcher)
    done, kills = [], Counter()
    audit = audits(searcher)
    while kills.total() < KILLS:
        how = ("searching", "starting", "alone")[kills.total() % 3]
        came = audit.wait_started() if how == "starting" else audit.wait_searching()
        audit.sleep(rng.uniform(0, 8 if how == "starting" else 2))
        if not came or audit.over():
            done.append(audit)
            assert audit.finish() == whole(searcher)
            audit = audits(searcher)
            continue
        audit.kill_driver(alone=how == "alone")
        kills[how] += 1
        audit.assert_kept_what_was_reported()
        audit.start()

    assert audit.finish() == whole(searcher)
    assert_nothing_was_repeated([*done, audit], kills, record_property)


@pytest.mark.parametrize("searcher", SEARCHERS)
def test_a_killed_worker_costs_no_more_than_the_generation_under_way(
    searcher, audits, whole, record_property
):
    rng = random.Random(searcher)
    done, kills = [], Counter()
    audit = audits(searcher)
    while kills.total() < KILLS:
        audit.wait_searching()
        audit.sleep(rng.uniform(0, 2))
        if audit.over():
            done.append(audit)
            assert audit.finish() == whole(searcher)
            audit = audits(searcher)
        elif audit.kill_worker(rng):
            kills["worker"] += 1

    assert audit.finish() == whole(searcher)
    assert_nothing_was_repeated([*done, audit], kills, record_property)


def assert_nothing_was_repeated(audits, kills, record_property):
    """No generation on disk was evaluated again, and searches under way were hit."""
    repeated = sum((audit.repeated() for audit in audits), Counter())
    attempts = [attempts for audit in audits for attempts in audit.kept.values()]
    restored = [count for files in attempts for _, (count, _) in sorted(files.items())[1:]]
    figures = {
        "kills": dict(kills),
        "audits": len(audits),
        "evaluations restored": restored,
        "evaluations repeated": dict(repeated),
    }
    record_property("figures", json.dumps(figures))
    assert not repeated, figures
    assert restored, figures
