import json

import pytest

from engine.errors import InfrastructureError
from engine.tracking import TrackingError, TrainingTracker

pytestmark = pytest.mark.filterwarnings(
    # SQLAlchemy 2.1 on how MLflow 3.17 loads its tables.
    "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"
)


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def client(uri):
    from mlflow import MlflowClient

    return MlflowClient(uri)


def tracker_of(folder, uri, experiment="trainings"):
    return TrainingTracker(folder, uri=uri, experiment=experiment)


def run_of(folder):
    return json.loads((folder / "tracking.json").read_text())["run"]


def test_settings_figures_pictures_and_card_are_in_one_run(tmp_path, uri, client):
    picture, card = tmp_path / "epoch-0002.png", tmp_path / "generator.md"
    picture.write_bytes(b"a picture")
    card.write_text("a card")
    tracker = tracker_of(tmp_path / "out", uri)

    tracker.start({"epochs": 2, "recipe": "vae-gan"}, resume=False)
    tracker.log_epoch(1, {"squared error": 0.5}, None)
    tracker.log_epoch(2, {"squared error": 0.25}, picture)
    tracker.finish({"oracle_psnr_db": 20.0}, 2, card)

    found = client.get_run(run_of(tmp_path / "out"))
    assert found.data.params == {"epochs": "2", "recipe": "vae-gan"}
    assert found.data.metrics["oracle_psnr_db"] == 20.0
    assert found.info.status == "FINISHED"
    history = client.get_metric_history(found.info.run_id, "squared_error")
    assert [(row.step, row.value) for row in history] == [(1, 0.5), (2, 0.25)]
    artifacts = client.list_artifacts(found.info.run_id)
    assert {each.path for each in artifacts} == {"samples", "generator.md"}


def test_a_resumed_training_goes_on_in_its_run(tmp_path, uri, client):
    tracker_of(tmp_path, uri).start({}, resume=False)
    first = run_of(tmp_path)

    again = tracker_of(tmp_path, uri)
    again.start({}, resume=True)
    again.log_epoch(3, {"critic": 1.5}, None)

    assert run_of(tmp_path) == first
    assert client.get_run(first).data.metrics == {"critic": 1.5}


def test_a_new_training_in_the_same_folder_gets_a_run_of_its_own(tmp_path, uri):
    tracker_of(tmp_path, uri).start({}, resume=False)
    first = run_of(tmp_path)

    tracker_of(tmp_path, uri).start({}, resume=False)

    assert run_of(tmp_path) != first


@pytest.mark.parametrize("text", ["", "[]", '{"uri": 1}', "not json"])
def test_a_damaged_note_of_the_run_starts_another(text, tmp_path, uri):
    (tmp_path / "tracking.json").write_text(text)

    tracker_of(tmp_path, uri).start({}, resume=True)

    assert run_of(tmp_path)


def test_a_run_that_was_deleted_there_is_made_anew(tmp_path, uri, client):
    tracker_of(tmp_path, uri).start({}, resume=False)
    first = run_of(tmp_path)
    client.delete_run(first)

    tracker_of(tmp_path, uri).start({}, resume=True)

    assert run_of(tmp_path) != first


def test_a_server_that_is_not_there_is_one_error_without_secrets(tmp_path):
    tracker = tracker_of(tmp_path, "http://me:secret@127.0.0.1:9")

    with pytest.raises(TrackingError, match="nothing listens there") as caught:
        tracker.start({}, resume=False)

    assert "secret" not in str(caught.value)
    assert "leave --tracking out" in str(caught.value)


def test_a_folder_is_no_tracking_uri(tmp_path):
    with pytest.raises(InfrastructureError, match="Expected a tracking URI"):
        tracker_of(tmp_path, str(tmp_path))
