import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import engine

SOURCES = Path(engine.__file__).parent
LAUNCHER = SOURCES / "run.py"


def launch(script, *words, python=sys.executable, cwd=None, **environment):
    return subprocess.run(
        [python, script, *words],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def uploaded(tmp_path):
    """The launcher alone in a folder, as `ray submit` uploads it."""
    return Path(shutil.copy(LAUNCHER, tmp_path))


def test_a_module_of_ours_cannot_shadow_one_of_the_standard_library(tmp_path):
    ours = tmp_path / "engine"
    shutil.copytree(SOURCES, ours, ignore=shutil.ignore_patterns("assets", "__pycache__"))
    for name in ("signal", "json", "typing", "yaml"):
        (ours / f"{name}.py").write_text("raise SystemExit('shadowed')\n")

    listed = launch(ours / "run.py", "list", "models", cwd=ours, PYTHONPATH=str(tmp_path))

    assert listed.returncode == 0, listed.stderr
    assert "lenet" in listed.stdout


def test_the_launcher_alone_starts_the_installed_package(uploaded):
    helped = launch(uploaded, "--help", cwd=uploaded.parent, PYTHONPATH=str(SOURCES.parent))

    assert helped.returncode == 0, helped.stderr
    assert "Audit the privacy defenses" in helped.stdout


def test_the_launcher_in_the_source_tree_starts_it_too():
    helped = launch(LAUNCHER, "--help", PYTHONPATH="")

    assert helped.returncode == 0, helped.stderr


@pytest.mark.parametrize("missing", ["engine", "typer"])
def test_the_launcher_says_how_to_install_what_is_missing(missing, uploaded, tmp_path):
    venv.create(tmp_path / "bare")
    python = tmp_path / "bare" / "bin" / "python"
    found = str(SOURCES.parent) if missing == "typer" else ""

    refused = launch(uploaded, "--help", python=python, cwd=tmp_path, PYTHONPATH=found)

    assert refused.returncode == 1
    assert f"leaktune is not installed for {python}" in refused.stderr
    assert f"No module named '{missing}'" in refused.stderr
    assert "pip install ." in refused.stderr
    assert "Traceback" not in refused.stderr
