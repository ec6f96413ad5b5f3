"""The folder itself: its files, and how they are written whole and read back."""

import contextlib
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from engine.errors import InfrastructureError, InputError
from engine.run_folder import json_lines


class RunFolder:
    """One audit's folder on disk.

    Args:
        path: The folder; :meth:`create` makes a new one, :meth:`open` finds an existing one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(
        cls, parent: Path, name: str, *, plan: str, resolved: Mapping[str, Any]
    ) -> "RunFolder":
        """Creates ``<utc>-<name>-<id>`` under ``parent`` and writes the plan into it.

        Raises:
            InfrastructureError: If ``parent`` cannot hold folders.
        """
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        folder = cls(parent / f"{stamp}-{name}-{secrets.token_hex(3)}")
        text = yaml.safe_dump(dict(resolved), sort_keys=False)
        try:
            (folder.path / "report").mkdir(parents=True)
            (folder.path / "trials").mkdir()
            folder.private.mkdir(mode=0o700)
            (folder.path / "plan.yaml").write_text(plan, encoding="utf-8")
            (folder.path / "plan.resolved.yaml").write_text(text, encoding="utf-8")
        except OSError as error:
            raise InfrastructureError(
                f"Expected to make a run folder in {parent}, got: {error}. Use --output elsewhere."
            ) from error
        return folder

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Returns an existing run folder; raises InputError if ``path`` is none."""
        for name in ("plan.resolved.yaml", "events.jsonl"):
            if not (path / name).is_file():
                raise InputError(
                    f"Expected a run folder at {path}, but it has no {name}. "
                    "Give the folder that a run printed, e.g. runs/20260101T000000Z-name-abc123."
                )
        return cls(path)

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.path.name

    @property
    def private(self) -> Path:
        """Where reconstructions stay."""
        return self.path / "private"

    def plan(self) -> dict[str, Any]:
        """Returns the resolved plan; raises InputError if its file was damaged."""
        path = self.path / "plan.resolved.yaml"
        try:
            loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InputError(f"Expected YAML in {path}, got something else: {error}") from error
        if not isinstance(loaded, dict):
            raise InputError(f"Expected a plan in {path}, got a {type(loaded).__name__}.")
        return loaded

    def provenance(self) -> dict[str, Any]:
        """Returns where the audit comes from; raises InputError if its file was damaged."""
        path = self.path / "provenance.json"
        try:
            loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(
                f"Expected JSON in {path}, got something else: {error}. Put the file back from a "
                "copy, or start a new audit."
            ) from error
        return loaded

    def append_event(self, kind: str, **fields: Any) -> None:
        """Appends one event and waits until it is on disk."""
        event = {"time": time.time(), "kind": kind, **fields}
        with storing(self.path):
            json_lines.append(self.path / "events.jsonl", event, durable=True)

    def events(self) -> Iterator[dict[str, Any]]:
        """Yields the events in order; lines that a crash damaged are left out."""
        yield from json_lines.read(self.path / "events.jsonl")

    def save_losses(self, trial: str, losses: np.ndarray, spec_hash: str) -> None:
        """Writes the losses of a finished search; each of both files is whole at any time."""
        folder = self.trial_folder(trial)
        save_file({"losses": losses}, folder / "state.safetensors.new")
        write_json(folder / "state.json", {"spec": spec_hash, "evaluations": len(losses)})
        os.replace(folder / "state.safetensors.new", folder / "state.safetensors")

    def load_losses(self, trial: str, spec_hash: str) -> np.ndarray | None:
        """Returns the losses of a finished search with the same spec, or None."""
        folder = self.path / "trials" / trial
        try:
            state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
            losses = load_file(folder / "state.safetensors")["losses"]
        except (OSError, ValueError, KeyError, SafetensorError):
            return None
        return losses if state.get("spec") == spec_hash else None

    def trial_folder(self, trial: str) -> Path:
        """Returns the folder of a trial, made if need be."""
        folder = self.path / "trials" / trial
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def save_images(self, trial: str, images: np.ndarray) -> None:
        """Keeps a reconstruction ``(B, ch, H, W)`` among the private files."""
        save_file({"images": np.ascontiguousarray(images)}, self.private / f"{trial}.safetensors")

    def load_images(self, trial: str) -> np.ndarray:
        """Returns a reconstruction ``(B, ch, H, W)``."""
        return load_file(self.private / f"{trial}.safetensors")["images"]

    def is_finished(self, trial: str, spec_hash: str) -> bool:
        """Whether the trial has a result, of the same spec."""
        result = _read_result(self.path / "trials" / trial / "result.json")
        return result is not None and result.get("spec") == spec_hash

    def results(self) -> dict[str, dict[str, Any]]:
        """Returns the results of the finished trials by their ids; damaged ones are none."""
        found = {
            path.parent.name: _read_result(path)
            for path in sorted(self.path.glob("trials/*/result.json"))
        }
        return {trial: result for trial, result in found.items() if result is not None}

    def forget_damaged(self) -> list[str]:
        """Takes back results of trials whose losses or images a crash of the machine left damaged.

        Files that are gone are no damage: ``private/`` may be emptied.

        Returns:
            The trials, which are to run again.
        """
        damaged = [
            trial
            for trial in self.results()
            if not (
                _is_whole(self.path / "trials" / trial / "state.safetensors")
                and _is_whole(self.private / f"{trial}.safetensors")
            )
        ]
        for trial in damaged:
            (self.path / "trials" / trial / "result.json").unlink()
        return damaged


@contextlib.contextmanager
def storing(run: Path) -> Iterator[None]:
    """Raises InfrastructureError where the block cannot write to a run folder."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise InfrastructureError(
            f"Expected to write to the run folder, got: {error}. What was written before is kept. "
            f"Make room or mend the storage, then finish it with: leaktune resume {run}"
        ) from error


def _is_whole(path: Path) -> bool:
    """Whether a file of tensors can be read, or is gone."""
    try:
        load_file(path)
    except FileNotFoundError:
        return True
    except SafetensorError:
        return False
    return True


def _read_result(path: Path) -> dict[str, Any] | None:
    """Returns a trial's result, None if there is none or a crash of the machine damaged it."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return result if isinstance(result, dict) else None


def write_json(path: Path, value: Any) -> None:
    """Writes JSON atomically; numbers that are not finite are refused."""
    text = json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False)
    temporary = path.with_suffix(f"{path.suffix}.{secrets.token_hex(4)}.new")
    temporary.write_text(text + "\n", encoding="utf-8")
    os.replace(temporary, path)
