"""The team's MLflow as clusters/mlflow/README.md starts it: PostgreSQL, S3 and server processes.

S3 is moto's stand-in; the rest is what a team would run, by the commands of that page.
"""

import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "clusters" / "mlflow"
BIN = Path(sys.executable).parent
BUCKET = "audits"
ADMIN = "admin"
START_SECONDS = 120


def missing() -> str:
    """Returns what this machine lacks to have such a server, in words; empty if nothing."""
    if _postgres_programs() is None:
        return "PostgreSQL's server (Debian: postgresql)"
    if os.geteuid() == 0 and not shutil.which("setpriv"):
        return "setpriv, since PostgreSQL refuses root"
    return "" if shutil.which("curl") else "curl"


def plain_commands(start: str) -> str:
    """Returns the block of the page's commands that has a line which starts like this."""
    page = (FOLDER / "README.md").read_text("utf-8")
    (block,) = (
        block
        for block in re.findall(r"^```\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
        if re.search(rf"^{re.escape(start)}", block, re.MULTILINE)
    )
    return block


@dataclass
class TeamServer:
    """The three of them, the server killed and started again at will.

    Attributes:
        scratch: A folder for PostgreSQL's data, the server's settings and its log.
        environment: What ``.env`` holds, and the addresses.
        port: Of MLflow.
    """

    scratch: Path
    environment: dict[str, str]
    port: int
    _server: subprocess.Popen | None = field(default=None, init=False)

    @property
    def uri(self) -> str:
        """Where clients find it."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        """What the server said."""
        return self.scratch / "server.log"

    def start(self) -> None:
        """Starts MLflow by the page's commands, and waits until it answers."""
        commands = plain_commands("uv run --extra mlflow-server mlflow server")
        commands = commands.replace("uv run --extra mlflow-server ", "exec ")
        commands = commands.replace("--port=5000", f"--port={self.port}")
        commands = commands.replace("PGHOST=127.0.0.1", "PGHOST=127.0.0.1 PGPORT=$TEST_PGPORT")
        commands = commands.replace(". clusters/mlflow/.env", f". {self.scratch}/.env")
        with self.log.open("a") as log:
            self._server = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", commands],
                cwd=ROOT,
                env={"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(self.scratch)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(self.answers, START_SECONDS, lambda: self.log.read_text()[-4000:])

    def answers(self) -> bool:
        """Says whether it does."""
        assert self._server is None or self._server.poll() is None, self.log.read_text()[-4000:]
        with contextlib.suppress(OSError):
            return urllib.request.urlopen(f"{self.uri}/health", timeout=5).status == 200
        return False

    def kill(self) -> None:
        """Kills all of its processes, without a word to them."""
        if self._server is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._server.pid, signal.SIGKILL)
            self._server.wait()
            self._server = None

    def login(self, user: str = ADMIN, password: str | None = None) -> dict[str, str]:
        """Returns a client's environment; without a password, the administrator's."""
        password = password or self.environment["MLFLOW_AUTH_ADMIN_PASSWORD"]
        return {
            "MLFLOW_TRACKING_URI": self.uri,
            "MLFLOW_TRACKING_USERNAME": user,
            "MLFLOW_TRACKING_PASSWORD": password,
        }

    def stored(self) -> list[str]:
        """Returns the keys of the bucket's objects."""
        found = s3_client(self.environment).list_objects_v2(Bucket=BUCKET)
        return [each["Key"] for each in found.get("Contents", [])]

    def client(self):
        """Returns a client, whose login is that of this process's environment."""
        from mlflow import MlflowClient  # Deferred: the import takes seconds.

        return MlflowClient(self.uri)


@contextlib.contextmanager
def team_server(scratch: Path) -> Iterator[TeamServer]:
    """Starts PostgreSQL, S3 and MLflow; ends all of them afterwards."""
    postgres_port, s3_port, port = (free_port() for _ in range(3))
    environment = {
        "PGPASSWORD": secrets.token_hex(24),
        "MLFLOW_AUTH_ADMIN_PASSWORD": secrets.token_hex(24),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(24),
        "ARTIFACTS": f"s3://{BUCKET}/mlflow",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{s3_port}",
        "MLFLOW_SERVER_ALLOWED_HOSTS": f"127.0.0.1:{port}",
    }
    lines = [f"{name}={value}\n" for name, value in environment.items()]
    (scratch / ".env").write_text("".join([*lines, f"TEST_PGPORT={postgres_port}\n"]))
    with contextlib.ExitStack() as stack:
        stack.enter_context(_postgres(postgres_port, environment["PGPASSWORD"]))
        stack.enter_context(_moto(scratch, s3_port))
        s3_client(environment).create_bucket(Bucket=BUCKET)
        server = TeamServer(scratch, environment, port)
        stack.callback(server.kill)
        server.start()
        yield server


def wait_until(holds, seconds, said=lambda: ""):
    """Waits until something holds; says what there is to say if it does not in time."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, f"not within {seconds} s\n{said()}"
        time.sleep(0.2)


def free_port() -> int:
    """Returns a port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@contextlib.contextmanager
def _postgres(port: int, password: str) -> Iterator[None]:
    """A PostgreSQL of its own, with the user and the databases of the page."""
    where = ("--host=127.0.0.1", f"--port={port}", "--username=postgres")
    # Not below pytest's folders, which are root's alone.
    with tempfile.TemporaryDirectory(prefix="leaktune-postgres-") as folder:
        data, pwfile = Path(folder) / "data", Path(folder) / "password"
        pwfile.write_text("superuser")
        if os.geteuid() == 0:
            shutil.chown(folder, "nobody")
            shutil.chown(pwfile, "nobody")
        _as_nobody(
            *("initdb", "--username=postgres", f"--pwfile={pwfile}", "--auth=scram-sha-256"),
            *("--no-sync", data),
        )
        options = f"-p {port} -c listen_addresses=127.0.0.1 -k {folder}"
        _as_nobody("pg_ctl", "start", "-w", "-D", data, "-o", options, "-l", f"{folder}/log")
        try:
            role = f"CREATE ROLE mlflow LOGIN PASSWORD '{password}'"  # createuser asks a terminal.
            _run("psql", *where, "--set=ON_ERROR_STOP=1", f"--command={role}")
            for line in plain_commands("sudo -u postgres createdb").splitlines()[1:]:
                program, *words = line.removeprefix("sudo -u postgres ").split()
                _run(program, *where, *words)
            yield
        finally:
            _as_nobody("pg_ctl", "stop", "-w", "-m", "immediate", "-D", data)


def _as_nobody(program: str, *words: object) -> None:
    """Runs one of PostgreSQL's programs that refuse to be root's."""
    lower = ("--reuid=nobody", "--regid=nogroup", "--clear-groups")
    _run(program, *words, prefix=("setpriv", *lower) if os.geteuid() == 0 else ())


def _run(program: str, *words: object, prefix: Sequence[str] = ()) -> None:
    programs = _postgres_programs()
    assert programs is not None
    done = subprocess.run(
        [*prefix, programs / program, *map(str, words)],
        cwd=ROOT if not prefix else "/",
        env={"PATH": os.environ["PATH"], "PGPASSWORD": "superuser"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout


@contextlib.contextmanager
def _moto(scratch: Path, port: int) -> Iterator[None]:
    with (scratch / "s3.log").open("w") as log:
        process = subprocess.Popen(
            [BIN / "moto_server", "--host", "127.0.0.1", "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        wait_until(lambda: _listens(port), START_SECONDS, (scratch / "s3.log").read_text)
        yield
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    return False


def s3_client(environment: dict[str, str]):
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=environment["MLFLOW_S3_ENDPOINT_URL"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region_name=environment["AWS_DEFAULT_REGION"],
    )


def _postgres_programs() -> Path | None:
    """Returns the folder of PostgreSQL's programs: Debian keeps them out of the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    elsewhere = shutil.which("initdb")
    return found[-1].parent if found else elsewhere and Path(elsewhere).resolve().parent
