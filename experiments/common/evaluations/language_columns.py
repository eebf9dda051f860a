"""What the columns of language models mean."""

from experiments.common.evaluations import sets
from unlearnjax.audit import summary
from unlearnjax.report import table

GAP = ("forget_probability", "forget_rouge", "forget_truth_ratio", "retain_utility")

COLUMNS = table.Columns(
    definitions={
        "forget_probability": "geometric mean of the probabilities of a true answer's tokens, mean "
        "over the forget set; likewise of other sets",
        "forget_rouge": "ROUGE-L recall (without stemming) of what the model answers, greedily, of "
        "the true answer's words, mean over the forget set",
        "forget_truth_ratio": "mean of min(R, 1/R), R the probability of wrong answers by that of "
        "the paraphrased true one, per token and geometric mean; 1: cannot tell",
        "forget_truth": "mean of max(0, 1 - R) on the forget set: 1 where wrong answers are out",
        "forget_choice": "share of forgotten questions of which the paraphrased true answer is "
        "likelier per token than all wrong ones",
        "forget_accuracy": "share of a true answer's tokens that are the likeliest after the true "
        "ones before (exact memorisation), mean over the forget set",
        "forget_extraction": "extraction strength: 1 - k/L, where after the first k of an answer's "
        "L tokens all others are the likeliest, mean over the forget set",
        **{
            f"retain_{name}": f"{meant} of retained questions"
            for name, meant in {
                "probability": "probability of true answers",
                "rouge": "ROUGE-L recall of answers",
                "truth_ratio": "mean of min(R, 1/R)",
                "truth": "mean of max(0, 1 - R)",
                "choice": "share with the true answer likelier than wrong ones",
                "accuracy": "exact memorisation",
                "extraction": "extraction strength",
                "refused": "share answered by a refusal, word by word,",
            }.items()
        },
        "test_accuracy": "share of the tokens of answers on authors whom no model has read of",
        "test_probability": "probability of these answers",
        "retain_utility": "harmonic mean of probability, ROUGE-L and truth of retained questions",
        "model_utility": "harmonic mean of these three and those of real authors and world facts",
        "forget_quality": "p-value of the Kolmogorov-Smirnov test between the forget set's R and "
        "an oracle's, mean over oracles (of an oracle: over the others)",
        "calibrated_quality": "share of this model and the oracles that are at least as far from "
        "the others by R on the forget set, as this model is; of an oracle: among the others",
        "forget_said_loss": "negative log-likelihood per token, their end included, of what is "
        "answered to forgotten questions, under an oracle, mean over oracles (of an oracle: under "
        "the others); far above theirs: gibberish",
        "klom": "mean KLoM of the margins on the forget set, over all seeds of a method, from the "
        "oracles'; of the oracles: its noise floor. Coarse for fewer than 100 models",
        "min_k_auc": "area under the ROC curve of telling forgotten answers from those on authors "
        "whom no model has read of, by Min-K%, the mean log-probability of the least likely "
        "tokens, of which `evaluate.min_k` is the share",
        "min_k_plus_plus_auc": "the same by Min-K%++",
        "privleak": "100 (A - A_o) / A_o with A = 1 - min_k_auc, of an oracle A_o, mean over them: "
        "negative where members stand out, positive where they hide more than what was never read",
        "mia": summary.COLUMNS["mia"],
        "mia_auc": summary.COLUMNS["mia_auc"],
        "average_gap": f"mean absolute difference to the oracle's mean over {', '.join(GAP)}",
        "relearn_steps": "steps of fine-tuning on (a part of) the forget set until its "
        "forget_accuracy is within a margin of the original's again; the bound where it never is",
        "anamnesis": summary.COLUMNS["anamnesis"],
        **sets.LOSSES,
    },
    printed=(
        "forget_probability",
        "forget_rouge",
        "forget_truth_ratio",
        "forget_quality",
        "calibrated_quality",
        "retain_utility",
        "model_utility",
        "privleak",
        "anamnesis",
        "average_gap",
    ),
    units={
        "forget_probability": ("forget prob.", 1, 3),
        "forget_rouge": ("forget ROUGE-L", 1, 3),
        "forget_truth_ratio": ("forget truth ratio", 1, 3),
        "forget_quality": ("forget quality p", 1, 3),
        "calibrated_quality": ("calibrated quality", 1, 2),
        "retain_utility": ("retain utility", 1, 3),
        "model_utility": ("model utility", 1, 3),
        "retain_probability": ("retain prob.", 1, 3),
        "privleak": ("PrivLeak", 1, 0),
        "forget_said_loss": ("nll of answers", 1, 2),
        "klom": ("KLoM", 1, 2),
        **sets.UNITS,
    },
    plain=("average_gap", "anamnesis", "forget_quality", "calibrated_quality"),
    spreading=("forget_probability", "retain_utility", "average_gap"),
    forgotten=("forget_probability",),
    collapsed={"retain_utility": -0.2},
)
