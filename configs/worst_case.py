"""The forget sets that are hardest: found by bi-level search, against random and ranked ones.

    python -m experiments.worst_case --config=configs/worst_case.py --workdir=/tmp/worst_case

Digits, MLP, a tenth of the training data, ten seeds: a few minutes on 2 CPU cores, resumable.
Config strings as in configs/unlearn.py, with `search` (several with '+') the unlearners that sets
are searched against, and `by` what is selected: `example`, `class`, or a field of the data:

    --config=configs/worst_case.py:digits,search=random_label+scrub,method=random_label+ssd
    --config=configs/worst_case.py:digits,by=class --config.size=1
    --config=configs/worst_case.py:fashion_mnist,train=3000,test=2000
    --config=configs/worst_case.py:cifar10,model=resnet18,seeds=5
    --config=configs/worst_case.py:diabetes
    --config=configs/worst_case.py:digits,search=random_label,method=clean_unlearning+finetune

Sets: `random`; `worst:X` and `easiest:X`, the paper's searches against X; `gap:X`, ours, where X is
furthest from models that never saw the examples; `moved:SET`, what was found on another seed's
model; rankings by the original's loss (`lowest_loss`,
`highest_loss`), by how far the example is from the mean of its class (`typical`), and by how much
larger its loss is without it (`memorised`).

Methods may also be the exposures of backdoors that unlearn a set, `EXPOSURES`.
"""

from ml_collections import ConfigDict

from configs import backdoor, regression, unlearn

SEARCHES = (
    "finetune",
    "random_label",
    "gradient_ascent",
    "gradient_ascent_plus",
    "scrub",
    "l1_sparse",
)
METHODS = (
    "finetune",
    "l1_sparse",
    "random_label",
    "salun",
    "gradient_ascent",
    "gradient_ascent_plus",
    "scrub",
    "ssd",
)
# Without classes there are no wrong labels, and no bound of the loss at a uniform guess.
OF_REGRESSION = ("finetune", "l1_sparse", "gradient_ascent_plus")
EXPOSURES = {
    backdoor.EXPOSURES[name]["constructor"]: backdoor.EXPOSURES[name]
    for name in ("adam_e4", "confusion")
}
RANKED = ("lowest_loss", "highest_loss", "typical", "memorised")


def get_config(arg: str = "") -> ConfigDict:
    own, rest = unlearn.split(arg, ("search", "by"))
    unlearn.refuse(rest, ("forget", "weights"), "worst_case")
    dataset = rest.partition(",")[0]
    if dataset == "diabetes":
        rest = unlearn.with_defaults(rest, "diabetes", seeds="10", forget="random:0.1")
        base, searches = regression.get_config(rest), OF_REGRESSION
    else:
        model = {"model": "mlp"} if dataset in ("", "digits", "fashion_mnist") else {}
        defaults = {"method": "+".join(METHODS), "seeds": "10", "forget": "random:0.1", **model}
        known = unlearn.METHODS | EXPOSURES
        given = unlearn.with_defaults(rest, "digits", **defaults)
        base = unlearn.get_config(given, methods=known)
        searches = SEARCHES
    classes = base.task == "classification"
    config = unlearn.learned(base)
    config.num_seeds, config.methods, config.unlearn = base.num_seeds, base.methods, base.unlearn
    config.by = own.get("by", "example")
    config.size = 0.1  # how much is selected: a share of what there is, or from 1 a number
    config.searches = tuple(own.get("search", "+".join(searches)).split("+"))
    # The searches that are run for the easiest set too.
    config.easiest = ("random_label",) if classes else ("finetune",)
    # The sets that are tried on another model than they were found on.
    config.moved = tuple(f"{kind}:{config.searches[0]}" for kind in ("worst", "gap"))
    config.ranked = tuple(name for name in RANKED if classes or name != "typical")
    # Fields of the lower objectives, see unlearnjax/selection/lower.py.
    config.lower = ConfigDict({} if classes else {"gradient_ascent_plus": {"max_loss": 1.0}})
    config.search = ConfigDict(
        {
            "mode": "sign",
            "num_epochs": 20,
            "learning_rate": 0.1,
            "gamma": 0.0,
            "lower_epochs": 2,
            "lower_learning_rate": 1e-3,
            "batch_size": 128,
            "round_every": 20,
        }
    )
    # Models on random halves: the losses of examples that they never saw are the reference of
    # `gap:X`, and the ranking `memorised`.
    config.num_references = 64
    config.ensemble = ConfigDict({"chunk": 64})
    # KLoM on some sets of the first seed, by so many models on each side; 0 leaves it out.
    config.num_originals = 100 if classes and config.model.name == "mlp" else 0
    first = config.searches[:2]
    config.klom_sets = ("random", *(f"{kind}:{x}" for kind in ("worst", "gap") for x in first))
    config.spaces = ConfigDict({method: {} for method in config.methods})  # one setting of each
    return config
