"""What is measured, at which sizes, and what ratio to PyTorch is aimed at."""

from typing import Any, NamedTuple

from experiments.benchmarks import problems

DIGITS, FASHION = (8, 8, 1), (28, 28, 1)
DIT = {"model": "dit", "shape": DIGITS, "batch": 128}
WIDE = {**DIT, "batch": 64, "options": {"width": 384, "num_heads": 6}}
ONE_M = {
    "config": {"vocab_size": 2048, "num_kv_heads": 2},  # of width 128 and depth 4
    "batch": 16,
    "length": 128,
}
THIRTY_M = {
    "config": {
        "vocab_size": 4096,
        "width": 512,
        "depth": 9,
        "num_heads": 8,
        "mlp_width": 1376,
    },
    "batch": 4,
    "length": 128,
}
MLP = {"model": "mlp", "shape": DIGITS, "examples": 1000}
SMALL = {**MLP, "options": {"hidden": (64,)}}

# Under two minutes on 2 CPU cores.
QUICK = {
    "training": {"sizes": {"mlp": 1000, "convnet": 500}, "steps_of": ("convnet",)},
    "fisher": {"sizes": {"mlp": 500, "convnet": 256}},
    "forgetting": {"sizes": {"convnet": 500}},
    "ensemble": {"cases": {"mlp": MLP}, "num_models": (16,), "num_epochs": 2},
    "trak": {"sizes": {"mlp": 200}, "num_projections": 256},
    "datamodels": {"cases": ((500, 500, 100),)},
    "analytic": {"sizes": (1_000,), "against": ((512, 2_000, 200),)},
    "search": {"sizes": {"mlp": 500}},
    "audits": {"num_examples": 500, "num_models": 100},
    "adapters": {"sizes": {"mlp": 100}},
    "graphs": {"oracles": (8,), "num_epochs": 10},
    "backdoor": {
        "models": {"mlp": {"shape": DIGITS, "examples": 500, "images": 50}},
        "num_epochs": 2,
        "search_epochs": 3,
    },
    "hooks": {"layers": {"convnet": "Conv_1"}, "sizes": {"convnet": 500}},
    "diffusion": {
        "cases": {"DiT": {**DIT, "batch": 32, "options": {"width": 64, "depth": 2}}},
        "images": 40,
        "num_steps": 10,
        "oracles": 2,
    },
    "language": {"cases": {"Llama": {**ONE_M, "batch": 4}}, "answers": 16, "num_tokens": 16},
    "protection": {"images": 1000, "sample": 100, "models": ("mlp",)},
    "style_grid": {
        "per_cell": 1,
        "num_steps": 10,
        "updates": 2,
        "options": {"width": 64, "depth": 2},
    },
}

# Under twenty minutes on 2 CPU cores, PyTorch's part included.
FULL = {
    "training": {
        "sizes": {"mlp": 5000, "convnet": 5000, "resnet18": 100, "vit_tiny": 200},
        "steps_of": ("mlp", "convnet", "resnet18", "vit_tiny"),
    },
    "fisher": {"sizes": {"mlp": 5000, "convnet": 5000}},
    "forgetting": {"sizes": {"convnet": 5000}},
    "ensemble": {
        "cases": {
            "small mlp": SMALL,
            "mlp": MLP,
            "convnet": {"model": "convnet", "shape": DIGITS, "examples": 1000},
            "convnet on 28x28": {"model": "convnet", "shape": FASHION, "examples": 300},
        }
    },
    "trak": {"sizes": {"mlp": 500, "convnet": 500}},
    "datamodels": {"cases": ((1000, 1000, 200), (4000, 1000, 200))},
    "analytic": {
        "sizes": (1_000, 10_000, 100_000),
        "against": ((256, 512, 256), (1024, 2_048, 256), (2048, 5_000, 500), (4096, 8_192, 256)),
        "refit_width": 512,
    },
    "drift": {},
    "search": {
        "sizes": {"mlp": 2000, "convnet": 2000},
        "growth": (500, 2000, 8000),
        "unrolls": (1, 2, 4, 8),
    },
    "audits": {"num_examples": 1000, "num_models": 200},
    "backdoor": {
        "models": {
            "mlp": {"shape": DIGITS, "examples": 1000, "images": 100},
            "convnet_batchnorm": {"shape": DIGITS, "examples": 1000, "images": 100},
        }
    },
    "hooks": {
        "layers": {"mlp": "Dense_0", "convnet": "Conv_1", "resnet18": "Conv_0"},
        "sizes": {"mlp": 5000, "convnet": 2000, "resnet18": 100},
    },
    "diffusion": {"cases": {"DiT": DIT, "DiT of width 384": WIDE}, "images": 600, "oracles": 4},
    "language": {
        "cases": {"Llama": ONE_M, "Llama of width 512": THIRTY_M},
        "answers": 64,
        "oracles": 8,
    },
    "convolution": {},
    "adapters": {"sizes": {"mlp": 100, "vit_tiny": 16}},
    "graphs": {"oracles": (8, 32)},
    "protection": {},
    "style_grid": {},
    "weights": {},
    "scaling": {
        "examples": (500, 1000, 2000, 4000, 8000),
        "widths": (64, 128, 256, 512, 1024),
        "batches": (16, 32, 64, 128, 256, 512),
        "models": (1, 16, 64, 256),
    },
}


class Case(NamedTuple):
    """A call of a benchmark.

    Attributes:
      benchmark: module of this package.
      sizes: arguments of its `run`; `source` is overridden by `--data_dir`.
      seconds: about how long it takes on one H200, compilation included.
    """

    benchmark: str
    sizes: dict[str, Any]
    seconds: float = 0.0


def _one_gpu(
    seconds: bool,
    images: int,
    batch_size: int,
    resnet: dict,
    convnets: dict,
    trak: dict,
    acu: tuple,
    unet: dict,
) -> dict[str, Case]:
    """What one GPU is for, most wanted first.

    Args:
      seconds: whether cases are as long as `Case.seconds` says.
      images: that ResNet-18 is trained on, and forgets of; the exact importances of a fiftieth of
        them are computed in PyTorch, whose time is scaled.
      resnet: options of ResNet-18.
      convnets: arguments of `ensemble`, its `num_models` the three sizes.
      trak: arguments of `trak`.
      acu: what the closed form forgets, see `analytic`.
      unet: a case of `diffusion`, of which half a batch is sampled in 25 steps.
    """
    of_images = {
        "sizes": {"resnet18": images},
        "batch_size": batch_size,
        "source": problems.RANDOM,
        "options": resnet,
    }
    once = {**of_images, "repeats": 2}  # they are long

    def ensemble(place: int) -> dict[str, Any]:
        numbers = convnets["num_models"]
        return {
            **convnets,
            "num_models": (numbers[place],),
            "axes": place == 0,
            "sample": min(numbers),
            "source": problems.RANDOM,
        }

    denoised = {"cases": {"U-Net": unet}, "dtype": "bfloat16"}
    cases = {
        "epoch, ResNet-18": Case("training", {**of_images, "loop": False, "dtype": "bfloat16"}, 45),
        "Fisher, ResNet-18": Case(
            "fisher",
            {**once, "definition": False, "max_bytes": 2**32, "sample": max(1, images // 50)},
            70,
        ),
        "SSD, ResNet-18": Case("forgetting", {**once, "methods": ("ssd",)}, 40),
        "SCRUB, ResNet-18": Case("forgetting", {**once, "methods": ("scrub",)}, 40),
        "ensemble, first": Case("ensemble", ensemble(0), 45),
        "closed-form deletion": Case("analytic", {"against": (acu,), "repeats": 3}, 20),
        "TRAK": Case("trak", {**trak, "source": problems.RANDOM}, 30),
        "ensemble, second": Case("ensemble", ensemble(1), 35),
        "ensemble, third": Case("ensemble", ensemble(2), 50),
        "U-Net": Case("diffusion", {**denoised, "images": 0}, 60),
        "U-Net, guided samples": Case(
            "diffusion", {**denoised, "images": unet["batch"] // 2, "train": False}, 60
        ),
    }
    return cases if seconds else {name: c._replace(seconds=0.0) for name, c in cases.items()}


# About eight minutes on one H200.
GPU = _one_gpu(
    seconds=True,
    images=50_000,
    batch_size=512,
    resnet={},
    convnets={
        "cases": {"convnet": {"model": "convnet", "shape": problems.CIFAR, "examples": 5000}},
        "num_models": (16, 64, 256),
        "num_epochs": 2,
    },
    trak={
        "sizes": {"convnet": 4000},
        "num_projections": 1024,
        "batch_size": 500,
        "sample": 1000,
    },
    acu=(4096, 8_192, 256),
    unet={"model": "unet", "shape": problems.CIFAR, "batch": 128},
)

# The same at a size that any CPU does in seconds: whether it works, not how fast it is.
GPU_TOY = _one_gpu(
    seconds=False,
    images=8,
    batch_size=4,
    resnet={"stage_sizes": (1,), "width": 2},
    convnets={
        "cases": {
            "convnet": {
                "model": "convnet",
                "shape": problems.CIFAR,
                "examples": 8,
                "options": {"channels": (2,), "hidden": 4},
            }
        },
        "num_models": (2, 3, 4),
        "num_epochs": 1,
        "batch_size": 4,
        "repeats": 1,
    },
    trak={"sizes": {"mlp": 4}, "num_projections": 8, "batch_size": 2, "sample": 2, "repeats": 1},
    acu=(32, 64, 8),
    unet={
        "model": "unet",
        "shape": problems.CIFAR,
        "batch": 2,
        "options": {"width": 4, "multiples": (1, 2), "num_blocks": 1},
    },
)


def _named(suite: dict[str, dict]) -> dict[str, Case]:
    """One case per benchmark."""
    return {name: Case(name, sizes) for name, sizes in suite.items()}


SUITES = {"quick": _named(QUICK), "full": _named(FULL), "gpu": GPU, "gpu_toy": GPU_TOY}
MINUTES = {"gpu": 10.0, "gpu_toy": 10.0}  # the others end by themselves

# Seconds that are aimed at, by benchmark and beginning of the case.
GOALS = {
    ("fisher", "resnet18, 50000"): 5.0,
    ("forget", "ssd, resnet18, 5000 of 50000"): 5.0,
}

# (benchmark, beginning of the case, alternative): how many times slower than ours it should be.
TARGETS = {
    ("epoch", "convnet", "torch"): 1.2,
    ("fisher", "convnet", "torch, one by one"): 2.5,
    ("fisher", "convnet", "torch.func"): 2.5,
    ("fisher", "convnet", "batch squared (inexact)"): 0.9,
    ("forget", "ssd, convnet", "torch"): 1.0,
    ("forget", "scrub, convnet", "torch"): 1.8,
    ("ensemble", "32 x small mlp", "torch"): 3.0,
    ("ensemble", "32 x mlp", "torch"): 3.0,
    ("ensemble", "32 x convnet", "torch"): 1.3,
    ("acu", "forget 500 of 5000 rows, D=2048", "torch"): 1.0,
    ("acu", "forget 256 of 2560 rows", "refit row by row"): 30.0,
    ("trak", "", "torch"): 2.0,
    ("capture", "", "without"): 0.95,
    ("graphs", "GCN", "torch"): 1.5,
    ("graphs", "32 oracles", "map"): 4.0,
    ("graphs", "32 oracles", "torch"): 10.0,
    ("denoise", "DiT", "torch"): 1.2,
    ("sample", "600 images, DiT", "torch"): 1.2,
    ("sample", "600 images, DiT", "python loop"): 2.0,
    ("esd", "", "as published"): 4.0,
    ("language_step", "", "torch"): 1.2,
    ("decode", "64 answers", "torch"): 3.0,
    ("npo", "", "reference model"): 1.4,
    ("protect", "", "torch"): 2.0,
    ("adversarial step", "convnet", "torch"): 0.9,
    ("adversarial step", "mlp", "torch"): 1.5,
}

# (benchmark, field of its records): the most of the reference that is aimed at.
LIMITS = {
    ("weights", "largest_tensors"): 1.2,  # of the host's memory
    ("adapters", "kept_share"): 0.1,  # of the gradients and the state of a full step
    ("uce", "stored_share"): 0.1,  # of the model
    ("npo", "memory_share"): 0.6,  # of a step that holds the reference model
}


def target(benchmark: str, case: str, alternative: str) -> float | None:
    """What is aimed at, if anything."""
    for (name, beginning, other), value in TARGETS.items():
        if (name, other) == (benchmark, alternative) and case.startswith(beginning):
            return value
    return None


def goal(benchmark: str, case: str) -> float | None:
    """How many seconds are aimed at, if any."""
    for (name, beginning), value in GOALS.items():
        if name == benchmark and case.startswith(beginning):
            return value
    return None
