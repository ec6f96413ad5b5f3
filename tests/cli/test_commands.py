import json
import subprocess
import sys
from pathlib import Path

import pytest

from engine.federation.captures import write_capture
from engine.lab import build_lab, trial_specs
from engine.plan import make_plan, read_plan
from engine.run_folder import RunFolder
from engine.trial import observe

SMOKE = Path(__file__).parents[1] / "data" / "smoke.yaml"
KINDS = {
    "attacks": "ggl",
    "datasets": "celeba-32",
    "defenses": "soteria",
    "generators": "mlp",
    "metrics": "psnr",
    "models": "lenet",
    "searchers": "nevergrad:CMA",
    "spaces": "gaussian",
}
COMMANDS = {
    "": "Audit the privacy defenses of federated learning",
    "run": "Run an audit",
    "resume": "Finish an interrupted audit",
    "status": "Show how far an audit has come",
    "stop": "End a running audit",
    "tune": "Choose settings of the attack by its matching loss",
    "validate": "Check a plan and everything it names",
    "report": "Write an audit's summary and report anew",
    "sync": "Send to MLflow what it has not received",
    "list": "List what a plan may name",
    "doctor": "Check this machine",
    "capture": "Look at captured updates",
    "capture inspect": "Check a captured update against a plan's target model",
    "pretrain": "Make a generator, an evaluation classifier, target weights",
    "pretrain generator": "Train a generator and write it",
    "pretrain classifier": "Train the evaluation classifier",
    "pretrain target-model": "Train a target model",
    "pretrain private-images": "Choose private images and distractors",
}
HEAVY = ("torch", "ray", "mlflow", "numpy", "nevergrad", "optuna", "ax", "matplotlib")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_listed_for_people_with_a_summary_of_each_name(kind, leaktune):
    listed = leaktune("list", kind)

    assert listed.code == 0
    rows = dict(line.split(maxsplit=1) for line in listed.out.splitlines())
    assert rows[KINDS[kind]]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_listed_for_machines_with_the_same_names(kind, leaktune):
    listed = json.loads(leaktune("list", kind, "--format", "json").out)

    people = [line.split()[0] for line in leaktune("list", kind).out.splitlines()]
    assert [row["name"] for row in listed] == people
    assert all(row["summary"] for row in listed)


def test_searchers_are_listed_with_the_versions_of_their_libraries(leaktune):
    rows = json.loads(leaktune("list", "searchers", "--format", "json").out)

    assert all(list(row) == ["name", "family", "version", "available", "summary"] for row in rows)
    assert {"sepcma", "random", "cma:full", "optuna:TPE", "ax:BO", "turbo"} <= {
        row["name"] for row in rows
    }
    assert "1.0.12" in leaktune("list", "searchers").out
    assert "any other name of Nevergrad's registry" in leaktune("list", "searchers").err


def test_validating_a_good_plan_outlines_it_and_writes_nothing(leaktune, empty):
    checked = leaktune("validate", SMOKE, "--set", "targets=3")

    assert checked.code == 0
    assert "Plan 'smoke' is fine: 27 trials." in checked.out
    assert "clipping(max_norm=1) + gaussian_noise(std=0.01), compared by kernels" in checked.out
    assert "18 of 120 evaluations, 2160 in all" in checked.out
    assert list(empty.iterdir()) == []


def test_a_dry_run_outlines_the_plan_and_writes_nothing(leaktune, empty):
    outlined = leaktune("run", "--config", SMOKE, "--set", "targets=3", "--dry-run")

    assert outlined == leaktune("validate", SMOKE, "--set", "targets=3")
    assert list(empty.iterdir()) == []


def test_a_dry_run_says_what_clients_do_where_it_is_more_than_one_gradient(leaktune, empty):
    words = ("run", "--config", SMOKE, "--dry-run")

    plain = leaktune(*words)
    outlined = leaktune(*words, "--set", "client.images=3", "--set", "client.local_steps=2")

    assert "client" not in plain.out
    assert "client     3 images, 2 local steps" in outlined.out


def test_a_dry_run_lists_searchers_and_seeds_where_there_are_several(leaktune):
    words = ("run", "--config", SMOKE, "--dry-run")

    plain = leaktune(*words)
    outlined = leaktune(*words, "--set", "attack.searchers=[sepcma, cma]", "--set", "seeds=[0, 5]")

    assert "searchers" not in plain.out
    assert "seeds" not in plain.out
    assert "searchers  sepcma, cma" in outlined.out
    assert "seeds      0, 5" in outlined.out
    assert "40 of 120 evaluations, 4800 in all" in outlined.out


@pytest.mark.parametrize("words", [["--set", "data=nowhere"], ["--set", "targets=1000"]])
def test_a_dry_run_refuses_whatever_a_run_would_refuse(words, leaktune):
    dry = leaktune("run", "--dry-run", *words)

    assert dry.code == leaktune("run", *words).code != 0


def test_a_dry_run_without_a_plan_outlines_the_embedded_one(leaktune):
    outlined = leaktune("run", "--dry-run")

    assert outlined.code == 0
    assert "Plan 'fashion-mnist' is fine: 168 trials." in outlined.out


def test_doctor_finds_this_machine_in_order(leaktune, empty):
    examined = leaktune("doctor")

    assert examined.code == 0
    assert all(line.startswith("ok  ") for line in examined.out.splitlines())
    assert "fashion-mnist/generator.safetensors" in examined.out
    assert list(empty.iterdir()) == []


def test_doctor_misses_a_gpu_that_the_plan_asks_for(leaktune, empty, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    (empty / "plan.yaml").write_text("compute: {gpus_per_trial: 0.5}")

    examined = leaktune("doctor", "--config", "plan.yaml")

    assert examined.code == 4
    assert examined.err.startswith("Expected 0.5 GPU for a trial, this machine has 0. Lower ")


def test_doctor_tells_of_a_server_that_stores_no_artifacts(leaktune, empty, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    monkeypatch.setattr("engine.doctor.check_server", lambda uri, experiment: None)
    monkeypatch.setattr("engine.doctor.check_artifacts", lambda uri, experiment: "it said no")

    examined = leaktune("doctor")

    assert examined.code == 4
    assert examined.err.startswith(
        "Expected MLflow at http://mlflow:5000 to store an artifact, but it said no. "
    )
    assert "`leaktune sync` sends them later" in examined.err


def test_help_of_every_command_says_what_it_does_without_importing_anything_heavy():
    script = f"""
import sys
from engine.cli import main
for command in {list(COMMANDS)!r}:
    sys.argv = ["leaktune", *command.split(), "--help"]
    try:
        main()
    except SystemExit as stop:
        assert stop.code == 0, command
    print("----")
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)

    *pages, heavy = ran.stdout.split("----\n")
    assert heavy == "[]\n", ran.stderr
    for page, says in zip(pages, COMMANDS.values(), strict=True):
        assert says in " ".join(page.split())


def test_no_command_escapes_the_test_of_help(leaktune):
    pages = {name: leaktune(*name.split(), "--help").out for name in ("", "capture", "pretrain")}

    offered = {
        f"{group} {line.split()[0]}".strip()
        for group, page in pages.items()
        for line in page.partition("Commands:\n")[2].splitlines()
        if line.startswith("  ") and not line.startswith("   ")
    }
    assert offered == set(COMMANDS) - {""}


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    """One undefended update, written as a server would have received it."""
    path = tmp_path_factory.mktemp("captures") / "client-0.safetensors"
    plan = make_plan({}, source="test")
    update, _ = observe(trial_specs(plan)[0], build_lab(plan), 0)
    write_capture(path, update)
    return path


def test_inspecting_a_capture_shows_what_it_looks_like(capture, leaktune):
    shown = leaktune("capture", "inspect", capture)

    rows = dict(line.split() for line in shown.out.splitlines())
    assert shown.code == 0
    assert float(rows["entries"]) > 1000
    assert float(rows["zeros"]) < 1
    assert float(rows["l2_norm"]) > float(rows["largest"]) > 0


def test_a_capture_can_be_read_by_its_owner_alone(capture):
    assert capture.stat().st_mode & 0o777 == 0o600


def test_the_plan_a_run_resolved_is_a_plan_that_reads_back_as_itself(tmp_path):
    plan, text = read_plan(SMOKE)
    folder = RunFolder.create(tmp_path, plan.name, plan=text, resolved=plan.to_dict())

    again, _ = read_plan(folder.path / "plan.resolved.yaml")

    assert again == plan
    assert make_plan(folder.plan(), source="test") == plan
