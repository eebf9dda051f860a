"""scikit-learn's 1,797 handwritten digits (8x8, 10 classes) as a tfds data set.

Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998. The images ship in the
scikit-learn wheel, so nothing is downloaded and tensorflow is not needed to prepare it.
"""

import numpy as np
import tensorflow_datasets as tfds

TEST_EVERY = 5


class Digits(tfds.core.GeneratorBasedBuilder):
    """Digits: every fifth example is the test set (1,438 train, 359 test)."""

    name = "digits"
    VERSION = tfds.core.Version("1.0.0")
    # Built by hand rather than looked up by name, so keep tfds from registering it twice.
    SKIP_REGISTERING = True
    pkg_dir_path = None

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Tensor(shape=(8, 8, 1), dtype=np.uint8),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80",
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        return {"train": self._generate_examples(False), "test": self._generate_examples(True)}

    def _generate_examples(self, test: bool):
        from sklearn.datasets import load_digits

        digits = load_digits()
        for i, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
            if (i % TEST_EVERY == TEST_EVERY - 1) == test:
                yield i, {"image": image[..., None].astype(np.uint8), "label": int(label)}
