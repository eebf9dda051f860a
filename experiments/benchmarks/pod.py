"""What the largest jobs take on a TPU slice, from programs compiled for it without one.

    pip install "jax[tpu]"
    python -m experiments.benchmarks.pod [--topology=v5e:16x16]

Compiles training steps, the Fisher diagonal and an ensemble for every chip of the slice, and
prints what one chip holds, computes, moves and exchanges: a table, and `pod.json` in `--workdir`.
Times are those of the roofline, the slowest of computing, memory and links at their published
peaks. With `--topology=cpu:N` the same is compiled for N CPU devices, which needs no TPU compiler;
times are then left out.
"""

import json
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags
from jax.experimental import topologies

from experiments.common import runner
from unlearnjax import audit, diffusion, models, parallel, tasks, training, trees
from unlearnjax.curvature import layers
from unlearnjax.report import table
from unlearnjax.training import ensembles

_TOPOLOGY = flags.DEFINE_string("topology", "v5e:16x16", "A TPU slice, or cpu:N.")
_PROGRAMS = flags.DEFINE_list("programs", [], "Which programs; default all.")

# Of one chip: FLOP/s in bfloat16, bytes/s of memory and of its links, bytes. Google Cloud's own
# figures (cloud.google.com/tpu/docs/v5e): 197 TFLOPs, 819 GB/s, 1,600 Gb/s, 16 GB.
PEAKS = {"v5e": {"flops": 197e12, "memory": 819e9, "links": 200e9, "bytes": 16e9}}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8}


def devices(topology: str) -> list:
    """Of the slice, without one being there."""
    kind, _, size = topology.partition(":")
    if kind == "cpu":
        return jax.devices()
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices


def vit_base(dtype=jnp.bfloat16):
    """ViT-B/16 on ImageNet-1k: 86 million parameters."""
    module = models.ViT(
        num_classes=1000, patch_size=16, width=768, depth=12, num_heads=12, dtype=dtype
    )
    return tasks.classification(tasks.from_linen(module))


def images(count: int, side: int, dtype=jnp.bfloat16) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a batch."""
    return {
        "inputs": jax.ShapeDtypeStruct((count, side, side, 3), dtype),
        "targets": jax.ShapeDtypeStruct((count,), jnp.int32),
        "index": jax.ShapeDtypeStruct((count,), jnp.int32),
        "weight": jax.ShapeDtypeStruct((count,), jnp.float32),
    }


def placed(tree: Any, shardings: Any) -> Any:
    """Shapes with their shardings."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings
    )


def everywhere(tree: Any, mesh, spec=None) -> Any:
    """Shapes with one sharding; replicated without `spec`."""
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*(spec or ())))
    return placed(tree, jax.tree.map(lambda _: sharding, tree))


class Program(NamedTuple):
    """What is compiled: `fn` for `args` with `options` of `jit`, and its FLOPs on one device."""

    fn: Callable
    args: tuple
    options: dict
    flops: float


def shared_flops(fn: Callable, args: tuple, mesh) -> float:
    """Of a program whose batches are split over the devices."""
    whole = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), args)
    return audit.flops(fn, *whole) / mesh.size


def vit_step(mesh, per_device: int, split: bool) -> Program:
    """A training step of AdamW, the model on every device or split over them."""
    task, tx = vit_base(), optax.adamw(1e-3)
    return training_step(mesh, task, tx, images(per_device * mesh.size, 224), split)


def unet_step(mesh, num_images: int) -> Program:
    """A step of DDPM's U-Net on CIFAR-10 as configs/diffusion.py:cifar10 trains it, split."""
    module = models.UNet(num_classes=10, dtype=jnp.bfloat16)
    process = diffusion.Process(diffusion.linear(), (32, 32, 3), 10, prediction="epsilon")
    task = tasks.diffusion(tasks.from_linen(module, ("noised", "time", "condition")), process)
    clipped = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(2e-4))
    tx = training.averaged(clipped, decay=0.9999)
    batch = images(num_images, 32, jnp.float32)
    batch["condition"] = batch.pop("targets")
    return training_step(mesh, task, tx, batch, split=True)


def decoder_step(mesh, num_answers: int, length: int = 256, rank: int = 0) -> Program:
    """A step of NPO's kind on Llama-3.2-1B, all parameters or LoRA's, split, in bfloat16.

    That is, AdamW on answers of so many tokens, blocks computed again for gradients, and logits in
    chunks.
    """
    config = models.DecoderConfig(
        vocab_size=128_256,
        width=2048,
        depth=16,
        num_heads=32,
        num_kv_heads=8,
        head_dim=64,
        mlp_width=8192,
        norm_eps=1e-5,
        rope_base=500_000.0,
        rope_scaling=models.RopeScaling(32.0, 1.0, 4.0, 8192),
    )
    module = models.Decoder(config, dtype=jnp.bfloat16, remat=True)
    whole = tasks.language_modelling(tasks.from_linen(module), chunk=64)
    task = tasks.lora(whole, rank, where=["*.attention"]) if rank else whole
    tokens = jax.ShapeDtypeStruct((num_answers, length), jnp.int32)
    batch = {
        "inputs": tokens,
        "targets": tokens,
        "answer": jax.ShapeDtypeStruct(tokens.shape, jnp.float32),
        "index": jax.ShapeDtypeStruct((num_answers,), jnp.int32),
        "weight": jax.ShapeDtypeStruct((num_answers,), jnp.float32),
    }
    base = (lambda rng: tasks.as_base(whole.init(rng, _one(batch)))) if rank else None
    return training_step(mesh, task, optax.adamw(1e-5), batch, split=True, base=base)


def training_step(mesh, task, tx, batch, split: bool, base: Callable | None = None) -> Program:
    """A step of any task, its state on every device or split over them.

    `base` makes the collections that the task's own variables lack, of a key.
    """
    step = training.make_step(training.supervised(task), tx)

    def fresh(rng):
        carried = base(rng) if base else {}
        return training.init_state({**task.init(rng, _one(batch)), **carried}, tx)

    state = jax.eval_shape(fresh, jax.random.key(0))
    shardings = jax.tree.map(lambda x: x.sharding, everywhere(state, mesh))
    if split:
        shardings = parallel.split_shardings(state, mesh)
    args = (placed(state, shardings), everywhere(batch, mesh, ("data",)), _key(mesh))
    options = {"donate_argnums": 0, "out_shardings": (shardings, None)}
    return Program(step, args, options, shared_flops(step, args, mesh))


def vit_fisher(mesh, per_device: int) -> Program:
    """Squares of the per-example gradients of one batch, summed: of the Fisher diagonal."""
    task, batch = vit_base(), images(per_device * mesh.size, 224)
    variables = jax.eval_shape(lambda rng: task.init(rng, _one(batch)), jax.random.key(0))
    squares = partial(layers.summed_squares, task, max_bytes=2**30)
    args = (everywhere(variables, mesh), everywhere(batch, mesh, ("data",)))
    return Program(squares, args, {}, shared_flops(squares, args, mesh))


def ensemble(mesh, per_device: int, num_examples: int, num_epochs: int) -> Program:
    """ResNet-18 on random halves of CIFAR-10, so many models on each device."""
    task = tasks.classification(tasks.from_linen(models.ResNet(num_classes=10, dtype=jnp.bfloat16)))
    data = images(num_examples, 32)
    del data["weight"]
    count, batch_size = per_device * mesh.size, min(512, num_examples // 2)
    tx = optax.sgd(optax.cosine_decay_schedule(0.1, 1000), momentum=0.9)

    def fit(data, subsets, rngs):
        return ensembles.train_ensemble(
            task,
            tx,
            data,
            subsets,
            rngs,
            lambda v, d: training.evaluate(task, v, d)["margin"],
            num_epochs=num_epochs,
            batch_size=batch_size,
            axis="vmap",
            mesh=mesh,
        )

    subsets = jax.ShapeDtypeStruct((count, num_examples // 2), jnp.int32)
    rngs = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), count))
    members = everywhere((subsets, rngs), mesh, ("data",))
    one = lambda data, rows, rng: training.train(
        task, tx, data, rows, rng, num_epochs=num_epochs, batch_size=batch_size
    )[0]
    single = (data, *(jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in (subsets, rngs)))
    flops = per_device * audit.flops(one, *single)
    return Program(fit, (everywhere(data, mesh), *members), {}, flops)


# Name -> what gives the program for a mesh.
PROGRAMS = {
    "ViT-B/16 step": partial(vit_step, per_device=16, split=False),
    "ViT-B/16 step (split)": partial(vit_step, per_device=16, split=True),
    "ViT-B/16 Fisher batch": partial(vit_fisher, per_device=8),
    "U-Net step of 128 images": partial(unet_step, num_images=128),
    "Llama-3.2-1B step of 32 answers": partial(decoder_step, num_answers=32),
    "the same by LoRA": partial(decoder_step, num_answers=32, rank=16),
    "ResNet-18 ensemble epoch": partial(ensemble, per_device=4, num_examples=50_000, num_epochs=1),
}


def analyse(name: str, build: Callable, mesh, peaks: dict | None) -> dict:
    """One row: per device what the compiled program holds, computes, moves, exchanges."""
    program = build(mesh)
    with jax.set_mesh(mesh):  # the chips are not there: nothing may be computed under it
        compiled = jax.jit(program.fn, **program.options).lower(*program.args).compile()
    memory, costs = compiled.memory_analysis(), compiled.cost_analysis()
    exchanged = collective_bytes(compiled.as_text())
    row = {
        "program": name,
        "devices": mesh.size,
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "flops": program.flops,
        "bytes": costs.get("bytes accessed", math.nan),
        "collectives": exchanged,
    }
    if peaks:
        seconds = {
            "computing": program.flops / peaks["flops"],
            "memory": row["bytes"] / peaks["memory"],
            "links": sum(exchanged.values()) / peaks["links"],
        }
        row |= {"seconds": seconds, "bound": max(seconds, key=seconds.get)}
    return row


def collective_bytes(text: str) -> dict[str, int]:
    """Bytes of the results of each kind of collective in an HLO program; loops count once."""
    total = Counter()
    for kind in COLLECTIVES:
        for result in re.findall(rf"= (.*?) {kind}(?:-start)?\(", text):
            for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", result):
                size = math.prod(int(n) for n in shape.split(",") if n)
                total[kind] += size * BYTES.get(dtype, 0)
    return dict(total)


def markdown(rows: list[dict]) -> str:
    """The rows as a table."""
    cells = {
        "program": [r["program"] for r in rows],
        "arguments": [f"{r['argument_bytes'] / 1e9:.3g} GB" for r in rows],
        "temporary": [f"{r['temporary_bytes'] / 1e9:.3g} GB" for r in rows],
        "TFLOP": [f"{r['flops'] / 1e12:.3g}" for r in rows],
        "moved": [f"{r['bytes'] / 1e9:.3g} GB" for r in rows],
        "exchanged": [f"{sum(r['collectives'].values()) / 1e9:.3g} GB" for r in rows],
    }
    if "seconds" in rows[0]:
        cells["at least"] = [f"{1e3 * r['seconds'][r['bound']]:.3g} ms" for r in rows]
        cells["bound by"] = [r["bound"] for r in rows]
    return table.markdown(list(cells.items()))


def _one(batch):
    """An example, to initialise with."""
    return {k: np.zeros((1, *v.shape[1:]), v.dtype) for k, v in batch.items()}


def _key(mesh):
    return everywhere(jax.eval_shape(lambda: jax.random.key(0)), mesh)


def main(argv) -> None:
    del argv
    kind, _, size = _TOPOLOGY.value.partition(":")
    if kind == "cpu":
        jax.config.update("jax_num_cpu_devices", int(size))
    unknown = sorted(set(_PROGRAMS.value) - set(PROGRAMS))
    if unknown or kind not in ("cpu", *PEAKS):
        sys.exit(
            f"error: --topology must be cpu:N or a slice of {sorted(PEAKS)}, got "
            f"{_TOPOLOGY.value!r}; --programs must name some of {sorted(PROGRAMS)}, got {unknown}"
        )
    mesh = parallel.mesh(np.asarray(devices(_TOPOLOGY.value)))
    rows = []
    for name, build in PROGRAMS.items():
        if not _PROGRAMS.value or name in _PROGRAMS.value:
            print(name, file=sys.stderr)
            rows.append(analyse(name, build, mesh, PEAKS.get(kind)))
    workdir = Path(flags.FLAGS.workdir or "runs/pod")
    workdir.mkdir(parents=True, exist_ok=True)
    result = {"topology": _TOPOLOGY.value, "environment": runner.environment(), "rows": rows}
    (workdir / "pod.json").write_text(json.dumps(result, indent=1))
    size = trees.size(
        jax.eval_shape(lambda: vit_base().init(jax.random.key(0), _one(images(1, 224))))
    )
    print(f"ViT-B/16: {size:,} parameters\n\n{markdown(rows)}")


if __name__ == "__main__":
    app.run(main)
