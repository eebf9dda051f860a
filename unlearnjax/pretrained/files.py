"""Files of named tensors: safetensors, one or in shards, and NumPy's archives. Never a pickle.

A file is opened by its header; a tensor is read when it is asked for, and nothing else with it.
"""

import contextlib
import json
import mmap
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unlearnjax import checks

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_TYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    **{f"I{8 * n}": np.dtype(f"i{n}").type for n in (1, 2, 4, 8)},
    **{f"U{8 * n}": np.dtype(f"u{n}").type for n in (1, 2, 4, 8)},
    "BOOL": np.bool_,
}


class Tensors(NamedTuple):
    """What is stored under a path.

    Attributes:
      path: of the file, of the index of shards, or of the folder given.
      shapes: by name, shape and type of each tensor.
      read: `name -> array`, from disk at every call.
    """

    path: Path
    shapes: Mapping[str, jax.ShapeDtypeStruct]
    read: Callable[[str], np.ndarray]


def open_tensors(path: str | os.PathLike) -> Tensors:
    """The tensors stored at `path`, of which only names, shapes and types are read.

    Args:
      path: a `.safetensors` file; the `.index.json` of one in shards; a `.npz` archive; or a folder
        with `model.safetensors` or `model.safetensors.index.json`.

    Raises:
      ValueError: if there is nothing there, if it is a pickle (which is never opened: it may run
        code of whoever wrote it), cut short, or no such file.
      ImportError: if the library safetensors is needed and not there.
    """
    path = Path(path)
    if path.is_dir():
        found = (path / "model.safetensors.index.json", path / "model.safetensors")
        there = [file for file in found if file.is_file()]
        if not there:
            pickles = sorted(file.name for file in path.iterdir() if file.suffix in PICKLES)
            also = f", but {pickles[0]}: a pickle, which is never opened" if pickles else ""
            raise ValueError(f"weights: {path} holds no model.safetensors{also}")
        path = there[0]
    if path.suffix in PICKLES:
        raise ValueError(
            f"weights {path} may be a pickle, which can run any code and is never opened; give "
            "safetensors (transformers: model.save_pretrained(path, safe_serialization=True))"
        )
    if path.name.endswith(".index.json"):
        opener = _open_shards
    elif path.suffix == ".npz":
        opener = _open_archive
    elif path.suffix == ".safetensors":
        opener = _open_safetensors
    else:
        raise ValueError(
            f"weights must be a .safetensors file, its .index.json, an .npz or a folder, got {path}"
        )
    with readable(path):
        return opener(path)


def write_tensors(path: str | os.PathLike, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a `.safetensors` or a `.npz` file, whole or not at all.

    Raises:
      ValueError: for another ending.
      ImportError: if the library safetensors is needed and not there.
    """
    path = Path(path)
    checks.one_of(**{"the ending of path": (path.suffix, (".safetensors", ".npz"))})
    # The library takes an array's memory as it lies, in whatever order its axes are.
    tensors = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    partial = path.with_name(f"{path.stem}.partial{path.suffix}")
    try:
        if path.suffix == ".npz":
            np.savez(partial, **tensors)
        else:
            _library().numpy.save_file(tensors, partial, metadata={"format": "pt"})
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _open_safetensors(path: Path) -> Tensors:
    # The library checks the whole header against the file's length. The bytes are read without it:
    # from its map of the file, they would be in memory twice.
    shapes = {}
    with _library().safe_open(path, framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118 (no mapping)
            part = file.get_slice(name)
            if part.get_dtype() not in _TYPES:
                raise ValueError(f"{name} is of type {part.get_dtype()}, not of {list(_TYPES)}")
            shapes[name] = jax.ShapeDtypeStruct(part.get_shape(), _TYPES[part.get_dtype()])
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))

    def read(name):
        shape, dtype = shapes[name].shape, shapes[name].dtype
        begin, end = header[name]["data_offsets"]
        # Pages of its own go back to the system at once; the heap would keep holes.
        pages = mmap.mmap(-1, max(end - begin, 1))
        with open(path, "rb") as file:
            file.seek(8 + size + begin)
            if file.readinto(memoryview(pages)[: end - begin]) < end - begin:
                raise ValueError("it has become shorter")
        return np.ndarray(shape, dtype, pages)

    return Tensors(path, shapes, _reading(path, read))


def _open_shards(path: Path) -> Tensors:
    index = json.loads(path.read_text())
    files = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(files, dict) or not files:
        raise ValueError("it has no weight_map from names to files")
    for file in files.values():
        plain = isinstance(file, str) and Path(file).name == file
        if not plain or not file.endswith(".safetensors"):
            raise ValueError(f"a shard must be a .safetensors beside its index, got {file!r}")
    shards = {}
    for file in sorted(set(files.values())):
        with readable(path.parent / file):
            shards[file] = _open_safetensors(path.parent / file)
    placed = [(name, file) for file, shard in shards.items() for name in shard.shapes]
    wrong = sorted(set(placed) ^ set(files.items()))
    if wrong:
        name, file = wrong[0]
        raise ValueError(f"index and shards disagree about {name!r} in {file}")
    shapes = {name: shards[file].shapes[name] for name, file in files.items()}
    return Tensors(path, shapes, lambda name: shards[files[name]].read(name))


def _open_archive(path: Path) -> Tensors:
    shapes = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            if not member.endswith(".npy"):
                raise ValueError(f"it holds {member}, which is no array (a pickle is never opened)")
            with archive.open(member) as file:
                shapes[member.removesuffix(".npy")] = _array_header(file)

    def read(name):
        with np.load(path, allow_pickle=False) as archive:
            return archive[name].view(shapes[name].dtype)

    return Tensors(path, shapes, _reading(path, read))


def _array_header(file) -> jax.ShapeDtypeStruct:
    version = np.lib.format.read_magic(file)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    shape, _, dtype = readers[version](file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are never opened")
    # NumPy has no name for bfloat16 and stores it as two bytes of no kind.
    return jax.ShapeDtypeStruct(shape, jnp.bfloat16 if dtype.str == "|V2" else dtype)


def _reading(path: Path, read: Callable[[str], np.ndarray]) -> Callable[[str], np.ndarray]:
    def one(name):
        with readable(path):
            return read(name)

    return one


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Whatever reading the file raises, as one line that names it."""
    try:
        yield
    except ImportError:
        raise
    except FileNotFoundError as error:
        raise ValueError(f"weights: there is no file {error.filename or path}") from error
    except Exception as error:  # of the file's content, as each library words it
        if str(error).startswith("weights"):
            raise
        why = re.sub(r"\s+", " ", str(error)) or type(error).__name__
        raise ValueError(f"weights {path} cannot be read: {why}") from error


def _library() -> ModuleType:
    try:
        import safetensors
        import safetensors.numpy
    except ImportError as error:
        raise ImportError(
            "published weights need the library safetensors: pip install 'unlearnjax[pretrained]'"
        ) from error
    return safetensors
