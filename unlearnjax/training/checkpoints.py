"""Checkpoints through orbax: written atomically, restored exactly.

A checkpoint directory of ours carries a marker file, so that a foreign directory is never taken for
one, nor cleaned up by mistake.
"""

import os
from pathlib import Path

import jax
import numpy as np

from unlearnjax import parallel, trees
from unlearnjax.types import PyTree

_MARKER = "unlearnjax_checkpoints"


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
        marker = self.directory / _MARKER
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

    def __exit__(self, *_) -> None:
        self._manager.close()

    def latest_step(self) -> int | None:
        """The newest complete step, or `None`."""
        return self._manager.latest_step()

    def save(self, step: int, tree: PyTree) -> None:
        """Writes `tree` as `step`; returns before it is on disk."""
        self._manager.save(step, args=self._args.StandardSave(_storable(tree)))

    def restore(self, like: PyTree, step: int | None = None) -> PyTree:
        """The tree saved at `step` (default: the newest), in the structure and types of `like`.

        Raises:
          ValueError: if there is none, or it is damaged or of another structure.
        """
        step = self.latest_step() if step is None else step
        if step is None:
            raise ValueError(f"no checkpoint in {self.directory}")
        stored_like = _storable(like)
        abstract = jax.tree.map(_abstract, stored_like)
        try:
            stored = self._manager.restore(step, args=self._args.StandardRestore(abstract))
            shapes = jax.tree.map(np.shape, stored), jax.tree.map(np.shape, stored_like)
            if shapes[0] != shapes[1]:
                raise ValueError("array shapes differ")
        except Exception as error:
            reason = str(error).strip().split("\n")[0][:200]
            raise ValueError(
                f"checkpoint {self.directory / str(step)} cannot be restored: it is damaged or of "
                f"another configuration ({type(error).__name__}: {reason}). Delete it to go on "
                "from an earlier one, or choose another --workdir"
            ) from error
        leaves, treedef = jax.tree.flatten(like)
        return treedef.unflatten(
            [_from_storable(stored[n], x) for n, x in zip(trees.names(like), leaves, strict=True)]
        )

    def load(self, step: int | None = None) -> dict[str, np.ndarray]:
        """The arrays saved at `step` (default: the newest) by path, whatever devices wrote them."""
        step = self.latest_step() if step is None else step
        if step is None:
            raise ValueError(f"no checkpoint in {self.directory}")
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        abstract = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here)
            for name, leaf in self._manager.item_metadata(step).items()
        }
        stored = self._manager.restore(step, args=self._args.StandardRestore(abstract))
        return jax.tree.map(np.asarray, stored)


def _storable(tree: PyTree) -> dict[str, PyTree]:
    """A flat dictionary by path, typed random keys as their raw data."""
    leaves = [jax.random.key_data(x) if trees.is_key(x) else x for x in jax.tree.leaves(tree)]
    return dict(zip(trees.names(tree), leaves, strict=True))


def _from_storable(stored, like):
    return jax.random.wrap_key_data(stored) if trees.is_key(like) else stored


def _abstract(leaf):
    if isinstance(leaf, jax.Array):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
    return np.asarray(leaf)
