"""Hosts of a cluster on one machine: namespaces, each with an address, processes and an sshd.

What a host sees of the machine's files it shares with the others, but for homes, ``/tmp``, ``/run``
and ``/dev/shm``, which are its own, and ``/mnt/leaktune``, which is the share.
"""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
STAND_INS = Path(__file__).parent / "stand_ins"
NETWORK = "10.213.77"
BRIDGE = "ltbridge"
CONTAINER_HOME = "/home/leaktune"
PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
SHARE = "/mnt/leaktune"
NEEDED = ("ip", "unshare", "rsync", "ssh", "ssh-keygen", "/usr/sbin/sshd")

# Run as process 1 of a host, in namespaces of its own, with its arguments in the environment.
BOOT = f"""
set -e
hostname "$HOST_NAME"
mount --make-rprivate /
for place in /opt /mnt /home /run; do mount -t tmpfs tmpfs $place; done
mkdir -p /opt/leaktune {SHARE} {CONTAINER_HOME} /run/sshd
mount --bind "$PREFIX" /opt/leaktune
mount --bind "$SHARED" {SHARE}
mount --bind "$SCRATCH/profile" /etc/profile
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
# What the host needs of the machine may lie below these: it is put back at its place.
for place in $SEEN; do mkdir -p /run/seen/$place; mount --bind $place /run/seen/$place; done
mount -t tmpfs tmpfs /root
mount -t tmpfs -o mode=1777 tmpfs /tmp
touch /root/.bashrc
# The container's user is the host's: SSH looks for keys in the home of the user's name.
mount --bind /root {CONTAINER_HOME}
for place in $SEEN; do mkdir -p $place; mount --bind /run/seen/$place $place; done
exec /usr/sbin/sshd -D -e -f "$SCRATCH/sshd_config"
"""


@dataclass(frozen=True)
class Host:
    """One host.

    Attributes:
        name: Its network namespace and host name.
        address: Its IP address.
    """

    name: str
    address: str

    def cut_off(self) -> None:
        """Takes its cable away: nothing reaches it any more, and nothing tells the others."""
        _ip("link", "set", f"{self.name}v", "down")

    def programs(self) -> set[str]:
        """Returns the names of the programs that run on it."""
        found = _ip("netns", "pids", self.name)
        paths = [Path("/proc") / pid / "cmdline" for pid in found.split()]
        lines = [path.read_text().split("\0") for path in paths if path.exists()]
        return {Path(words[0]).name for words in lines}


def missing() -> str:
    """Returns what this machine lacks to have hosts, in words; empty if nothing."""
    if os.geteuid() != 0:
        return "root"
    lacking = [program for program in NEEDED if shutil.which(program) is None]
    if lacking:
        return ", ".join(lacking)
    made = subprocess.run(["ip", "netns", "add", "ltprobe"], capture_output=True)
    if made.returncode:
        return made.stderr.decode().strip()
    _ip("netns", "delete", "ltprobe")
    return ""


@contextlib.contextmanager
def hosts(count: int, *, scratch: Path, shared: Path, key: Path) -> Iterator[list[Host]]:
    """Starts hosts that reach one another, and this machine, which is the operator's.

    Args:
        count: How many.
        scratch: A folder for their configuration.
        shared: The folder that all of them have at ``/mnt/leaktune``.
        key: Private key that logs in to all of them as root; its public one lies beside it.
    """
    made = [Host(f"lthost{n}", f"{NETWORK}.{10 + n}") for n in range(count)]
    _clear_away(made)
    with contextlib.ExitStack() as stack:
        _ip("link", "add", BRIDGE, "type", "bridge")
        stack.callback(_ip, "link", "delete", BRIDGE)
        _ip("address", "add", f"{NETWORK}.1/24", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")
        for host in made:
            _plug_in(host, stack)
            _boot(host, stack, scratch / host.name, shared, key)
        for host in made:
            _wait_for_port(host.address, 22)
        yield made


def _clear_away(some: Iterable[Host]) -> None:
    """Removes what a run that was killed has left behind."""
    for host in some:
        subprocess.run(["ip", "netns", "delete", host.name], capture_output=True)
        subprocess.run(["ip", "link", "delete", f"{host.name}v"], capture_output=True)
    subprocess.run(["ip", "link", "delete", BRIDGE], capture_output=True)


def _plug_in(host: Host, stack: contextlib.ExitStack) -> None:
    """Gives a host its network: a cable to the bridge, and this machine as its way out."""
    name, cable = host.name, f"{host.name}v"
    _ip("netns", "add", name)
    stack.callback(_ip, "netns", "delete", name)
    _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", name)
    stack.callback(_ip, "link", "delete", cable)
    _ip("link", "set", cable, "master", BRIDGE, "up")
    _ip("-n", name, "address", "add", f"{host.address}/24", "dev", "eth0")
    for device in ("lo", "eth0"):
        _ip("-n", name, "link", "set", device, "up")
    _ip("-n", name, "route", "add", "default", "via", f"{NETWORK}.1")


def _boot(host: Host, stack: contextlib.ExitStack, scratch: Path, shared: Path, key: Path) -> None:
    scratch.mkdir(parents=True)
    variables = {
        "PATH": f"{STAND_INS}:/opt/leaktune/bin:{PATH}",
        "IMAGE_ENV": scratch / "image.env",
    }
    (scratch / "image.env").write_text("".join(f"{line}\n" for line in image_env()))
    (scratch / "profile").write_text(
        "".join(f"export {name}={value}\n" for name, value in variables.items())
    )
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", scratch / "host_key"], check=True
    )
    (scratch / "sshd_config").write_text(
        f"HostKey {scratch}/host_key\nAuthorizedKeysFile {key}.pub\nPidFile none\n"
        "StrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\n"
        "SetEnv " + " ".join(f"{name}={value}" for name, value in variables.items()) + "\n"
    )
    log = stack.enter_context((scratch / "log").open("wb"))
    process = subprocess.Popen(
        [
            *("ip", "netns", "exec", host.name),
            *("unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child"),
            *("--mount-proc", "sh", "-c", BOOT),
        ],
        stdout=log,
        stderr=log,
        env={
            **os.environ,
            "HOST_NAME": host.name,
            "SCRATCH": str(scratch),
            "SHARED": str(shared),
            "PREFIX": sys.prefix,
            "SEEN": " ".join(map(str, (ROOT, sys.prefix, sys.base_prefix, scratch, key.parent))),
        },
    )
    stack.callback(process.wait)
    stack.callback(process.kill)


def image_env() -> list[str]:
    """Returns what the Dockerfile's last stage sets, ``NAME=value`` each."""
    stage = (ROOT / "Dockerfile").read_text("utf-8").split("\nFROM ")[-1].replace("\\\n", " ")
    [words] = re.findall(r"^ENV (.*)$", stage, re.MULTILINE)
    return [word.replace("$PATH", PATH) for word in words.split()]


def _wait_for_port(address: str, port: int) -> None:
    until = time.monotonic() + 20
    while True:
        try:
            socket.create_connection((address, port), 1).close()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
        else:
            return


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout
