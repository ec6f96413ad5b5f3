import fcntl
import json
import logging
import shutil
import subprocess
import sys
import time

import pytest

from engine.errors import InfrastructureError, InputError
from engine.run_folder import RunFolder, json_lines
from engine.tracking import MlflowTracker
from engine.tracking.connection import TrackingError, checked_uri, plain_reason, redacted, shown_uri

pytestmark = pytest.mark.filterwarnings(
    # SQLAlchemy 2.1 on how MLflow 3.17 loads its tables.
    "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"
)

DEFENSE = "sparsification(percent=90)"


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path / "runs", "small", plan="name: small\n", resolved={})


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory):
    """An MLflow database without runs: the migrations that make one take seconds."""
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    assert Store(f"sqlite:///{path}").client.search_experiments() != []
    return path


@pytest.fixture
def store(tmp_path, empty_database):
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return Store(f"sqlite:///{tmp_path / 'mlflow.db'}")


class Store:
    """An MLflow database, and what its own client finds in it."""

    def __init__(self, uri):
        self.uri = uri

    def tracker(self, folder):
        return MlflowTracker(folder, uri=self.uri, experiment="audits")

    @property
    def client(self):
        from mlflow import MlflowClient

        return MlflowClient(self.uri)

    def runs(self):
        """Returns the runs by trial; the parent's key is None."""
        experiment = self.client.get_experiment_by_name("audits")
        found = self.client.search_runs([experiment.experiment_id])
        by_trial = {run.data.tags.get("leaktune.trial"): run for run in found}
        assert len(by_trial) == len(found), "a trial has two runs"
        return by_trial

    def curve(self, trial, key):
        """Returns every row of a metric as (step, value)."""
        rows = self.client.get_metric_history(self.runs()[trial].info.run_id, key)
        return sorted((row.step, row.value) for row in rows)

    def artifacts(self, path=None):
        found = self.client.list_artifacts(self.runs()[None].info.run_id, path)
        return [
            name
            for each in found
            for name in (self.artifacts(each.path) if each.is_dir else [each.path])
        ]


def start(folder, **params):
    folder.append_event(
        "audit_started",
        run=folder.name,
        name="small",
        params={"budget": 40, **params},
        tags={"commit": "abc"},
        trials=2,
    )


def run_trial(folder, trial):
    folder.append_event("trial_started", trial=trial, params={"defense": DEFENSE})
    folder.append_event("trial_progress", trial=trial, evaluations=17, loss=0.625)
    folder.append_event(
        "trial_finished",
        trial=trial,
        metrics={"psnr": 17.0, "ssim": 0.25, "label_accuracy": None},
        trace=[[20, 0.5, 12.0], [30, 0.375, None], [40, 0.25, 17.0]],
        matching="kernels",
    )


def finish(folder, artifacts=()):
    folder.append_event(
        "audit_finished",
        verdict="leaks",
        metrics={f"leakage_fraction/{DEFENSE}": 0.5},
        artifacts=list(artifacts),
    )


def test_an_audit_becomes_a_parent_run_and_a_child_run_for_every_trial(folder, store):
    start(folder)
    run_trial(folder, "t0")
    run_trial(folder, "t1")
    finish(folder)

    report = store.tracker(folder).sync()

    runs = store.runs()
    parent = runs[None]
    assert (report.events, report.runs, report.complete) == (8, 3, True)
    assert set(runs) == {None, "t0", "t1"}
    assert parent.info.status == "FINISHED"
    assert parent.data.params == {"budget": "40"}
    assert parent.data.tags["commit"] == "abc"
    assert parent.data.tags["leaktune.run"] == folder.name
    assert parent.data.tags["leaktune.verdict"] == "leaks"
    assert parent.data.metrics == {"leakage_fraction/sparsification_percent_90": 0.5}
    assert runs["t0"].data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert runs["t0"].data.params == {"defense": DEFENSE}
    metrics = {"loss": 0.25, "psnr": 17.0, "ssim": 0.25, "loss_so_far": 0.625}
    assert runs["t0"].data.metrics == metrics
    assert runs["t0"].data.tags["leaktune.matching"] == "kernels"
    assert runs["t0"].info.status == "FINISHED"


def test_trials_are_named_by_what_tells_them_apart(folder, store):
    start(folder)
    params = {"attack": "ggl", "defense": "none", "target": 3, "seed": 0, "searcher": "sepcma"}
    folder.append_event("trial_started", trial="t0", params=params)
    folder.append_event("trial_started", trial="t1", params={"defense": "none", "target": 3})
    folder.append_event("trial_started", trial="t2", params={})

    store.tracker(folder).sync()

    names = {trial: run.info.run_name for trial, run in store.runs().items()}
    assert names == {
        None: folder.name,
        "t0": "target 3, none, ggl, sepcma, seed 0",
        "t1": "target 3, none",
        "t2": "t2",
    }


def test_metrics_stand_against_evaluations_at_the_time_of_their_event(folder, store):
    start(folder)
    run_trial(folder, "t0")

    report = store.tracker(folder).sync()

    assert store.curve("t0", "loss") == [(20, 0.5), (30, 0.375), (40, 0.25)]
    assert store.curve("t0", "psnr") == [(20, 12.0), (40, 17.0)]
    assert store.curve("t0", "loss_so_far") == [(17, 0.625)]
    assert report.metrics == 7
    progress = next(e for e in folder.events() if e["kind"] == "trial_progress")
    rows = store.client.get_metric_history(store.runs()["t0"].info.run_id, "loss_so_far")
    assert rows[0].timestamp == int(progress["time"] * 1000)


def test_a_second_sync_adds_nothing(folder, store):
    start(folder)
    run_trial(folder, "t0")
    finish(folder)
    tracker = store.tracker(folder)
    tracker.sync()

    reports = [tracker.sync(), store.tracker(folder).sync()]

    assert [report.metrics for report in reports] == [0, 0]
    assert [report.complete for report in reports] == [True, True]
    assert len(store.curve("t0", "loss")) == 3


def test_a_sync_in_the_middle_leaves_only_the_rest_for_the_next(folder, store):
    start(folder)
    folder.append_event("trial_started", trial="t0", params={"defense": DEFENSE})
    folder.append_event("trial_progress", trial="t0", evaluations=17, loss=0.625)
    first = store.tracker(folder).sync()
    run_trial(folder, "t0")  # As after a lost worker: begun anew, with the same outcome.
    finish(folder)

    second = store.tracker(folder).sync()

    assert (first.metrics, first.complete) == (1, False)
    assert (second.metrics, second.complete) == (7, True)
    assert store.curve("t0", "loss") == [(20, 0.5), (30, 0.375), (40, 0.25)]
    assert set(store.runs()) == {None, "t0"}


def test_runs_are_found_again_when_their_ids_were_not_written_down(folder, store):
    start(folder)
    run_trial(folder, "t0")
    store.tracker(folder).sync()
    (folder.path / "tracking.json").unlink()

    store.tracker(folder).sync()

    assert set(store.runs()) == {None, "t0"}
    assert store.curve("t0", "loss") == [(20, 0.5), (30, 0.375), (40, 0.25)]


def test_a_sync_that_fails_in_the_middle_goes_on_where_it_stopped(folder, store, monkeypatch):
    monkeypatch.setattr("engine.tracking.mlflow_tracker.EVENTS_PER_STEP", 2)
    start(folder)
    run_trial(folder, "t0")
    run_trial(folder, "t1")
    finish(folder)
    tracker = store.tracker(folder)
    send_status = tracker._send_status

    def fail_at_t1(run_id, change):
        if change.metrics and tracker.pending() == (2, 8):
            raise ConnectionResetError("connection reset")
        send_status(run_id, change)

    monkeypatch.setattr(tracker, "_send_status", fail_at_t1)
    with pytest.raises(InfrastructureError, match="connection reset"):
        tracker.sync()
    monkeypatch.undo()

    assert tracker.pending() == (2, 8)
    assert tracker.sync().complete
    assert tracker.pending() == (0, 8)
    assert set(store.runs()) == {None, "t0", "t1"}
    assert store.curve("t1", "loss") == [(20, 0.5), (30, 0.375), (40, 0.25)]
    assert store.curve("t1", "psnr") == [(20, 12.0), (40, 17.0)]


def test_a_sync_reads_on_where_the_last_one_ended(folder, store, monkeypatch):
    starts = []
    read_on = json_lines.read_on

    def watched(path, start):
        starts.append(start)
        return read_on(path, start)

    monkeypatch.setattr(json_lines, "read_on", watched)
    tracker = store.tracker(folder)
    start(folder)
    tracker.sync()
    first = (folder.path / "events.jsonl").stat().st_size
    run_trial(folder, "t0")
    tracker.sync()
    second = (folder.path / "events.jsonl").stat().st_size

    assert tracker.sync().events == 4
    assert starts == [0, first, second]
    assert store.curve("t0", "loss") == [(20, 0.5), (30, 0.375), (40, 0.25)]


def test_a_sync_begins_anew_where_another_one_has_sent_some(folder, store):
    tracker = store.tracker(folder)
    start(folder)
    tracker.sync()
    run_trial(folder, "t0")
    store.tracker(folder).sync()
    finish(folder)

    report = tracker.sync()

    assert report.complete
    assert report.metrics == 1  # The one of the audit's end.
    assert store.curve("t0", "loss") == [(20, 0.5), (30, 0.375), (40, 0.25)]


def test_two_databases_each_get_everything(folder, store, tmp_path):
    other = Store(f"sqlite:///{shutil.copy(tmp_path / 'mlflow.db', tmp_path / 'other.db')}")
    start(folder)
    run_trial(folder, "t0")

    counts = [each.tracker(folder).sync().metrics for each in (store, other, store)]

    assert counts == [7, 7, 0]
    assert set(other.runs()) == {None, "t0"}


def test_a_failed_trial_says_why(folder, store):
    start(folder)
    folder.append_event("trial_started", trial="t0", params={})
    folder.append_event("trial_failed", trial="t0", error="out of memory", traceback="...")

    store.tracker(folder).sync()

    assert store.runs()["t0"].info.status == "FAILED"
    assert store.runs()["t0"].data.tags["leaktune.error"] == "out of memory"


def test_a_failed_trial_that_succeeds_after_a_resume_has_no_error(folder, store):
    start(folder)
    folder.append_event("trial_started", trial="t0", params={})
    folder.append_event("trial_failed", trial="t0", error="out of memory", traceback="...")
    store.tracker(folder).sync()
    folder.append_event("audit_resumed", done=0)
    run_trial(folder, "t0")

    store.tracker(folder).sync()

    assert store.runs()["t0"].info.status == "FINISHED"
    assert not store.runs()["t0"].data.tags.get("leaktune.error")


def test_an_interrupted_audit_is_killed_and_runs_again_after_a_resume(folder, store):
    tracker = store.tracker(folder)
    start(folder)
    folder.append_event("trial_started", trial="t0", params={"defense": DEFENSE})
    folder.append_event("audit_interrupted")

    tracker.sync()
    interrupted = {trial: run.info.status for trial, run in store.runs().items()}
    folder.append_event("audit_resumed", done=0)
    tracker.sync()
    resumed = {trial: run.info.status for trial, run in store.runs().items()}
    run_trial(folder, "t0")
    finish(folder)
    tracker.sync()
    finished = {trial: run.info.status for trial, run in store.runs().items()}

    assert interrupted == {None: "KILLED", "t0": "KILLED"}
    assert resumed == {None: "RUNNING", "t0": "KILLED"}
    assert finished == {None: "FINISHED", "t0": "FINISHED"}


def test_only_listed_files_leave_the_machine(folder, store):
    (folder.path / "report" / "index.html").write_text("report")
    (folder.path / "summary.json").write_text("{}")
    (folder.private / "montage.png").write_text("private")
    (folder.private / "t0.safetensors").write_text("private")
    start(folder)
    finish(folder, ["summary.json", "report/index.html"])
    store.tracker(folder).sync()
    without = store.artifacts()
    folder.append_event("audit_resumed", done=0)
    finish(folder, ["private/montage.png"])

    store.tracker(folder).sync()

    assert sorted(without) == ["report/index.html", "summary.json"]
    assert sorted(store.artifacts()) == [
        "private/montage.png",
        "report/index.html",
        "summary.json",
    ]


def test_private_images_that_were_removed_since_keep_nothing_back(folder, store):
    (folder.path / "summary.json").write_text("{}")
    start(folder)
    finish(folder, ["private/montage.png", "summary.json"])

    report = store.tracker(folder).sync()

    assert report.complete
    assert store.artifacts() == ["summary.json"]


def test_what_cannot_be_noted_is_told_of_and_sent_again(folder, store, monkeypatch):
    start(folder)
    finish(folder)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("engine.tracking.mlflow_tracker.write_json", full)
        with pytest.raises(TrackingError, match=r"No space left on device\. Make room"):
            store.tracker(folder).sync()

    assert store.tracker(folder).sync().complete
    assert len(store.runs()) == 1


@pytest.mark.parametrize("artifact", ["gone.html", "private", "link.html", "../outside.txt"])
def test_what_is_not_a_plain_file_of_the_run_folder_is_not_uploaded(folder, store, artifact):
    (folder.private / "t0.png").write_text("private")
    (folder.path / "link.html").symlink_to(folder.private / "t0.png")
    (folder.path.parent / "outside.txt").write_text("outside")
    start(folder)
    finish(folder, [artifact])

    with pytest.raises(InputError, match="plain file"):
        store.tracker(folder).sync()

    assert store.artifacts() == []
    assert store.runs()[None].info.status == "FINISHED"


def test_long_texts_are_cut(folder, store):
    start(folder, plan="x" * 7000)

    store.tracker(folder).sync()

    text = store.runs()[None].data.params["plan"]
    assert len(text) == 6000
    assert text.endswith("x…")


def test_more_values_than_one_batch_takes_all_arrive(folder, store):
    start(folder, **{f"setting_{index}": index for index in range(130)})
    folder.append_event("trial_started", trial="t0", params={})
    trace = [[step, 0.5, 12.0] for step in range(1300)]
    folder.append_event("trial_finished", trial="t0", metrics={}, trace=trace)

    store.tracker(folder).sync()

    assert len(store.runs()[None].data.params) == 131
    assert len(store.curve("t0", "psnr")) == 1300


def test_an_audit_finished_again_shows_its_last_metrics(folder, store):
    start(folder)
    for fraction in (0.75, 0.5):
        folder.append_event(
            "audit_finished",
            verdict="leaks",
            metrics={"leakage_fraction/none": fraction},
            artifacts=[],
        )

    store.tracker(folder).sync()

    assert store.runs()[None].data.metrics == {"leakage_fraction/none": 0.5}


def test_a_run_folder_without_events_has_nothing_to_send(folder, store):
    assert store.tracker(folder).sync().events == 0


def test_a_deleted_run_comes_back_with_everything(folder, store):
    start(folder)
    run_trial(folder, "t0")
    store.tracker(folder).sync()
    store.client.delete_run(store.runs()["t0"].info.run_id)

    store.tracker(folder).sync()

    assert store.runs()["t0"].data.params == {"defense": DEFENSE}
    assert len(store.curve("t0", "loss")) == 3


def test_two_processes_do_not_send_one_folder_at_once(folder, store):
    start(folder)
    with (folder.path / "events.jsonl").open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InfrastructureError, match="another process is sending this run"):
            store.tracker(folder).sync()

    assert store.tracker(folder).sync().events == 1


def test_an_unreachable_server_is_reported_soon_with_the_remedy(folder):
    start(folder)
    tracker = MlflowTracker(folder, uri="http://user:secret@127.0.0.1:9", experiment="audits")
    begun = time.monotonic()

    with pytest.raises(InfrastructureError) as caught:
        tracker.sync()

    assert time.monotonic() - begun < 10
    message = str(caught.value)
    assert "http://***@127.0.0.1:9" in message
    assert "nothing listens there" in message
    assert f"leaktune sync {folder.path}" in message
    assert "secret" not in message


@pytest.mark.parametrize(
    "uri", ["file:///tmp/mlruns", "mlruns", "databricks", "sqlite:mlflow.db", "sqlite://", "http:"]
)
def test_a_uri_where_mlflow_keeps_no_runs_is_refused(folder, uri):
    with pytest.raises(InfrastructureError, match=r"sqlite:///mlflow\.db"):
        MlflowTracker(folder, uri=uri, experiment="audits")


def test_a_refused_uri_is_shown_without_its_password(folder):
    with pytest.raises(InfrastructureError) as caught:
        MlflowTracker(folder, uri="ftp://user:secret@host/?password=secret", experiment="audits")

    assert "secret" not in str(caught.value)


def test_no_password_is_written_into_the_run_folder(folder, store):
    start(folder)
    store.tracker(folder).sync()
    uri = "postgresql://user:p%40ss@host/db?password=hidden"
    tracker = MlflowTracker(folder, uri=uri, experiment="audits")

    tracker._save(tracker._load().__class__(1, {"": "id"}))

    text = (folder.path / "tracking.json").read_text()
    assert "p%40ss" not in text
    assert "hidden" not in text
    assert len(json.loads(text)) == 2


def test_a_password_is_taken_out_of_an_error():
    uri = "postgresql://user:p%40ss@host/db"

    assert redacted("user 'user' with p%40ss or p@ss", uri) == "user 'user' with *** or ***"


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
        ("https://token@host:5000/mlflow", "https://***@host:5000/mlflow"),
        ("postgresql://user:a?b/c@host/db?password=d", "postgresql://***@host/db"),
    ],
)
def test_a_uri_is_shown_without_its_secrets(uri, shown):
    assert shown_uri(uri) == shown


def test_a_relative_database_does_not_depend_on_a_later_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert checked_uri("sqlite:///mlflow.db") == f"sqlite:///{tmp_path}/mlflow.db"


def test_the_root_of_an_error_is_named():
    error = RuntimeError("wrapped")
    error.__cause__ = TimeoutError("timed out")

    assert plain_reason(error) == "it did not answer in time"
    assert plain_reason(ValueError("first\nsecond")) == "first"


def test_a_new_database_is_made_without_chatter(folder, tmp_path, capfd):
    start(folder)

    Store(f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}").tracker(folder).sync()

    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("mlflow").level == logging.ERROR


def test_neither_importing_nor_making_a_tracker_imports_mlflow(folder):
    code = (
        "import sys, engine.tracking as t; from engine.run_folder import RunFolder;"
        "t.Uploader(RunFolder(None), 'sqlite:///x.db', 'e'); print('mlflow' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.stdout.strip() == "False", done.stderr
