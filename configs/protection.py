"""Data that others are not to learn from: what protecting it costs and gives, and what undoes it.

    python -m experiments.protect --config=configs/protection.py --workdir=/tmp/protect

Digits, ConvNet, five seeds, resumable: twenty minutes of a CPU core. A protector changes the
training images; a hacker trains on them, and is judged on clean test images. Config strings as in
configs/unlearn.py, and `protection`, `hacker`, `labels` (several with '+', or 'all'); `full` has
every hacker against every protection:

    --config=configs/protection.py:digits,full
    --config=configs/protection.py:fashion_mnist --data_dir=DIR
    --config=configs/protection.py:cifar10,protection=cuda+one_filter,hacker=plain+linf,seeds=3
    --config=configs/protection.py:cifar10,model=resnet18,train=44000 --config.train.num_epochs=60

Protections: `cuda`, a filter per class; `one_filter`, that of one class for all, whose blur says
nothing about the class; `clusters`, noise per cluster of features, found without labels;
`random_clusters`, `random_classes`, random noise of the same size per cluster, per class.

Hackers: `plain`; `augmented`; adversarial training, `linf`, `l2`; `smoothing`, under noise;
`filters`, under random filters of the classes; `deconvolution`, attacked by such; `sharpening`, by
random kernels and without high frequencies; `transfer`, from a model of other, clean images, of
which `clusters` has its features, too.

Labels: `same` are the protector's; with `coarser` the hacker has the groups `config.coarse`; with
`finer` the protector has them, and the hacker the classes.
"""

from ml_collections import ConfigDict

from configs import unlearn

PROTECTIONS = ("cuda", "one_filter", "clusters", "random_clusters", "random_classes")
HACKERS = (
    "plain",
    "augmented",
    "linf",
    "l2",
    "smoothing",
    "filters",
    "deconvolution",
    "sharpening",
    "transfer",
)
LABELS = ("same", "coarser", "finer")
# Of a set: the groups of its classes, how far a crop is moved, whether to mirror, radii and noise
# in pixels of [0, 1], the share of frequencies that sharpening keeps, the filters of deconvolution,
# and the budget of noise.
SETS = {
    "digits": {
        "groups": ((0, 2, 4, 6, 8), (1, 3, 5, 7, 9)),
        "padding": 1,
        "flip": False,
        "linf": 0.1,
        "l2": 0.5,
        "sigma": 0.1,
        "keep": 0.75,
        "kernel_size": 3,
        "epsilon": 0.25,
    },
    "fashion_mnist": {"groups": ((0, 1, 2, 3, 4, 6), (5, 7, 8, 9))},
    "cifar10": {"groups": ((0, 1, 8, 9), (2, 3, 4, 5, 6, 7))},
}
OTHER_SET = {
    "groups": (),
    "padding": 4,
    "flip": True,
    "linf": 4 / 255,
    "l2": 0.25,
    "sigma": 0.05,
    "keep": 0.3,
    "kernel_size": 7,
    "epsilon": 16 / 255,
}
# The small instances of large sets; all of digits.
SMALL = {"fashion_mnist": {"train": "6000"}, "cifar10": {"train": "6000", "model": "convnet"}}
EPOCHS = {"fashion_mnist": 6, "cifar10": 8}


def get_config(arg: str = "") -> ConfigDict:
    full = "full" in arg.split(",")
    arg = ",".join(part for part in arg.split(",") if part != "full")
    own, rest = unlearn.split(arg, ("protection", "hacker", "labels"))
    unlearn.refuse(rest, ("forget", "method", "weights"), "protection")
    dataset = rest.partition(",")[0] or "digits"
    defaults = SMALL.get(dataset, {}) | {"seeds": "5" if dataset == "digits" else "3"}
    base = unlearn.get_config(unlearn.with_defaults(rest, "digits", **defaults))
    of_set = OTHER_SET | SETS.get(base.dataset, {})
    config = unlearn.learned(base)
    config.num_seeds = base.num_seeds
    config.train.augment = False  # which is a hacker's
    if base.dataset in EPOCHS:
        config.train.num_epochs = EPOCHS[base.dataset]
        config.train.learning_rate = 1e-3

    chosen = lambda name, known: tuple(unlearn.spelled_out(own.get(name, "all"), known))
    config.protections = chosen("protection", PROTECTIONS)
    config.hackers = chosen("hacker", HACKERS)
    config.coarse = of_set["groups"]
    config.labels = chosen("labels", LABELS if config.coarse else ("same",))
    # What every hacker is tried against beside clean data; the others meet plain training alone.
    config.attacked = config.protections if full else ("cuda",)
    # Of `cuda`: shares of the training data that are protected, and other strengths.
    config.shares = (0.25, 0.5, 0.75)
    config.blurs = (0.1, 0.2, 0.5)
    config.num_surrogate = 400 if base.dataset == "digits" else 6000  # other images, see `transfer`

    config.cuda = ConfigDict({"kernel_size": 3, "blur": 0.3, "in_8_bits": False})
    config.noise = ConfigDict({"epsilon": of_set["epsilon"]})
    config.clusters = ConfigDict(
        {
            "num_clusters": 10,
            "mode": "direct",
            "over": "all",
            "optimizer": "adam",
            "learning_rate": 0.05,
            "num_steps": 100,
            "batch_size": 128,
        }
    )
    config.hacker = ConfigDict(
        {
            "augmented": {"padding": of_set["padding"], "flip": of_set["flip"]},
            "linf": {"radius": of_set["linf"], "num_steps": 4, "random_start": True},
            "l2": {"radius": of_set["l2"], "num_steps": 4, "random_start": True},
            "smoothing": {"sigma": of_set["sigma"]},
            "filters": {"kernel_size": of_set["kernel_size"]},
            "deconvolution": {
                "kernel_size": of_set["kernel_size"],
                "num_steps": 10,
                "step_size": 0.1,
                "bound": 5.0,
            },
            "sharpening": {"centre": 2.5, "deviation": 0.1, "keep": of_set["keep"]},
        }
    )
    return config
