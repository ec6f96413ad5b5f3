"""The losses of an unfinished search's candidates, on disk line by line as they come."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from engine.run_folder import json_lines


class CandidateLog:
    """One file of JSON lines: first the search it belongs to, then a candidate a line.

    Attributes:
        losses: ``(budget,)`` float32 in the order proposed; of no meaning where not known.
        known: Which candidates' losses are known, ``(budget,)``.

    Args:
        path: The file; one of another search is written anew.
        spec_hash: Of the trial.
        budget: Candidates of the search.
        may_write: Whether the file is still this process's to write to.
    """

    def __init__(
        self,
        path: Path,
        spec_hash: str,
        budget: int,
        *,
        may_write: Callable[[], bool] = lambda: True,
    ) -> None:
        self.losses = np.full(budget, np.nan, dtype=np.float32)
        self.known = np.zeros(budget, dtype=bool)
        self._path, self._may_write = path, may_write
        header, lines = {"spec": spec_hash}, _lines(path)
        if lines[:1] != [header]:
            path.unlink(missing_ok=True)
            json_lines.append(path, header)
        for line in lines[1:] if lines[:1] == [header] else []:
            self._note(line["candidate"], float("nan") if line["loss"] is None else line["loss"])

    def add(self, candidate: int, loss: float) -> None:
        """Keeps a candidate's loss; one that is not finite as null."""
        self._note(candidate, loss)
        if not self._may_write():
            return
        kept = loss if math.isfinite(loss) else None
        json_lines.append(self._path, {"candidate": candidate, "loss": kept})

    def _note(self, candidate: int, loss: float) -> None:
        self.losses[candidate] = loss
        self.known[candidate] = True


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        return list(json_lines.read(path))
    except (OSError, ValueError):
        return []  # Nothing usable: the search starts anew, with the same outcome.
