"""Files of one JSON value a line, appended to: a crash costs at most the line being written."""

import json
import os
from collections.abc import Iterator, Mapping
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
    """Yields the values in order; of no file none, and none of a last line without its end."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)


def read_on(path: Path, start: int) -> tuple[list[dict[str, Any]], int]:
    """Returns the values from a byte on, and the byte that the next one will begin with.

    Args:
        path: A file that is there.
        start: 0, or what an earlier call returned.
    """
    values = []
    with path.open("rb") as file:
        file.seek(start)
        for line in file:
            if line.endswith(b"\n"):
                values.append(json.loads(line))
                start += len(line)
    return values, start


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
