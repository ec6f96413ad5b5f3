"""A folder that shows another one as storage does that is slow, fails, or does not answer.

    python faulty_storage.py SHOWN MOUNTPOINT SWITCH

``SWITCH`` is a file read before every operation: ``{"delay": seconds}`` makes all slow,
``{"error": number}`` makes what writes fail with that number, and ``{"hangs": true}`` keeps all
waiting for as long as it says so.
"""

import errno
import json
import os
import sys
import time
from pathlib import Path

import mfusepy


class FaultyStorage(mfusepy.Operations):
    use_ns = True

    def __init__(self, shown, switch):
        self._shown, self._switch = shown, switch

    def _suffer(self, writes=False):
        while (state := json.loads(self._switch.read_text())).get("hangs"):
            time.sleep(0.05)
        time.sleep(state.get("delay", 0))
        if writes and "error" in state:
            raise mfusepy.FuseOSError(state["error"])

    def _at(self, path, *, writes=False):
        self._suffer(writes)
        return self._shown + path

    def getattr(self, path, fh=None):
        try:
            found = os.lstat(self._at(path))
        except FileNotFoundError:
            raise mfusepy.FuseOSError(errno.ENOENT) from None
        names = ("mode", "nlink", "size", "uid", "gid")
        times = {f"st_{of}time": getattr(found, f"st_{of}time_ns") for of in "amc"}
        return {f"st_{name}": getattr(found, f"st_{name}") for name in names} | times

    def readdir(self, path, fh):
        return [".", "..", *os.listdir(self._at(path))]

    def chmod(self, path, mode):
        return os.chmod(self._at(path, writes=True), mode)

    def mkdir(self, path, mode):
        return os.mkdir(self._at(path, writes=True), mode)

    def rmdir(self, path):
        return os.rmdir(self._at(path, writes=True))

    def unlink(self, path):
        return os.unlink(self._at(path, writes=True))

    def rename(self, old, new):
        return os.replace(self._at(old, writes=True), self._shown + new)

    def utimens(self, path, times=None):
        return os.utime(self._at(path, writes=True), ns=times)

    def truncate(self, path, length, fh=None):
        return os.truncate(self._at(path, writes=True), length)

    def open(self, path, flags):
        # The kernel says where each write goes, at the end of a file too.
        return os.open(self._at(path), flags & ~os.O_APPEND)

    def create(self, path, mode, fi=None):
        return os.open(self._at(path, writes=True), os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

    def read(self, path, size, offset, fh):
        self._suffer()
        return os.pread(fh, size, offset)

    def write(self, path, data, offset, fh):
        self._suffer(writes=True)
        return os.pwrite(fh, data, offset)

    def fsync(self, path, datasync, fh):
        self._suffer(writes=True)
        return os.fsync(fh)

    def release(self, path, fh):
        return os.close(fh)


if __name__ == "__main__":
    shown, mountpoint, switch = sys.argv[1:]
    mfusepy.FUSE(FaultyStorage(shown, Path(switch)), mountpoint, foreground=True)
