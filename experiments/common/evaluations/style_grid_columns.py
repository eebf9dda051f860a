"""What the columns of `evaluations.style_grid` mean, and which are printed."""

from experiments.common.evaluations import sets
from unlearnjax.audit import canvas
from unlearnjax.report import table

# What an unlearned model is to have in common with an oracle.
GAP = (
    "unlearning_accuracy",
    "in_domain",
    "cross_domain",
    "cross_domain_target",
    "style_kept",
    "object_kept",
    "others_kept",
    "retained_accuracy",
)
_FLOOR = "; its floor is that of as many real training images"
_ORACLE = (
    " to an oracle's answers from the same noise, mean over oracles (an oracle's to the others)"
)

COLUMNS = table.Columns(
    definitions={
        **{
            name: f"{text}; as all that judges say the mean over two pairs of judges"
            if name == "unlearning_accuracy"
            else text
            for name, text in canvas.DEFINITIONS.items()
        },
        "unlearning_accuracy_paraphrased": "UA on prompts in words that no method was told when it "
        "forgot",
        "rebound": "of requests one after another: by how much the unlearning accuracy of the "
        "earlier ones, right after each, is above what is left of it after the last, mean",
        "p_forgotten": "mean probability that a judge gives what is forgotten in the images asked "
        "for by it",
        "entropy": "mean entropy in nats of a judge's prediction of the forgotten label in "
        "the same images: low where they became something else, high where they are noise",
        "judges_agree": "share of all images in which both pairs of judges see the same style and "
        "object",
        "total_variation": "total variation distance, for the images asked for by what is "
        "forgotten, of the histogram of judged labels" + _ORACLE,
        "fd": "squared Frechet distance of an object judge's features of the retained prompts' "
        "images to those of as many real test images (no FID, and on no scale but its own)"
        + _FLOOR,
        "kd": "unbiased squared kernel distance (MMD) of the same features" + _FLOOR,
        "fd_oracle": "Frechet distance of the retained prompts' images" + _ORACLE,
        "kd_oracle": "kernel distance of the retained prompts' images" + _ORACLE,
        "fd_floor": "fd of real images to real images",
        "kd_floor": "kd of real images to real images",
        "clip_pair": "mean cosine of the retained prompts' images and their captions by a pair of "
        "encoders of our own",
        "clip_pair_forgotten": "the same of the images asked for by what is forgotten",
        "clip_pair_floor": "mean cosine of all real test images and their captions",
        "stored_bytes": "what an unlearned model takes beside the original: the parameters that "
        "differ, and what the method keeps",
        "mia": "balanced accuracy of a cross-validated logistic regression on the denoising loss, "
        "mean over draws of time and noise, forget set against unseen examples of its "
        "distribution; 0.5 is chance",
        "mia_auc": "area under the ROC curve of that attack",
        "average_gap": "mean absolute difference to the oracle's mean over UA, IRA, CRA and CRA of "
        "the target, SC, OC and UP, as far as the forget set has them, and retained accuracy; an "
        "oracle's own is the spread between oracles",
        "relearn_steps": "steps of fine-tuning on (a part of) the forget set until its loss is "
        "back within a margin of the original's; the bound of steps where it never is",
        "anamnesis": "relearn_steps by the oracles' mean; ideal 1, below it relearns too fast",
        **sets.LOSSES,
    },
    printed=(
        "unlearning_accuracy",
        "unlearning_accuracy_paraphrased",
        "in_domain",
        "cross_domain",
        "cross_domain_target",
        "style_kept",
        "object_kept",
        "others_kept",
        "retained_accuracy",
        "rebound",
        "fd",
        "fd_floor",
        "kd",
        "clip_pair",
        "total_variation",
        "fd_oracle",
        "mia",
        "anamnesis",
        "stored_bytes",
        "average_gap",
    ),
    units={
        "unlearning_accuracy": ("UA %", 100, 1),
        "unlearning_accuracy_paraphrased": ("UA, paraphrased %", 100, 1),
        "in_domain": ("IRA %", 100, 1),
        "cross_domain": ("CRA %", 100, 1),
        "cross_domain_target": ("CRA of target %", 100, 1),
        "style_kept": ("SC %", 100, 1),
        "object_kept": ("OC %", 100, 1),
        "others_kept": ("UP %", 100, 1),
        "retained_accuracy": ("retained %", 100, 1),
        "rebound": ("rebound %", 100, 1),
        "p_forgotten": ("p(forgotten) %", 100, 1),
        "fd": ("FD", 1, 2),
        "kd": ("KD", 1, 3),
        "fd_floor": ("FD real-real", 1, 2),
        "fd_oracle": ("FD to oracle", 1, 2),
        "clip_pair": ("alignment", 1, 3),
        "total_variation": ("TV to oracle %", 100, 1),
        "stored_bytes": ("stored kB", 1e-3, 0),
        **sets.UNITS,
    },
    plain=(
        "average_gap",
        "anamnesis",
        "fd_floor",
        "fd_oracle",
        "total_variation",
        "stored_bytes",
        "rebound",
    ),
    spreading=("unlearning_accuracy", "retained_accuracy", "average_gap"),
    forgotten=("unlearning_accuracy",),
    collapsed={"retained_accuracy": -0.2},
)
