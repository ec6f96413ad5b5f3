"""Carries the Dockerfile's steps out, on this machine, without Docker.

Each stage gets a root of its own: this machine's root file system with an overlay on top, which
takes everything the stage writes, and a `chroot` into it. There every RUN runs as it is written, in
the shell, folder, user and environment that the steps before it ask for; COPY takes what
`.dockerignore` lets through, from the repository or from the other stage; ARG, ENV, SHELL, USER and
WORKDIR hold from their line on. The last RUN is the image's own smoke test: `leaktune --help`,
`ray --version`, the tools of a cluster.

What is not carried out: FROM (the machine stands in for the base image, so programs that it has,
and the image has not, are not missed here), and CMD. Where apt cannot be reached, its RUN is left
out, and the machine has to have its programs. Where PyTorch's CPU index cannot be reached, the
accelerator is `cuda`: all of requirements.lock, by hash.

The test needs Linux, root, overlay mounts, pip and a package index, and is skipped where one of
them is missing.
"""

import fnmatch
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.clusters import dockerfile

LOG = logging.getLogger(__name__)
ROOT = Path(__file__).parents[2]
UID = "61234"  # Of no user on this machine, most likely.
DISK = 16e9  # Bytes: with CUDA, the environment and what it is unpacked from.
# How the machine reaches its package index is no business of the image, but of this test.
NETWORK = ("PIP_", "UV_", "SSL_CERT", "REQUESTS_CA", "CURL_CA", "HTTP_PROXY", "HTTPS_PROXY")
MOUNT = """
mount -t overlay overlay -o lowerdir=/,upperdir={at}/upper,workdir={at}/work {at}/root
for part in dev proc sys; do mount --rbind /$part {at}/root/$part; done
mkdir -p {at}/root/tmp && mount --bind {at}/tmp {at}/root/tmp && chmod 1777 {at}/root/tmp
cd {at}/root && chmod o+x . {homes}
exec "$@"
"""
BASE = Path(sys.base_prefix).resolve()
# The folders above this Python may be root's own, but the image's user has to reach it.
HOMES = " ".join(str(folder).lstrip("/") for folder in BASE.parents)


@dataclass
class Sandbox:
    """A stage's root, and what its steps so far have set."""

    at: Path
    variables: dict[str, str] = field(default_factory=dict)
    shell: list[str] = field(default_factory=lambda: ["/bin/sh", "-c"])
    folder: str = "/"
    user: str = "0:0"

    def run(self, command: list[str]) -> subprocess.CompletedProcess:
        """Runs a command inside, in a mount namespace that ends with it."""
        for name in ("upper", "work", "root", "tmp"):
            (self.at / name).mkdir(parents=True, exist_ok=True)
        enter = [
            "unshare",
            "--mount",
            "bash",
            "-euc",
            MOUNT.format(at=self.at, homes=HOMES),
            "bash",
        ]
        inside = ["chroot", f"--userspec={self.user}", self.at / "root", "env", "-C", self.folder]
        return subprocess.run(
            [*enter, *inside, *command], env=self.environment(), capture_output=True, text=True
        )

    def environment(self) -> dict[str, str]:
        """The step's variables, the machine's programs, and the way to its package index."""
        names = [name for name in os.environ if name.upper().startswith(NETWORK)]
        outside = [
            at for at in os.environ["PATH"].split(os.pathsep) if not at.startswith(sys.prefix)
        ]
        return {
            **{name: os.environ[name] for name in names},
            "PIP_BREAK_SYSTEM_PACKAGES": "1",  # The base image has no system's Python to protect.
            "PATH": os.pathsep.join([str(BASE / "bin"), *outside]),
            "HOME": "/root",
            **self.variables,
        }

    def path(self, inside: str) -> Path:
        """Where something that the stage wrote lies on the machine."""
        return self.at / "upper" / inside.lstrip("/")


def ignored(path: Path) -> bool:
    """Whether `.dockerignore` keeps a file from the build; the last pattern to match decides."""
    verdict = False
    for line in (ROOT / ".dockerignore").read_text("utf-8").split("\n"):
        pattern = line.strip().removeprefix("!").removeprefix("**/")
        if not pattern or line.startswith("#"):
            continue
        parts = path.parts if line.startswith("**/") else path.parts[:1]
        if pattern == "*" or any(fnmatch.fnmatch(part, pattern) for part in parts):
            verdict = not line.startswith("!")
    return verdict


def copy(step, sandbox, stages):
    *sources, target = step.value.split()
    origin, skip, put = ROOT, ignored, shutil.copy2
    if sources[0].startswith("--from="):
        stage = sources.pop(0).removeprefix("--from=")
        # That stage is done with its files: no need for gigabytes of them twice.
        origin, skip, put = stages[stage].path("/"), lambda path: False, os.link
    for source in sources:
        found = origin / source.lstrip("/")
        inside = os.path.join(sandbox.folder, target)
        if target.endswith(("/", ".")) or len(sources) > 1:
            inside = os.path.join(inside, found.name)
        files = [
            path for path in [found, *found.rglob("*")] if not path.is_dir() or path.is_symlink()
        ]
        for path in files:
            if skip(path.relative_to(origin)):
                continue
            landed = sandbox.path(os.path.normpath(os.path.join(inside, path.relative_to(found))))
            landed.parent.mkdir(parents=True, exist_ok=True)
            put(path, landed, follow_symlinks=False)


def carry_out(step, sandbox, stages, arguments):
    """Does what one step asks for."""
    value = step.value
    if step.instruction == "RUN":
        done = sandbox.run([*sandbox.shell, value])
        assert done.returncode == 0, (
            f"Dockerfile:{step.line}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        )
    elif step.instruction == "COPY":
        copy(step, sandbox, stages)
    elif step.instruction == "ARG":
        name, _, default = value.partition("=")
        sandbox.variables[name] = arguments.get(name, dockerfile.expand(default, sandbox.variables))
    elif step.instruction == "ENV":
        sandbox.variables |= dockerfile.assignments(value, sandbox.environment())
    elif step.instruction == "SHELL":
        sandbox.shell = json.loads(value)
    elif step.instruction == "USER":
        sandbox.user = dockerfile.expand(value, sandbox.variables)
    elif step.instruction == "WORKDIR":
        sandbox.folder = value
        sandbox.path(value).mkdir(parents=True, exist_ok=True)


def reaches(url):
    try:
        with urllib.request.urlopen(url, timeout=15) as answer:
            return answer.status == 200
    except OSError:
        return False


@pytest.fixture
def scratch(tmp_path):
    if sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("needs Linux, root and unshare")
    if shutil.disk_usage(tmp_path).free < DISK:
        pytest.skip(f"needs {DISK / 1e9:.0f} GB of disk")
    for need in (["true"], ["pip", "download", "--quiet", "--no-deps", "--dest", "/tmp", "uv"]):
        if (done := Sandbox(tmp_path / "probe").run(need)).returncode:
            pytest.skip(f"needs overlay mounts, pip and its index: {done.stderr.strip()[-200:]}")
    yield tmp_path
    subprocess.run(["rm", "-rf", tmp_path])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_step_of_the_dockerfile_runs_and_ends_in_a_working_environment(scratch):
    _, stages = dockerfile.read(ROOT / "Dockerfile")
    accelerator = "cpu" if reaches("https://download.pytorch.org/whl/cpu/torch/") else "cuda"
    LOG.info("accelerator: %s", accelerator)
    arguments = {"ACCELERATOR": accelerator, "UID": UID}
    sandboxes = {}

    for stage in stages:
        sandbox = sandboxes[stage.name] = Sandbox(scratch / stage.name)
        for step in stage.steps:
            if "apt-get update" in step.value and sandbox.run(["apt-get", "update"]).returncode:
                LOG.info("apt cannot be reached, left out: Dockerfile:%d", step.line)
                continue
            carry_out(step, sandbox, sandboxes, arguments)

    assert sandbox.user == f"{UID}:{UID}"
    for command in (["leaktune", "--help"], ["ray", "--version"]):
        done = sandbox.run(command)
        assert done.returncode == 0, done.stderr
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    assert re.search(r"^ray==(\S+)", lock, re.MULTILINE)[1] in done.stdout
