"""The run folder: what an audit leaves on disk, and who drives, watches and stops it there.

See ``docs/run-folder.md``.
"""

from engine.run_folder.run_folder import RunFolder, storing, write_json

__all__ = ["RunFolder", "storing", "write_json"]
