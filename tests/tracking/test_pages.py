"""What a reader sees of an audit in MLflow's pages, in a browser."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tracking.browser import browser, missing
from tests.tracking.team_server import BIN, ROOT, free_port, wait_until

DEFENSES = ("none", "gaussian_noise(std=0.1)", "sparsification(percent=90)")
# The README's pictures, of the whole embedded audit, are made anew by
#   LEAKTUNE_PICTURES=docs/images uv run pytest -m slow tests/tracking/test_pages.py
PICTURES = os.environ.get("LEAKTUNE_PICTURES")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.filterwarnings(
        # SQLAlchemy 2.1 on how MLflow 3.17 loads its tables.
        "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"
    ),
]


@pytest.fixture(scope="module")
def page():
    if lacking := missing():
        pytest.skip(f"No browser without: {lacking}")
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def server(page, tmp_path_factory):
    """The README's MLflow, with two audits of the embedded plan in it; gives its address.

    With one alone, where pictures of it are wanted.
    """
    folder = tmp_path_factory.mktemp("audit")
    if PICTURES:
        audit(folder)
    else:
        for seed in range(2):
            audit(folder, "targets=2", "attack.budget=300", f"seed={seed}")
    port = free_port()
    (command,) = re.findall(r"^uv run (mlflow ui .*)$", readme(), re.MULTILINE)
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            [BIN / command.split()[0], *command.split()[1:], f"--port={port}"],
            cwd=folder,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=log,
            stderr=log,
        )
        uri = f"http://127.0.0.1:{port}"
        try:
            wait_until(lambda: answers(uri), 120, (folder / "server.log").read_text)
            yield uri
        finally:
            process.terminate()
            process.wait()


def audit(folder, *settings):
    words = ("images.tracking=true", "tracking.uri=sqlite:///mlflow.db", *settings)
    done = subprocess.run(
        [sys.executable, ROOT / "engine" / "run.py", "run", *(f"--set={word}" for word in words)],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, 101), done.stderr


@pytest.fixture(scope="module")
def runs(server):
    """The audits' runs in MLflow."""
    from mlflow import MlflowClient

    return MlflowClient(server).search_runs(["1"], "params.targets LIKE '%'")


def test_attacks_are_compared_by_defense_against_evaluations(page, server, runs, tmp_path):
    page.open(f"{server}/{link('leaktune-attacks')}")

    page.waits_for("The search, against candidate evaluations", "What leaked, at the end")
    searches = "attack: ggl, searcher: gauss_newton, leaktune.run:"
    for run in runs:
        page.waits_for(*(f"defense: {each}, {searches} {run.info.run_name}" for each in DEFENSES))
    charts = page.waits_for_charts(2)
    text = page.waits_for("target 0, none, ggl, gauss_newton, seed 0")
    assert {"loss", "psnr"} <= set(text.splitlines())
    assert all("Step" in chart for chart in charts[:2])
    assert ", any, oracle" not in text
    assert "shared view" in text
    keep(page, tmp_path / "mlflow-attacks.png")


def test_trials_are_a_table_with_controls_in_groups(page, server, runs, tmp_path):
    page.open(f"{server}/{link('leaktune-trials')}")

    text = page.waits_for("target 0, any, oracle", "Metrics", "Parameters")
    assert {"loss", "psnr", "ssim", "defense", "attack"} <= set(text.splitlines())
    groups = re.findall(r"^Group: defense: .*, attack: (\w+), leaktune\.run: (\S+)$", text, re.M)
    assert len(groups) == text.count("Group: ")
    attacks, names = zip(*groups, strict=True)
    assert "oracle" in attacks
    assert set(names) == {run.info.run_name for run in runs}
    keep(page, tmp_path / "mlflow-trials.png")


def test_audits_are_listed_with_their_verdicts(page, server, tmp_path):
    page.open(f"{server}/{link('leaktune-audits')}")

    text = page.waits_for("fashion-mnist", "leaktune.verdict", "targets")
    assert "target 0" not in text
    assert "matching run" in text
    keep(page, tmp_path / "mlflow-audits.png")


def test_whoever_opens_the_experiment_finds_the_views_in_its_note(page, server):
    page.open(f"{server}/#/experiments/1/runs")

    text = page.waits_for("Audits by leaktune", "All trials", "with their verdicts")
    assert "Model training" in text
    hrefs = page.driver.execute_script("return [...document.links].map(link => link.href)")
    views = {
        found[1] for href in hrefs if (found := re.search(r"viewStateShareKey=([\w-]+)", href))
    }
    assert views == {"leaktune-attacks", "leaktune-trials", "leaktune-audits"}


def test_the_montage_is_shown_where_the_plan_allows_it(page, server, runs, tmp_path):
    run = runs[0].info.run_id
    page.open(f"{server}/#/experiments/1/runs/{run}/artifacts/private/montage.png")

    page.waits_for("montage.png", "summary.json")
    widths = "return [...document.images].map(image => image.naturalWidth)"
    wait_until(lambda: max(page.driver.execute_script(widths), default=0) > 300, 120)
    keep(page, tmp_path / "mlflow-montage.png")


def readme():
    return (ROOT / "README.md").read_text("utf-8")


def link(view):
    """Returns the README's link to a view."""
    (found,) = re.findall(rf"`http://127\.0\.0\.1:5000/(#\S*{view}[^`]*)`", readme())
    return found


def answers(uri):
    done = subprocess.run(["curl", "--silent", "--fail", f"{uri}/health"], capture_output=True)
    return done.returncode == 0


def keep(page, path):
    """Takes a picture of the page; the README's one where that is asked for."""
    page.take(path)
    assert path.stat().st_size > 20_000
    if PICTURES:
        from PIL import Image

        colours = Image.open(path).convert("RGB").quantize(128)
        colours.save(path, optimize=True)
        shutil.copy(path, Path(PICTURES) / path.name)
