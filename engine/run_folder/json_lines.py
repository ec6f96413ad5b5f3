"""Files of one JSON value a line, appended to: a crash costs at most the line being written."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO


def append(path: Path, value: Mapping[str, Any], *, durable: bool = False) -> None:
    """Appends a value as a line of its own, in place of one that a crash left without its end.

    Args:
        path: The file, made if need be.
        value: Of finite numbers.
        durable: Whether to wait until it is on disk.

    Raises:
        ValueError: For a number that is not finite; nothing is written then.
    """
    line = json.dumps(value, allow_nan=False).encode() + b"\n"
    with path.open("ab+") as file:
        _drop_torn_line(file)
        file.write(line)
        if durable:
            file.flush()
            os.fsync(file.fileno())


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the values in order; of no file none, and none of a line that a crash damaged."""
    if not path.exists():
        return
    with path.open("rb") as file:
        yield from _values(file)


def read_on(path: Path, start: int) -> tuple[list[dict[str, Any]], int]:
    """Returns the values from a byte on, and the byte that the next one will begin with.

    Args:
        path: A file that is there.
        start: 0, or what an earlier call returned.
    """
    with path.open("rb") as file:
        file.seek(start)
        lines = list(file)
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    return list(_values(lines)), start + sum(map(len, lines))


def _values(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Yields the values of the lines that are whole.

    What a process leaves behind is a last line without its end; a machine that lost its power may
    have left anything.
    """
    for line in lines:
        try:
            value = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            continue
        if isinstance(value, dict):
            yield value


def _drop_torn_line(file: BinaryIO) -> None:
    """Cuts off a last line without its end; it was never confirmed to anyone."""
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return
    file.seek(size - 1)
    if file.read(1) != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
    file.seek(0, os.SEEK_END)
