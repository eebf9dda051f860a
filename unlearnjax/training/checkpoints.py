"""Checkpoints through orbax: written atomically, restored exactly.

A checkpoint directory of ours carries a marker file, so that a foreign directory is never taken for
one, nor cleaned up by mistake.
"""

import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from unlearnjax import parallel, trees
from unlearnjax.types import PyTree

MARKER = "unlearnjax_checkpoints"
# In every checkpoint whose names are those of `_storable`; older ones have `trees.names`.
_NAMES = ":escaped"


class Checkpoints:
    """The checkpoints of one training run, by step; keeps the newest `max_to_keep`.

    Use it as a context manager: leaving waits for writes under way.

    Args:
      directory: created if absent; must be empty or hold checkpoints of ours.
      max_to_keep: older ones are deleted after a newer one is complete.

    Raises:
      ValueError: if `directory` is a file or holds something else.
    """

    def __init__(self, directory: str | os.PathLike, max_to_keep: int = 2):
        import orbax.checkpoint as ocp

        self.directory = Path(directory).absolute()
        if self.directory.exists() and not self.directory.is_dir():
            raise ValueError(f"checkpoint directory {self.directory} is a file")
        marker = self.directory / MARKER
        if self.directory.is_dir() and any(self.directory.iterdir()) and not marker.exists():
            raise ValueError(
                f"checkpoint directory {self.directory} is not empty and was not written by "
                "unlearnjax; choose another --workdir"
            )
        if parallel.is_main_process():
            self.directory.mkdir(parents=True, exist_ok=True)
            marker.touch()
        parallel.sync(f"created {self.directory}")
        options = ocp.CheckpointManagerOptions(
            max_to_keep=max_to_keep, create=False, cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(
            self.directory, options=options, item_handlers=ocp.StandardCheckpointHandler()
        )
        self._args = ocp.args
        # No process may write before all have seen the same steps.
        parallel.sync(f"opened {self.directory}")

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, *_) -> None:
        with self._writing() if kind is None else contextlib.suppress(Exception):
            self._manager.close()

    def latest_step(self) -> int | None:
        """The newest complete step, or `None`."""
        return self._manager.latest_step()

    def save(self, step: int, tree: PyTree) -> None:
        """Writes `tree` as `step`; returns before it is on disk.

        Raises:
          ValueError: for a leaf that is no array and no number.
          OSError: if this or an earlier one cannot be written; complete ones are kept.
        """
        stored = _storable(tree)
        with self._writing():
            self._manager.save(step, args=self._args.StandardSave(stored))

    def restore(self, like: PyTree, step: int | None = None) -> PyTree:
        """The tree saved at `step` (default: the newest), in the structure and types of `like`.

        Raises:
          ValueError: if there is none, or it is damaged or of another structure.
        """
        step = self._existing(step)
        wanted = _storable(like)
        with self._reading(step):
            found = self._manager.item_metadata(step)
            if _NAMES not in found:
                del wanted[_NAMES]
                wanted = dict(zip(trees.names(like), wanted.values(), strict=True))
            _validate_same(found, wanted)
            abstract = {name: _abstract(leaf) for name, leaf in wanted.items()}
            stored = self._manager.restore(step, args=self._args.StandardRestore(abstract))
        leaves, treedef = jax.tree.flatten(like)
        values = (stored[name] for name in wanted if name != _NAMES)
        pairs = zip(values, leaves, strict=True)
        return treedef.unflatten([_from_storable(value, leaf) for value, leaf in pairs])

    def load(self, step: int | None = None) -> dict[str, np.ndarray]:
        """The arrays saved at `step` (default: the newest) by path, whatever devices wrote them.

        Paths are those of `trees.names`; typed random keys come as their raw data.
        """
        step = self._existing(step)
        with self._reading(step):
            found = self._manager.item_metadata(step)
            abstract = {name: np.empty(leaf.shape, leaf.dtype) for name, leaf in found.items()}
            stored = self._manager.restore(step, args=self._args.StandardRestore(abstract))
        if stored.pop(_NAMES, None) is None:
            return jax.tree.map(np.asarray, stored)
        paths = trees.readable([re.split("[@:]", name)[0] for name in stored])
        values = [_value(name, np.asarray(leaf)) for name, leaf in stored.items()]
        return dict(zip(paths, values, strict=True))

    def _existing(self, step: int | None) -> int:
        step = self.latest_step() if step is None else step
        if step is None:
            raise ValueError(f"no checkpoint in {self.directory}")
        return step

    @contextlib.contextmanager
    def _writing(self):
        """A disk that is full or gone is an `OSError`, whatever orbax makes of it."""
        try:
            yield
        except Exception as error:
            why = _reason(error).rpartition('": ')[2]  # without the paths of files inside
            raise OSError(f"checkpoints in {self.directory} cannot be written ({why})") from error

    @contextlib.contextmanager
    def _reading(self, step: int):
        try:
            yield
        except Exception as error:
            raise ValueError(
                f"checkpoint {self.directory / str(step)} cannot be restored: it is damaged or of "
                f"another configuration ({_reason(error)[:200]}). Delete it to go on from an "
                "earlier one, or choose another --workdir"
            ) from error


def _storable(tree: PyTree) -> dict[str, jax.Array | np.ndarray]:
    """A flat dictionary of arrays that orbax can store, in the order of the leaves.

    Names say what these arrays do not: `PATH@IMPLEMENTATION` of typed random keys, which are stored
    as raw data, and `PATH:DTYPE:SHAPE` of what has no elements, which orbax refuses.
    """
    stored = {}
    for name, leaf in zip(trees.escaped_names(tree), jax.tree.leaves(tree), strict=True):
        if trees.is_key(leaf):
            name, leaf = f"{name}@{jax.random.key_impl(leaf)}", jax.random.key_data(leaf)
        elif not isinstance(leaf, jax.Array):
            leaf = np.asarray(leaf)
        if leaf.dtype.kind in "OSUMm":
            raise ValueError(f"checkpoints hold arrays of numbers, got {leaf.dtype} at {name!r}")
        if leaf.size == 0:
            name = f"{name}:{leaf.dtype}:{'x'.join(map(str, leaf.shape))}"
            leaf = np.zeros(1)
        stored[name] = leaf
    return {**stored, _NAMES: np.zeros(1)}


def _value(name: str, stored: np.ndarray) -> np.ndarray:
    """The array that `_storable` stores under `name`; of keys the raw data."""
    _, *empty = name.split(":")
    if not empty:
        return stored
    dtype, shape = empty
    return np.zeros([int(n) for n in shape.split("x")], jax.numpy.dtype(dtype))


def _from_storable(stored, like):
    if np.size(like) == 0:
        return like
    if trees.is_key(like):
        return jax.random.wrap_key_data(stored, impl=jax.random.key_impl(like))
    return stored if isinstance(like, jax.Array | np.ndarray) else type(like)(stored[()])


def _abstract(leaf):
    if isinstance(leaf, jax.Array):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
    return leaf


def _validate_same(found: Mapping, wanted: Mapping) -> None:
    """Raises `ValueError` for other names, shapes or types than those wanted."""
    other, missing = (sorted(a.keys() - b.keys()) for a, b in ((found, wanted), (wanted, found)))
    if other or missing:
        raise ValueError(f"it holds {other[:5]} in the place of {missing[:5]}")
    for name, leaf in wanted.items():
        kinds = [f"{x.dtype}{list(x.shape)}" for x in (found[name], leaf)]
        if kinds[0] != kinds[1]:
            raise ValueError(f"{name} is {kinds[0]}, not {kinds[1]}")


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
