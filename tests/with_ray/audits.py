"""Audits as commands of their own, what is seen of their folders, and what may happen to them."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import yaml

import engine
from engine.run_folder.history_file import FORMAT, _records

LAUNCHER = Path(engine.__file__).parent / "run.py"
SEARCHERS = ("gauss_newton", "nevergrad:DiagonalCMA")
LOSSES_OF_A_TRIAL = 3  # Workers a trial may lose.
TIMED = ("wall_s", "candidates_per_s")
INCONCLUSIVE = 101
PATIENCE_SECONDS = 240
HISTORIES = "runs/*/trials/*/history-*.bin"


def plan_of(searcher):
    return {
        "name": "killed",
        "targets": 6,
        "controls": [],
        "attack": {"searcher": searcher, "budget": 4000},
        "compute": {"workers": 2, "searches_per_trial": 2},
        "tracking": {"mlflow": False},
    }


def start(*words, home=None):
    """Starts a command in a process group of its own, as a shell does."""
    return subprocess.Popen(
        [sys.executable, LAUNCHER, *map(str, words)],
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process):
    """Returns exit code and output; ends whatever the command left behind."""
    try:
        out, err = process.communicate(timeout=300)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, out, err


def without_times(record):
    """Returns a trial's record without what no two runs have in common: seconds."""
    return {key: value for key, value in record.items() if key not in TIMED}


def started(home, plan, *options):
    home.mkdir(exist_ok=True)
    (home / "plan.yaml").write_text(yaml.safe_dump(plan))
    audit = Audit(home, options=options)
    audit.start()
    return audit


@dataclass
class Searches:
    """What is seen, in its run folder, of the searches of an audit.

    Attributes:
        home: Where runs are written.
        growing: Whether a generation was kept since an audit started or a worker was killed.
        hit: When a fault struck that no search has gone on after yet, by the monotonic clock.
        back: Seconds from each fault until a search that it broke off went on.
        kept: By trial, then by number of attempt: evaluations it was restored from, and all of
            those in its history.
    """

    home: Path
    growing: bool = False
    hit: float | None = None
    back: list[float] = field(default_factory=list)
    kept: dict = field(default_factory=dict)

    def look(self):
        """Notes what the histories hold."""
        for path in self.home.glob(HISTORIES):
            try:
                counts = evaluations_in(path)
            except OSError:
                continue  # The trial has just finished.
            if counts:
                attempts = self.kept.setdefault(path.parent.name, {})
                if self.hit and attempts and path.name not in attempts:
                    self.back.append(time.monotonic() - self.hit)
                    self.hit = None
                before, attempts[path.name] = attempts.get(path.name), (counts[0], sum(counts))
                self.growing |= before != attempts[path.name]

    def under_way(self):
        """Returns the trials that a generation is kept of and that have not finished."""
        return {path.parent.name for path in self.home.glob(HISTORIES)}

    def evaluations(self, trial):
        """Returns how many of a trial's evaluations were seen kept."""
        return max((total for _, total in self.kept.get(trial, {}).values()), default=0)

    def repeated(self):
        """Counts the recorded evaluations that an attempt did again, by trial."""
        again = Counter()
        for trial, attempts in self.kept.items():
            numbered = [attempts[name] for name in sorted(attempts)]
            for (_, before), (restored, _) in itertools.pairwise(numbered):
                again[trial] += max(0, before - restored)
        return again


@dataclass
class Audit(Searches):
    """A command that runs an audit, in a session of its own; its plan lies where runs are written.

    Attributes:
        options: Of the command line, besides.
        losses: By trial, how many workers it may have lost.
        seen: Ids of its processes, some of them ended.
    """

    options: tuple[str, ...] = ()
    process: subprocess.Popen = None
    losses: Counter = field(default_factory=Counter)
    seen: set = field(default_factory=set)

    @property
    def run(self):
        """The run folder, once it is there."""
        return next((path.parent for path in self.home.glob("runs/*/events.jsonl")), None)

    def start(self):
        """Starts the audit, or resumes it where there is a run folder."""
        self.growing = False
        self.hit = time.monotonic()
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
        self.look()
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
        self.hit = time.monotonic()
        return True

    def suspend_worker(self):
        """Stops a worker amid a trial for good, which does not end it; returns its id.

        One that is between two trials may not be missed.
        """
        while not (worker := self._stop_one_at_work()):
            assert not self.over(), self.log()
        self.hit = time.monotonic()
        return worker

    def _stop_one_at_work(self):
        for worker in self.workers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGSTOP)  # Or its trial might end after a look at it.
                if is_working(worker):
                    return worker
                os.kill(worker, signal.SIGCONT)
        return None

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
            assert self.evaluations(trial) >= reported.get(trial, 0), (trial, attempts, reported)

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


def is_working(pid):
    """Whether a worker has a trial, and neither waits for one nor is being started."""
    return command_of(pid).startswith("ray::ImplicitFunc.train")


def kill(pids):
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
