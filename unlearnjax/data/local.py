"""Data sets read from local files: tables that scikit-learn ships, spoken digits, image folders.

Each reader returns a `Dataset`, standardised by its training part.
"""

import csv
import io
import os
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from unlearnjax.data.dataset import Dataset, standardised

TEST_EVERY = 5
COLUMNS = {"file", "label", "identity", "split"}  # of an image folder's labels.csv
SPEAKERS_TEST_TAKES = 5  # the set's own convention: takes 0 to 4 are the test set


def diabetes() -> Dataset:
    """442 patients, 10 measurements, disease progression a year later (25 to 346).

    Efron et al., "Least Angle Regression", 2004; ships with scikit-learn. Every fifth patient is
    the test set. `targets` are standardised; `raw_targets` are as published.
    """
    from sklearn.datasets import load_diabetes

    inputs, values = load_diabetes(return_X_y=True)
    test = np.arange(len(values)) % TEST_EVERY == TEST_EVERY - 1
    mean, std = values[~test].mean(), values[~test].std()

    def part(rows):
        return {
            "inputs": inputs[rows].astype(np.float32),
            "targets": ((values[rows] - mean) / std).astype(np.float32),
            "raw_targets": values[rows].astype(np.float32),
        }

    return standardised(part(~test), part(test), ("progression",))


def spoken_digits(source: str | os.PathLike, held_out_speaker: str = "yweweler") -> Dataset:
    """Free Spoken Digit Dataset: the label is the digit, `identity` the speaker.

    3,000 recordings of six speakers (Jackson et al., CC BY-SA 4.0). Inputs are log-mel
    spectrograms `[64, 64, 1]` of up to a second, centred. The test set holds takes 0 to 4 of
    every speaker and all takes of `held_out_speaker`, whom no model has heard.

    Args:
      source: `recordings.zip` or a directory with its `DIGIT_SPEAKER_TAKE.wav` files.
      held_out_speaker: kept out of the training set.

    Raises:
      ValueError: if there are no such files, or one cannot be read; it names the file.
    """
    names, read = _files(source, ".wav")
    wrong = [name for name in names if not re.fullmatch(r"\d_[^_]+_\d+", Path(name).stem)]
    if not names or wrong:
        given = f"{wrong[0]} in {source}" if wrong else source
        raise ValueError(f"source must hold DIGIT_SPEAKER_TAKE.wav files, got {given}")
    labels = [Path(name).stem.split("_") for name in names]
    speakers = sorted({speaker for _, speaker, _ in labels})
    if held_out_speaker not in speakers:
        raise ValueError(f"held_out_speaker must be one of {speakers}, got {held_out_speaker!r}")
    spectrogram = lambda name: _spectrogram(read(name))
    everything = {
        "inputs": np.stack([_read(name, spectrogram, f"{name} in {source}") for name in names]),
        "targets": np.array([int(digit) for digit, _, _ in labels], np.int32),
        "identity": np.array([speakers.index(speaker) for _, speaker, _ in labels], np.int32),
    }
    takes = np.array([int(take) for _, _, take in labels])
    test = (takes < SPEAKERS_TEST_TAKES) | np.array([s == held_out_speaker for _, s, _ in labels])
    train, held_out = ({k: v[m] for k, v in everything.items()} for m in (~test, test))
    return standardised(train, held_out, tuple(str(digit) for digit in range(10)))


def image_folder(source: str | os.PathLike, size: int = 64) -> Dataset:
    """Images with a label and an identity each, for sets that are not in tfds.

    Layout: `labels.csv` (UTF-8) with the columns `file` (relative to it), `label` (text),
    `identity` (text) and `split` (`train` or `test`), beside the images. Identities of the test
    split that the training split lacks are the people no model has seen. MUFAC, MUCAC and CelebA
    take this form by writing their annotations into such a file. The field `identity` is the text
    of the file, so that `forget=identity:NAME` names whom it says.

    Args:
      source: the directory.
      size: images are resized to `size` x `size`, RGB.

    Raises:
      ValueError: if the file, a column, a cell or an image is missing or cannot be read, or a
        split is empty; it names the file.
    """
    from PIL import Image

    index = Path(source) / "labels.csv"
    if not index.is_file():
        raise ValueError(f"source must be a directory with a labels.csv, got {source}")
    rows = _read(index, _rows)
    names = sorted({row["label"] for row in rows})

    def pixels(path):
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB").resize((size, size)))

    def part(split):
        own = [row for row in rows if row["split"] == split]
        if not own:
            raise ValueError(f"{index} must have rows of split {split!r}")
        paths = [Path(source) / row["file"] for row in own]
        images = np.stack([_read(path, pixels) for path in paths])
        return {
            "inputs": images.astype(np.float32),
            "targets": np.array([names.index(row["label"]) for row in own], np.int32),
            "identity": np.array([row["identity"] for row in own]),
        }

    return standardised(part("train"), part("test"), tuple(names))


def log_mel(wave: np.ndarray, rate: int, size: int = 64) -> np.ndarray:
    """`[size, size, 1]`: log-mel spectrogram (bands by frames) of the middle second of a wave."""
    from scipy.signal import stft

    wave = wave.astype(np.float32) / 32768
    start = max(0, (len(wave) - rate) // 2)
    wave = wave[start : start + rate]
    missing = rate - len(wave)
    wave = np.pad(wave, (missing // 2, missing - missing // 2))
    window = 256
    _, _, spectrum = stft(wave, rate, nperseg=window, noverlap=window - rate // size, padded=False)
    power = np.abs(spectrum[:, :size]) ** 2
    return np.log(_mel_filters(size, window, rate) @ power + 1e-10).astype(np.float32)[..., None]


def _mel_filters(num_bands: int, window: int, rate: int) -> np.ndarray:
    """`[bands, window / 2 + 1]` triangles, evenly spaced in mel (HTK's formula)."""
    top = 2595 * np.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, num_bands + 2) / 2595) - 1)
    frequencies = np.linspace(0, rate / 2, window // 2 + 1)
    left, centre, right = (edges[i : i + num_bands, None] for i in range(3))
    rising = (frequencies - left) / (centre - left)
    falling = (right - frequencies) / (right - centre)
    return np.maximum(0, np.minimum(rising, falling))


def _rows(index: Path) -> list[dict[str, str]]:
    """The rows of a `labels.csv`, whole."""
    with open(index, newline="", encoding="utf-8-sig") as file:  # with or without a byte-order mark
        reader = csv.DictReader(file)
        missing = COLUMNS - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"it must have the columns {sorted(missing)}")
        rows = []
        for row in reader:
            empty = sorted(name for name in COLUMNS if not row[name])
            if empty or row["split"] not in ("train", "test"):
                what = f"an empty {empty[0]!r}" if empty else f"the split {row['split']!r}"
                raise ValueError(f"line {reader.line_num} has {what}")
            rows.append(row)
    return rows


def _spectrogram(recording: bytes) -> np.ndarray:
    """`log_mel` of a wav file."""
    from scipy.io import wavfile

    with warnings.catch_warnings():
        # A file that breaks off would be read as a shorter one.
        warnings.filterwarnings("error", "Reached EOF", wavfile.WavFileWarning)
        rate, wave = wavfile.read(io.BytesIO(recording))
    if wave.ndim != 1 or not wave.size:
        raise ValueError(f"one channel of sound is needed, got shape {wave.shape}")
    return log_mel(wave, rate)


def _read(path: Any, read: Callable[[Any], Any], name: str | None = None) -> Any:
    """`read(path)`; what goes wrong, and decoders raise anything, comes with the file's name."""
    try:
        return read(path)
    except Exception as error:
        what = str(error) or type(error).__name__
        raise ValueError(f"{name or path} cannot be read: {what}") from error


def _files(source: str | os.PathLike, suffix: str):
    """Names with `suffix` in a zip or a directory, and what reads one."""
    source = Path(source)
    if source.is_dir():
        names = sorted(str(p.relative_to(source)) for p in source.rglob(f"*{suffix}"))
        return names, lambda name: (source / name).read_bytes()
    if not zipfile.is_zipfile(source):
        raise ValueError(f"source must be a zip or a directory of {suffix} files, got {source}")
    archive = _read(source, zipfile.ZipFile)
    names = sorted(name for name in archive.namelist() if name.endswith(suffix))
    return names, archive.read
