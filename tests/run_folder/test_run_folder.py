import json
import math
import os
import stat

import numpy as np
import pytest

from engine.errors import InfrastructureError, InputError
from engine.run_folder import RunFolder, write_json

LOSSES = np.array([0.5, 0.25, math.inf], dtype=np.float32)


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path / "runs", "mine", plan="# as written", resolved={"seed": 7})


def test_a_new_folder_is_named_after_time_and_audit_and_holds_the_plan_twice(folder):
    stamp, name, random = folder.name.split("-")

    assert (len(stamp), name, len(random)) == (len("20260101T000000Z"), "mine", 6)
    assert (folder.path / "plan.yaml").read_text() == "# as written"
    assert folder.plan() == {"seed": 7}


def test_two_audits_of_one_second_have_folders_of_their_own(tmp_path):
    names = {RunFolder.create(tmp_path, "x", plan="", resolved={}).name for _ in range(5)}

    assert len(names) == 5


def test_reconstructions_stay_where_only_their_owner_reads(folder):
    images = np.arange(24, dtype=np.float32).reshape(2, 1, 3, 4)

    folder.save_images("trial", images.transpose(0, 1, 3, 2))

    np.testing.assert_array_equal(folder.load_images("trial"), images.transpose(0, 1, 3, 2))
    assert stat.S_IMODE(folder.private.stat().st_mode) == 0o700


def test_events_are_read_back_in_order_with_their_times(folder):
    folder.append_event("one", value=1)
    folder.append_event("two", text="zwölf")

    first, second = folder.events()
    assert (first["kind"], first["value"]) == ("one", 1)
    assert (second["kind"], second["text"]) == ("two", "zwölf")
    assert first["time"] <= second["time"]


def test_a_folder_without_events_has_none(folder):
    assert list(folder.events()) == []


@pytest.mark.parametrize("torn", [b'{"kind": "tw', b"\xc3", b"{"])
def test_a_line_torn_by_a_crash_is_left_out_and_then_written_over(folder, torn):
    folder.append_event("one")
    with (folder.path / "events.jsonl").open("ab") as file:
        file.write(torn)

    before = [event["kind"] for event in folder.events()]
    folder.append_event("two")

    assert before == ["one"]
    assert [event["kind"] for event in folder.events()] == ["one", "two"]


def test_a_first_line_torn_by_a_crash_is_written_over(folder):
    (folder.path / "events.jsonl").write_bytes(b'{"kind"')

    folder.append_event("one")

    assert [event["kind"] for event in folder.events()] == ["one"]


@pytest.mark.parametrize("damaged", [b"\x00\x00\x00\n", b'{"kind": \n', b"\xff\n", b"7\n"])
def test_a_line_damaged_in_the_middle_costs_itself_alone(folder, damaged):
    folder.append_event("one")
    with (folder.path / "events.jsonl").open("ab") as file:
        file.write(damaged)
    folder.append_event("two")

    assert [event["kind"] for event in folder.events()] == ["one", "two"]


def test_numbers_that_json_does_not_have_are_refused_and_nothing_is_written(folder):
    with pytest.raises(ValueError, match="JSON"):
        folder.append_event("bad", loss=math.nan)
    with pytest.raises(ValueError, match="JSON"):
        write_json(folder.path / "bad.json", {"loss": math.inf})

    assert list(folder.events()) == []
    assert not (folder.path / "bad.json").exists()


def test_json_is_replaced_as_a_whole(folder):
    path = folder.path / "value.json"
    write_json(path, {"a": 1})

    with pytest.raises(TypeError):
        write_json(path, {"a": object()})

    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in folder.path.glob("value*")] == ["value.json"]


def test_losses_come_back_to_the_bit_to_the_same_spec_alone(folder):
    folder.save_losses("trial", LOSSES, "spec")

    np.testing.assert_array_equal(folder.load_losses("trial", "spec"), LOSSES)
    assert folder.load_losses("trial", "another") is None
    assert folder.load_losses("never started", "spec") is None


@pytest.mark.parametrize("name", ["state.json", "state.safetensors"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", None])
def test_losses_that_cannot_be_read_are_no_losses(folder, name, content):
    folder.save_losses("trial", LOSSES, "spec")
    path = folder.trial_folder("trial") / name
    path.unlink() if content is None else path.write_bytes(content)

    assert folder.load_losses("trial", "spec") is None


def test_a_trial_counts_as_finished_once_its_result_is_there(folder):
    folder.save_losses("unfinished", LOSSES, "spec")
    write_json(folder.trial_folder("finished") / "result.json", {"loss": 0.5})

    assert folder.results() == {"finished": {"loss": 0.5}}


def test_a_trial_is_finished_by_a_result_of_its_own_spec(folder):
    write_json(folder.trial_folder("trial") / "result.json", {"spec": "spec"})

    assert folder.is_finished("trial", "spec")
    assert not folder.is_finished("trial", "another")
    assert not folder.is_finished("never started", "spec")


@pytest.mark.parametrize("content", [b"", b"{", b"\x00\x00", b"[1]"])
def test_a_damaged_result_is_none(folder, content):
    for trial in ("damaged", "whole"):
        write_json(folder.trial_folder(trial) / "result.json", {"spec": "spec"})
    (folder.trial_folder("damaged") / "result.json").write_bytes(content)

    assert not folder.is_finished("damaged", "spec")
    assert list(folder.results()) == ["whole"]


def test_results_whose_images_or_losses_are_damaged_are_taken_back_but_not_those_without_images(
    folder,
):
    for trial in ("damaged", "gone", "lossy", "whole"):
        write_json(folder.trial_folder(trial) / "result.json", {"spec": "spec"})
        folder.save_images(trial, np.zeros((1, 1, 2, 2), np.float32))
        folder.save_losses(trial, LOSSES, "spec")
    (folder.private / "gone.safetensors").unlink()
    os.truncate(folder.private / "damaged.safetensors", 20)
    (folder.trial_folder("lossy") / "state.safetensors").write_bytes(b"\0" * 100)

    assert folder.forget_damaged() == ["damaged", "lossy"]
    assert list(folder.results()) == ["gone", "whole"]
    assert folder.forget_damaged() == []


@pytest.mark.parametrize("content", [None, b"", b"\0\0"])
def test_a_damaged_provenance_is_refused(folder, content):
    if content is not None:
        (folder.path / "provenance.json").write_bytes(content)

    with pytest.raises(InputError, match=r"Expected JSON in .*provenance.json"):
        folder.provenance()


def test_what_cannot_be_written_is_said_with_how_to_go_on(folder):
    (folder.path / "events.jsonl").mkdir()

    with pytest.raises(InfrastructureError, match=r"Is a directory.*leaktune resume .*-mine-"):
        folder.append_event("one")


def test_an_existing_folder_is_opened_by_its_path(folder):
    folder.append_event("audit_started")

    assert RunFolder.open(folder.path).plan() == {"seed": 7}


@pytest.mark.parametrize("missing", ["plan.resolved.yaml", "events.jsonl"])
def test_a_folder_that_is_no_run_is_refused_by_what_it_lacks(folder, missing):
    folder.append_event("audit_started")
    (folder.path / missing).unlink()

    with pytest.raises(InputError, match=f"it has no {missing}"):
        RunFolder.open(folder.path)
