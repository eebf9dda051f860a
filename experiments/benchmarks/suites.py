"""What is measured, at which sizes, and what ratio to PyTorch is aimed at."""

DIGITS, FASHION = (8, 8, 1), (28, 28, 1)
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
    "convolution": {},
    "scaling": {
        "examples": (500, 1000, 2000, 4000, 8000),
        "widths": (64, 128, 256, 512, 1024),
        "batches": (16, 32, 64, 128, 256, 512),
        "models": (1, 16, 64, 256),
    },
}

SUITES = {"quick": QUICK, "full": FULL}

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
}


def target(benchmark: str, case: str, alternative: str) -> float | None:
    """What is aimed at, if anything."""
    for (name, beginning, other), value in TARGETS.items():
        if (name, other) == (benchmark, alternative) and case.startswith(beginning):
            return value
    return None
