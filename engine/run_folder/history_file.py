"""Histories of searches under way on disk: every generation appended as soon as it is evaluated.

The format is described in ``docs/run-folder.md``.
"""

import contextlib
import itertools
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from engine.attacks import History, Progress

FILES: Final = "history-*.bin"
FORMAT: Final = "leaktune-history-1"
# Of a record: its losses, its details and the numbers of one detail; then the CRC-32 of all else.
COUNTS: Final = struct.Struct("<3I")
CHECKSUM: Final = struct.Struct("<I")
NUMBERS: Final = np.dtype("<f4")
NOTHING: Final = History(np.empty(0, dtype=np.float32))


def load_history(folder: Path, spec_hash: str) -> History:
    """Returns the longest history of a search in its trial's folder, empty if there is none.

    Histories of another spec are left aside, and so is what a crash left of a last record.
    """
    found = [_read(path, spec_hash) for path in sorted(folder.glob(FILES))]
    return max(found, key=lambda history: len(history.losses), default=NOTHING)


def remove_histories(folder: Path) -> None:
    """Removes the histories of a trial that is finished."""
    for path in folder.glob(FILES):
        path.unlink(missing_ok=True)


class HistoryKeeper:
    """Keeps one attempt at a search on disk, in a file of its own.

    No two processes write to one file, even if a worker that was given up is still alive. The file
    is made when the first generation is evaluated, and begins with what the attempt was restored
    from: so each is whole by itself. Nothing is flushed: what was written outlives the process,
    but not the machine.

    Args:
        folder: The trial's folder.
        spec_hash: Of the trial's spec.
        known: What the search is restored from.
    """

    def __init__(self, folder: Path, spec_hash: str, known: History) -> None:
        self._folder, self._spec_hash, self._known = folder, spec_hash, known
        self._kept, self._restored_details = 0, 0
        self._path: Path | None = None
        self._failed = False

    def keep(self, progress: Progress) -> str | None:
        """Appends the generation evaluated last; returns why that failed, once.

        After a failure nothing is kept of this attempt: its file would have a gap, and a full disk
        has use for the room.
        """
        start, self._kept = self._kept, progress.evaluations
        if self._path is None and progress.known:
            self._restored_details += 0 if progress.details is None else len(progress.details)
            return None
        if self._failed:
            return None
        try:
            if self._path is None:
                self._path = _new_file(self._folder)
                details = self._known.details[: self._restored_details]
                restored = _record(History(progress.losses[:start], details))
                _append(self._path, _head(self._spec_hash) + restored)
            _append(self._path, _generation(progress, start))
        except OSError as error:
            self._failed = True
            self._remove()
            return str(error)
        return None

    def _remove(self) -> None:
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()


def _new_file(folder: Path) -> Path:
    """Makes the file of an attempt, numbered after all others."""
    folder.mkdir(parents=True, exist_ok=True)
    for attempt in itertools.count(1 + len(list(folder.glob(FILES)))):
        path = folder / f"history-{attempt:03}.bin"
        with contextlib.suppress(FileExistsError):
            path.open("xb").close()
            break
    return path


def _generation(progress: Progress, start: int) -> bytes:
    losses = progress.losses[start:]
    if progress.details is None:
        return _record(History(losses))
    return _record(History(losses, progress.details))


def _append(path: Path, content: bytes) -> None:
    """Appends to a file that is there; in one write, unless the disk takes less of it."""
    with path.open("r+b", buffering=0) as file:
        file.seek(0, os.SEEK_END)
        while content:
            content = content[file.write(content) :]


def _head(spec_hash: str) -> bytes:
    return f"{FORMAT} {spec_hash}\n".encode()


def _record(history: History) -> bytes:
    counts = COUNTS.pack(len(history.losses), *history.details.shape)
    arrays = (history.losses, history.details)
    numbers = b"".join(array.astype(NUMBERS, copy=False).tobytes() for array in arrays)
    return counts + CHECKSUM.pack(zlib.crc32(numbers, zlib.crc32(counts))) + numbers


def _read(path: Path, spec_hash: str) -> History:
    """Returns what a file holds up to the first record that is not whole."""
    try:
        content = path.read_bytes()
    except OSError:
        return NOTHING
    head = _head(spec_hash)
    if not content.startswith(head):
        return NOTHING
    records = list(_records(memoryview(content)[len(head) :]))
    losses = [record.losses for record in records]
    details = [record.details for record in records if record.details.size]
    if not details:
        return History(np.concatenate([NOTHING.losses, *losses]))
    return History(np.concatenate(losses), np.concatenate(details))


def _records(content: memoryview) -> Iterator[History]:
    while len(content) >= COUNTS.size + CHECKSUM.size:
        losses, details, width = COUNTS.unpack_from(content)
        (checksum,) = CHECKSUM.unpack_from(content, COUNTS.size)
        start = COUNTS.size + CHECKSUM.size
        stop = start + NUMBERS.itemsize * (losses + details * width)
        counts, numbers = content[: COUNTS.size], content[start:stop]
        if len(content) < stop or zlib.crc32(numbers, zlib.crc32(counts)) != checksum:
            return
        found = np.frombuffer(numbers, NUMBERS).astype(np.float32)
        yield History(found[:losses], found[losses:].reshape(details, width))
        content = content[stop:]
