"""Images by style and object: grids of our own rendering, and those that others publish.

A row is an image in a style. Its caption is a column `condition`, for models that draw what they
are told. As UnlearnCanvas (Zhang et al., NeurIPS 2024, arXiv 2402.11846), whose published layout
`folder` reads; `concept_requests` says what is forgotten of a grid.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unlearnjax import checks
from unlearnjax.data import captions, loading
from unlearnjax.data import styles as styles_lib
from unlearnjax.data.dataset import renumbered
from unlearnjax.data.validation import validate

TEST_EVERY = 5
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIGIT_STYLES = tuple(styles_lib.STYLES)[:6]
PHOTO = "photo"
SEEDS = "Seed_Images"  # what photos are called in the published layout
SUFFIXES = (".jpg", ".jpeg", ".png")


class StyleGrid(NamedTuple):
    """Images with a style and an object each; in its other fields as `data.Dataset`.

    Attributes:
      train, test: `inputs` `[N, H, W, 3]` in [-1, 1]; `targets` and `object` `[N]`, the same;
        `style` `[N]`; `image` `[N]`, which images are one in several styles; `condition` `[N, L]`,
        the caption by the benchmark's template; `captions` `[N, P, L]`, by all that the vocabulary
        has been made for, see `captions`; `index` `[N]`.
      num_classes, class_names: of the objects.
      mean, std: 127.5, as inputs were bytes.
      styles: S names.
      vocabulary: of the captions.
    """

    train: dict[str, np.ndarray]
    test: dict[str, np.ndarray]
    num_classes: int
    class_names: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray
    styles: tuple[str, ...]
    vocabulary: captions.Vocabulary


def grid(
    train: Mapping[str, np.ndarray],
    test: Mapping[str, np.ndarray],
    styles: Sequence[str],
    objects: Sequence[str],
) -> StyleGrid:
    """A grid of images that have a style.

    Args:
      train, test: `pixels` `[N, H, W, 3]` bytes, `style`, `object` and, as an image may occur in
        several styles, `image` `[N]`.
      styles, objects: names by number; none is both.

    Raises:
      ValueError: for other arrays, names that are no words or not distinct, and where there is no
        training image of an object in a style.
    """
    names = (*styles, *objects)
    vocabulary = captions.vocabulary(styles, objects)
    if len(np.unique(captions.encode(vocabulary, names), axis=0)) < len(names):
        raise ValueError(f"styles and objects must be named by other words, got {list(names)}")
    templates = captions.TEMPLATES + captions.HELD_OUT
    table = captions.prompts(vocabulary, styles, objects, templates).tokens

    def part(name: str, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        pixels = np.asarray(given["pixels"])
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3:
            raise ValueError(
                f"{name} pixels must be [N, H, W, 3] bytes, got {pixels.dtype} {pixels.shape}"
            )
        style, content = (np.asarray(given[label]) for label in ("style", "object"))
        for own, known in ((style, styles), (content, objects)):
            validate({"inputs": pixels, "targets": own}, len(known), name)
        if np.shape(given["image"]) != style.shape:
            raise ValueError(
                f"{name} image must be [N], of the {len(style)} pixels each one's, got "
                f"{list(np.shape(given['image']))}"
            )
        columns = {
            "inputs": (pixels / np.float32(127.5) - 1).astype(np.float32),
            "targets": content.astype(np.int32),
            "object": content.astype(np.int32),
            "style": style.astype(np.int32),
            "image": np.asarray(given["image"], np.int32),
            "condition": table[style, content, 0],
            "captions": table[style, content],
        }
        return renumbered(columns)

    parts = part("train", train), part("test", test)
    cells = np.zeros((len(styles), len(objects)), bool)
    cells[parts[0]["style"], parts[0]["object"]] = True
    for row, column in np.argwhere(~cells)[:1]:
        raise ValueError(
            f"each object must have training images in each style, there is none of "
            f"{objects[column]!r} in {styles[row]!r}"
        )
    scale = np.full(3, 127.5, np.float32)
    named = tuple(objects), scale, scale, tuple(styles), vocabulary
    return StyleGrid(*parts, len(objects), *named)


def rendered(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    objects: Sequence[str],
    styles: Sequence[str] = DIGIT_STYLES,
) -> StyleGrid:
    """A grid of grey images, each in every style.

    Args:
      train, test: images `[N, H, W]` in [0, 1] and the number of what each shows `[N]`.
      objects: names by number.
      styles: of `styles.STYLES`.

    Raises:
      ValueError: for other arrays, or another style.
    """

    def part(images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
        pixels = np.stack([styles_lib.render(images, style) for style in styles], axis=1)
        number = np.arange(len(images))
        return {
            "pixels": pixels.reshape(-1, *pixels.shape[2:]),
            "style": np.tile(np.arange(len(styles)), len(images)),
            "object": np.repeat(labels, len(styles)),
            "image": np.repeat(number, len(styles)),
        }

    return grid(part(*train), part(*test), styles, objects)


def digits() -> StyleGrid:
    """scikit-learn's handwritten digits, 8x8 pixels, in six styles; every fifth is a test image."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images, labels = found.images / 16, found.target
    test = np.arange(len(labels)) % TEST_EVERY == TEST_EVERY - 1
    parts = ((images[rows], labels[rows]) for rows in (~test, test))
    return rendered(*parts, DIGITS)


def fashion_mnist(data_dir: str | os.PathLike | None = None) -> StyleGrid:
    """Fashion-MNIST in eight styles: padded to 32x32 pixels, of which 2x2 are averaged.

    Args:
      data_dir: see `data.builder`.
    """
    loaded = loading.load("fashion_mnist", data_dir)

    def part(columns: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        stored = (columns["inputs"] * loaded.std + loaded.mean)[..., 0] / 255
        padded = np.pad(np.clip(stored, 0, 1), ((0, 0), (2, 2), (2, 2)))
        halved = padded.reshape(-1, 16, 2, 16, 2).mean((2, 4))
        return halved, columns["targets"]

    names = tuple(name.replace("/", " ").replace("-", " ") for name in loaded.class_names)
    parts = part(loaded.train), part(loaded.test)
    return rendered(*parts, names, tuple(styles_lib.STYLES))


def folder(source: str | os.PathLike, size: int = 64) -> StyleGrid:
    """A grid in the published layout, `STYLE/OBJECT/NAME.jpg`; `Seed_Images` is the style photo.

    Images of one object and name are one image in several styles; of each object every fifth name
    is a test image, in all styles.

    Args:
      source: the directory.
      size: images are resized to `size` x `size`, RGB.

    Raises:
      ValueError: for a directory without such images, an object that a style has no image of, and
        an image that cannot be read; it names the file.
    """
    checks.whole(size=size)
    checks.at_least(1, size=size)
    source = Path(source)
    files = sorted(p for p in source.glob("*/*/*") if p.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(f"source must be a directory of STYLE/OBJECT/NAME.jpg, got {source}")
    named = lambda path: PHOTO if path.parts[-3] == SEEDS else path.parts[-3]
    styles, objects = sorted({named(p) for p in files}), sorted({p.parts[-2] for p in files})
    for style in styles:
        own = {p.parts[-2] for p in files if named(p) == style}
        missing = sorted(set(objects) - own)
        if missing:
            raise ValueError(f"source must have images of {missing[0]!r} in {style!r}: {source}")
    number, test = {}, set()  # of an object and a name
    for name in objects:
        # 2 before 10, as the published names are numbers.
        stems = sorted({p.stem for p in files if p.parts[-2] == name}, key=lambda s: (len(s), s))
        for place, stem in enumerate(stems):
            number[name, stem] = len(number)
            if place % TEST_EVERY == TEST_EVERY - 1:
                test.add((name, stem))

    def part(own: list[Path]) -> dict[str, np.ndarray]:
        return {
            "pixels": np.stack([_pixels(path, size) for path in own]),
            "style": np.array([styles.index(named(p)) for p in own]),
            "object": np.array([objects.index(p.parts[-2]) for p in own]),
            "image": np.array([number[p.parts[-2], p.stem] for p in own]),
        }

    held_out = [p for p in files if (p.parts[-2], p.stem) in test]
    if not held_out:
        raise ValueError(f"source must have {TEST_EVERY} images or more of an object: {source}")
    return grid(part([p for p in files if p not in set(held_out)]), part(held_out), styles, objects)


def from_builder(built) -> StyleGrid:
    """A grid of a prepared tfds builder with `image`, `style` and `object`, train and test.

    Raises:
      ValueError: for one that has other features or splits, or images of several shapes.
    """
    features, wanted = built.info.features, ("image", "style", "object")
    named = all(getattr(features.get(label), "names", None) for label in wanted[1:])
    if not named or "image" not in features or not {"train", "test"} <= set(built.info.splits):
        raise ValueError(
            f"a grid must have an 'image', classes as 'style' and 'object', and the splits "
            f"'train', 'test'; it has {sorted(features)} and {sorted(built.info.splits)}"
        )

    def part(split: str) -> dict[str, np.ndarray]:
        source = built.as_data_source(split)
        rows = source.__getitems__(list(range(len(source))))
        shapes = sorted({np.shape(row["image"]) for row in rows})
        if len(shapes) > 1:
            raise ValueError(f"images must be of one shape, got {shapes[:5]}")
        labels = {name: np.array([row[name] for row in rows]) for name in wanted[1:]}
        pixels = np.stack([row["image"] for row in rows])
        return {"pixels": pixels, "image": np.arange(len(rows)), **labels}

    return grid(part("train"), part("test"), *(tuple(features[n].names) for n in wanted[1:]))


def split_by_image(
    train: dict, held_out: dict, fraction: float, rng: np.random.Generator
) -> tuple[dict, dict, dict]:
    """`(train, validation, held_out)`: a share of the images validates, in all their styles.

    Raises:
      ValueError: for a share that leaves either without an image.
    """
    images = np.unique(train["image"])
    checks.open_share(validation_fraction=fraction)
    cut = max(1, round(fraction * len(images)))
    if cut == len(images):
        raise ValueError(f"validation fraction {fraction} of {cut} images leaves none to train on")
    chosen = np.isin(train["image"], rng.permutation(images)[:cut])
    parts = ({name: value[rows] for name, value in train.items()} for rows in (~chosen, chosen))
    return (*map(renumbered, parts), held_out)


def _pixels(path: Path, size: int) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB").resize((size, size)))
    except Exception as error:
        raise ValueError(f"{path} cannot be read: {error or type(error).__name__}") from error
