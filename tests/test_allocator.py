import platform
import subprocess
import sys

import pytest

from engine.allocator import keep_freed_memory

SCRIPT = """
import resource
import torch
from engine.allocator import keep_freed_memory
if {keeps}:
    assert keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        tensors = [torch.ones(2**20) for _ in range(4)]
        del tensors
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


def faults(*, keeps):
    command = [sys.executable, "-c", SCRIPT.format(keeps=keeps)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the wish is glibc's")
def test_memory_that_tensors_give_back_is_not_fetched_from_the_system_again():
    assert faults(keeps=True) < 100


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())

    assert keep_freed_memory() is False


def test_another_system_is_left_alone(monkeypatch):
    monkeypatch.setattr("sys.platform", "darwin")

    assert keep_freed_memory() is False
