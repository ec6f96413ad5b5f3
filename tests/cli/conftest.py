import sys
from collections import namedtuple

import pytest

from engine import tuning
from engine.cli import main

Outcome = namedtuple("Outcome", "code out err")


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """An empty folder that commands run in."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def leaktune(empty, monkeypatch, capsys):
    """Runs a command line in this process and in an empty folder; it may not start Ray."""

    def connect(address):
        raise AssertionError("Ray was started")

    monkeypatch.setattr(tuning, "connect", connect)

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["leaktune", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        return Outcome(code, *capsys.readouterr())

    return call
