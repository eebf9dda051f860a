import csv
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile
from sklearn.datasets import load_diabetes

from unlearnjax import data as data_lib


def test_diabetes_is_scikit_learns_standardised():
    dataset = data_lib.load("diabetes")
    _, values = load_diabetes(return_X_y=True)
    loaded = np.concatenate([dataset.train["raw_targets"], dataset.test["raw_targets"]])
    np.testing.assert_array_equal(np.sort(loaded), np.sort(values).astype(np.float32))
    assert dataset.num_classes == 1
    for name in ("inputs", "targets"):
        assert abs(dataset.train[name].mean()) < 1e-5
        assert dataset.train[name].std() == pytest.approx(1, abs=1e-4)
    scale = dataset.train["raw_targets"].std(), dataset.train["raw_targets"].mean()
    np.testing.assert_allclose(
        dataset.test["targets"] * scale[0] + scale[1], dataset.test["raw_targets"], rtol=1e-4
    )


@pytest.fixture
def recordings(tmp_path):
    """Tones instead of voices: three speakers, two digits, seven takes."""
    folder, rate = tmp_path / "recordings", 8000
    folder.mkdir()
    for s, speaker in enumerate(("ann", "bob", "yweweler")):
        for digit in (0, 1):
            for take in range(7):
                time = np.arange(3000 + 500 * take) / rate
                wave = np.sin(2 * np.pi * (300 + 1500 * digit + 100 * s) * time)
                name = f"{digit}_{speaker}_{take}.wav"
                wavfile.write(folder / name, rate, (8000 * wave).astype(np.int16))
    return folder


def test_spoken_digits_hold_out_takes_and_a_speaker(recordings):
    dataset = data_lib.load("spoken_digits", source=recordings)
    assert set(dataset.train["identity"]) == {0, 1} and set(dataset.test["identity"]) == {0, 1, 2}
    assert len(dataset.train["targets"]) == 2 * 2 * 2  # takes 5 and 6
    assert (dataset.test["identity"] == 2).sum() == 14
    assert dataset.train["inputs"].shape[1:] == (64, 64, 1)
    archive = recordings.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w") as file:
        for path in recordings.iterdir():
            file.write(path, f"recordings/{path.name}")
    zipped = data_lib.load("spoken_digits", source=archive)
    np.testing.assert_array_equal(zipped.train["inputs"], dataset.train["inputs"])


def test_a_tone_lights_up_its_mel_band():
    rate = 8000
    for frequency in (400.0, 1000.0, 2500.0):
        wave = (8000 * np.sin(2 * np.pi * frequency * np.arange(rate) / rate)).astype(np.int16)
        spectrogram = data_lib.local.log_mel(wave, rate)
        mel = 2595 * np.log10(1 + frequency / 700)
        top = 2595 * np.log10(1 + rate / 2 / 700)
        band = mel / top * 65 - 1
        assert abs(spectrogram[:, 32, 0].argmax() - band) <= 1
        assert spectrogram.shape == (64, 64, 1)


@pytest.fixture
def faces(tmp_path):
    """A tiny folder in the documented layout: four people, of whom one is in the test set alone."""
    rng = np.random.default_rng(0)
    rows = []
    for person, split in (("p1", "train"), ("p2", "train"), ("p3", "train"), ("p4", "test")):
        for i in range(6):
            label = "young" if i % 2 else "old"
            image = rng.integers(0, 100, (20, 16, 3)).astype(np.uint8) + 100 * (i % 2)
            name = f"images/{person}_{i}.png"
            (tmp_path / "images").mkdir(exist_ok=True)
            Image.fromarray(image.astype(np.uint8)).save(tmp_path / name)
            own = "test" if i == 5 else split
            rows.append({"file": name, "label": label, "identity": person, "split": own})
    with open(tmp_path / "labels.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["file", "label", "identity", "split"])
        writer.writeheader()
        writer.writerows(rows)
    return tmp_path


def test_image_folders_give_labels_and_identities(faces, rng):
    dataset = data_lib.local.image_folder(faces, size=8)
    assert dataset.class_names == ("old", "young")
    assert dataset.train["inputs"].shape == (15, 8, 8, 3)
    chosen = data_lib.forget_sets.select("identity:p1+p2", dataset.train, dataset.test, rng)
    assert set(dataset.train["identity"][chosen.forget]) == {"p1", "p2"}
    assert set(dataset.test["identity"][chosen.unseen]) == {"p4"}  # nobody trained on
    assert set(dataset.test["identity"][chosen.test]) == {"p3"}


def test_identity_needs_people_that_nobody_trained_on(digits, rng):
    known = {**digits, "identity": digits["targets"]}
    with pytest.raises(ValueError, match="every identity of the held-out data"):
        data_lib.forget_sets.select("identity:3", known, known, rng)
    with pytest.raises(ValueError, match="of the training data, got 'identity'"):
        data_lib.forget_sets.select("identity:3", digits, digits, rng)


def test_missing_files_and_columns_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"give --config.source=PATH"):
        data_lib.load("spoken_digits")
    with pytest.raises(ValueError, match="must hold DIGIT_SPEAKER_TAKE.wav files"):
        data_lib.load("spoken_digits", source=tmp_path)
    with pytest.raises(ValueError, match="must be a directory with a labels.csv"):
        data_lib.load("image_folder", source=tmp_path)
    (tmp_path / "labels.csv").write_text("file,label\na.png,x\n")
    with pytest.raises(ValueError, match=r"must have the columns \['identity', 'split'\]"):
        data_lib.load("image_folder", source=tmp_path)


@pytest.mark.realdata
def test_the_real_recordings_are_all_there(real_data_dir):
    source = Path(real_data_dir).parent / "spoken_digits" / "recordings.zip"
    if not os.path.exists(source):
        pytest.skip(f"{source} is not there")
    dataset = data_lib.load("spoken_digits", source=source)
    assert len(dataset.train["targets"]) == 5 * 10 * 45
    assert len(dataset.test["targets"]) == 5 * 10 * 5 + 500
    assert np.bincount(dataset.train["identity"]).tolist() == [450] * 5
