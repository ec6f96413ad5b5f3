"""The losses of an unfinished search's candidates, on disk line by line as they come."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


class CandidateLog:
    """One file of JSON lines: first the search it belongs to, then a candidate a line.

    Attributes:
        losses: ``(budget,)`` float32 in the order proposed; of no meaning where not known.
        known: Which candidates' losses are known, ``(budget,)``.

    Args:
        path: The file; one of another search is written anew.
        spec_hash: Of the trial.
        budget: Candidates of the search.
    """

    def __init__(self, path: Path, spec_hash: str, budget: int) -> None:
        self.losses = np.full(budget, np.nan, dtype=np.float32)
        self.known = np.zeros(budget, dtype=bool)
        self._path = path
        header, lines = {"spec": spec_hash}, _whole_lines(path)
        kept = lines[1:] if lines[:1] == [header] else []
        # Written anew: without a line that was cut off, or all of another search.
        _write(path, "w", header)
        for line in kept:
            self.add(line["candidate"], float("nan") if line["loss"] is None else line["loss"])

    def add(self, candidate: int, loss: float) -> None:
        """Keeps a candidate's loss; one that is not finite as null."""
        self.losses[candidate] = loss
        self.known[candidate] = True
        kept = loss if math.isfinite(loss) else None
        _write(self._path, "a", {"candidate": candidate, "loss": kept})


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """Returns what a file holds, without a last line that a crash cut off."""
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    except (OSError, ValueError):
        return []  # Nothing usable: the search starts anew, with the same outcome.


def _write(path: Path, mode: str, line: Mapping[str, object]) -> None:
    with path.open(mode, encoding="utf-8") as file:
        file.write(json.dumps(line, allow_nan=False) + "\n")
