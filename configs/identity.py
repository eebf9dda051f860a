"""Identity unlearning: a person is forgotten, and the label is something else.

    python -m experiments.unlearn --config=configs/identity.py --config.source=recordings.zip

Free Spoken Digit Dataset: the label is the digit, the forget set all training recordings of one of
five speakers, and a sixth speaker, whom no model has heard, is what the membership attack compares
with. NoMUS is the score. Three seeds: about ten minutes on 2 CPU cores. `recordings.zip` (or a
folder) holds the set's `DIGIT_SPEAKER_TAKE.wav` files.

Faces (MUFAC, MUCAC, CelebA), as a folder of images with a `labels.csv` (`local.image_folder`):

    --config=configs/identity.py:image_folder,model=resnet18,forget=identity:p07 \
    --config.source=DIR

Config strings as in configs/unlearn.py; the six speakers are numbered in the order of their names.
"""

from ml_collections import ConfigDict

from configs import unlearn

METHODS = (
    "retrain",
    "finetune",
    "finetune_last",
    "retrain_last",
    "gradient_ascent",
    "gradient_ascent_plus",
    "random_label",
    "scrub",
    "scrub_rewind",
    "bad_teacher",
    "ssd",
)


def get_config(arg: str = "") -> ConfigDict:
    arg = unlearn.with_defaults(arg, "spoken_digits", forget="identity:0", method="+".join(METHODS))
    config = unlearn.get_config(arg, dataset="spoken_digits")
    if config.model.name == "convnet":
        config.model.options.channels = (16, 32, 64)
    config.columns = ("nomus",)
    return config
