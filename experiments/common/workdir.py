"""The directory of a run: who may write there, and what an earlier launch left."""

import json
from pathlib import Path
from typing import IO, Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from unlearnjax import parallel
from unlearnjax.report import table
from unlearnjax.training import checkpoints

try:
    import fcntl
except ImportError:  # no such locks on Windows
    fcntl = None

CONFIG = "config.json"
LOCK = ".lock"
# What a launch writes before it has computed anything.
_OWN = {CONFIG, f"{CONFIG}.partial", LOCK, checkpoints.MARKER}


def claim(path: Path, config: dict[str, Any], *, alone: bool = True) -> IO | None:
    """Makes the directory, or takes over what an earlier launch of the same run left there.

    Every process of the run calls it. Nothing is changed where it raises.

    Args:
      path: of the directory.
      config: of the run; a directory with another one is taken over if nothing was computed in it.
      alone: whether to lock it, by the main process, against other runs.

    Returns:
      The lock, until it is closed or the process ends, however it ends.

    Raises:
      ValueError: if it cannot be written, holds something else, or another run is at work there.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        foreign = {entry.name for entry in path.iterdir()} - _OWN
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(f"workdir {path} is not a directory") from error
    except OSError as error:
        raise ValueError(f"workdir {path} cannot be made: {error.strerror}") from error
    stored = path / CONFIG
    if foreign and not stored.exists():
        raise ValueError(
            f"workdir {path} is not empty and holds no run of unlearnjax; choose another --workdir"
        )
    held = _lock(path) if alone else None
    try:
        if idle(path):
            same = False
        else:
            _validate_same(stored, config)
            same = True
        parallel.sync("workdir read")  # all have judged what was there before
        if not same and parallel.is_main_process():
            table.write_json(stored, config)
    except BaseException as error:
        if held is not None:
            held.close()
        if isinstance(error, OSError):
            raise ValueError(f"workdir {path} cannot be written: {error.strerror}") from error
        raise
    return held


def idle(path: Path) -> bool:
    """Whether no launch has computed anything in the directory."""
    return all(entry.name in _OWN for entry in path.rglob("*") if not entry.is_dir())


def withdraw(path: Path) -> None:
    """Leaves the directory empty if nothing was computed in it, so that any run may have it."""
    if parallel.is_main_process() and path.is_dir() and idle(path):
        for entry in sorted(path.rglob("*"), reverse=True):  # what is inside comes first
            if entry.is_dir():
                entry.rmdir()
            elif entry.name != LOCK:
                entry.unlink()


def differences(stored: Any, new: Any, path: str = "config") -> list[str]:
    """Fields in which two configurations differ, one line each."""
    if isinstance(stored, dict) and isinstance(new, dict):
        return [
            line
            for k in sorted(stored.keys() | new.keys())
            for line in differences(stored.get(k), new.get(k), f"{path}.{k}")
        ]
    return [] if stored == new else [f"{path}: stored {stored!r}, now {new!r}"]


def _validate_same(stored: Path, config: dict[str, Any]) -> None:
    try:
        changed = differences(json.loads(stored.read_text()), config)
    except ValueError as error:
        raise ValueError(f"{stored} is damaged; choose another --workdir") from error
    if changed:
        raise ValueError(
            f"workdir {stored.parent} holds a run with another configuration "
            f"({'; '.join(changed[:5])}); choose another --workdir or delete it"
        )


def _lock(path: Path) -> IO | None:
    """Locks the directory by its main process; all processes raise where that one cannot."""
    held, refused = None, ""
    if parallel.is_main_process():
        try:
            held = open(path / LOCK, "a")
            if fcntl is not None:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held.close()
            refused = "is in use by a run that has not ended; wait for it"
        except OSError as error:
            if held is None:
                refused = f"cannot be written: {error.strerror}"
            # else: a file system without locks
    if jax.process_count() > 1 and multihost_utils.broadcast_one_to_all(np.int32(bool(refused))):
        refused = refused or "was refused to the main process"
    if refused:
        raise ValueError(f"workdir {path} {refused}, or choose another --workdir")
    return held
