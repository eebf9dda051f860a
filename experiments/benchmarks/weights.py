"""Published weights onto the device, tensor by tensor, against reading the file as a whole.

Time is of both in turns; memory of each in a process of its own: what the host held at its peak,
beside what it held before and what was placed, in bytes and in sizes of the largest tensor.
"""

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from experiments.benchmarks import timing
from unlearnjax import models, pretrained

HOW = ("tensor by tensor", "the whole file")


def run(
    model: str = "vit_base",
    side: int = 224,
    options: Mapping[str, Any] = MappingProxyType({}),
    repeats: int = 3,
):
    """Yields one record, of a random file in the layout of `transformers`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        key_map, like = described(model, side, options)
        shapes, treedef = jax.tree.flatten(like)
        rng = np.random.default_rng(0)
        random = [rng.standard_normal(shape.shape, np.float32) for shape in shapes]
        pretrained.save(path, treedef.unflatten(random), key_map)
        del random
        largest = max(math.prod(shape.shape) for shape in shapes) * 4
        calls = {how: lambda how=how: placed(how, path, like, key_map) for how in HOW}
        record = timing.compare("weights", f"load {model} at {side}", calls, repeats)
        beside = {how: _in_a_process(how, path, model, side, options) for how in HOW}
    record["peak_bytes"] = beside
    record["largest_tensors"] = {how: round(size / largest, 2) for how, size in beside.items()}
    yield record


def described(model: str, side: int, options: Mapping[str, Any]):
    """The key map of the file, and the shapes of the parameters."""
    module = models.by_name(model, num_classes=1000, **options)
    images = jax.ShapeDtypeStruct((1, side, side, 3), "float32")
    like = jax.eval_shape(module.init, jax.random.key(0), images)["params"]
    return pretrained.vit.hugging_face(module.depth), like


def placed(how: str, path: Path, like, key_map: pretrained.KeyMap):
    """The parameters on the device."""
    if how == HOW[0]:
        return pretrained.load(path, like, key_map).params
    from safetensors.numpy import load_file

    whole = load_file(path)
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in whole.items()}
    source = pretrained.Tensors(path, shapes, whole.__getitem__)
    return pretrained.load(source, like, key_map).params


def _in_a_process(how: str, *args: Any) -> int:
    command = [sys.executable, "-m", "experiments.benchmarks.weights"]
    given = json.dumps([how, *map(str, args[:2]), args[2], dict(args[3])])
    result = subprocess.run([*command, given], capture_output=True, text=True, check=True)
    return int(result.stdout.splitlines()[-1])


def _beside(how: str, path: str, model: str, side: int, options: Mapping[str, Any]) -> int:
    """Bytes of this process at its peak, beside those before and those placed."""
    key_map, like = described(model, side, options)
    small = Path(path).with_name("small.safetensors")
    pretrained.write_tensors(small, {"a": np.zeros((2, 2), np.float32)})
    placed(how, small, {"a": jax.ShapeDtypeStruct((2, 2), "float32")}, _SMALL)  # what it imports
    before = timing.host_bytes("VmRSS")
    params = placed(how, Path(path), like, key_map)
    on_host = jax.default_backend() == "cpu"
    at_rest = on_host * sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    return timing.host_bytes("VmHWM") - before - at_rest


_SMALL = pretrained.KeyMap((pretrained.Rule("a", "a"),))

if __name__ == "__main__":
    print(_beside(*json.loads(sys.argv[1])))
