import csv
import io
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


def test_mel_filters_are_triangles_between_their_neighbours():
    top, rate = 2595 * np.log10(1 + 4000 / 700), 8000
    edges = 700 * (10 ** (np.linspace(0, top, 10) / 2595) - 1)
    frequencies = np.linspace(0, rate / 2, 129)
    filters = data_lib.local._mel_filters(8, 256, rate)
    for i, band in enumerate(filters):
        expected = np.interp(frequencies, edges[i : i + 3], [0, 1, 0])
        np.testing.assert_allclose(band, expected, atol=1e-12)


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


def broken(load, source, message):
    with pytest.raises(ValueError, match=message) as caught:
        load(source)
    assert "\n" not in str(caught.value)


def test_an_image_that_cannot_be_read_is_named(faces):
    image = faces / "images" / "p2_3.png"
    whole = image.read_bytes()
    for content in (b"", b"not an image", whole[: len(whole) // 2], whole[:200] + b"x" * 50):
        image.write_bytes(content)
        broken(data_lib.local.image_folder, faces, r"p2_3\.png cannot be read: ")
    image.unlink()
    broken(data_lib.local.image_folder, faces, r"p2_3\.png cannot be read: .*No such file")
    image.mkdir()
    broken(data_lib.local.image_folder, faces, r"p2_3\.png cannot be read: .*[Ii]s a directory")


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_labels_are_read_with_and_without_a_byte_order_mark(faces, mark):
    index = faces / "labels.csv"
    expected = data_lib.local.image_folder(faces, size=4)
    index.write_text(mark + index.read_text().replace("p1,", "J\u00f6rg,"), encoding="utf-8")
    dataset = data_lib.local.image_folder(faces, size=4)
    assert set(dataset.train["identity"]) == {"Jörg", "p2", "p3"}
    np.testing.assert_array_equal(dataset.train["inputs"], expected.train["inputs"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("images/p1_0.png,old", "line 26 has an empty 'identity'"),
        ("images/p1_0.png,,p1,train", "line 26 has an empty 'label'"),
        (",old,p1,train", "line 26 has an empty 'file'"),
        ("images/p1_0.png,old,p1,Train", "line 26 has the split 'Train'"),
        ("images/p1_0.png,\udce4,p1,train", "'utf-8' codec can't decode byte 0xe4"),
        ("x" * 200_000, "field larger than field limit"),
    ],
)
def test_a_line_of_labels_that_is_not_whole_is_named(faces, line, message):
    with open(faces / "labels.csv", "a", errors="surrogateescape") as file:
        file.write(line + "\n")
    broken(data_lib.local.image_folder, faces, rf"labels\.csv cannot be read: {message}")


def test_a_recording_that_cannot_be_read_is_named(recordings):
    wave = recordings / "1_bob_5.wav"
    whole = wave.read_bytes()
    stereo = io.BytesIO()
    wavfile.write(stereo, 8000, np.zeros((4000, 2), np.int16))
    for content in (b"", b"not a wave", whole[:30], whole[:44], whole[:1000], stereo.getvalue()):
        wave.write_bytes(content)
        broken(data_lib.local.spoken_digits, recordings, r"1_bob_5\.wav in .* cannot be read: ")
    wave.unlink()
    for name in ("1_bob.wav", "x_bob_5.wav", "1_bob_x.wav", "12_bob_5.wav"):
        (recordings / name).write_bytes(whole)
        broken(data_lib.local.spoken_digits, recordings, rf"must hold DIGIT.* files, got {name} in")
        (recordings / name).unlink()


def test_a_zip_that_is_broken_is_named(recordings):
    archive = recordings.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(recordings.iterdir()):
            file.write(path, path.name)
    whole = archive.read_bytes()
    archive.write_bytes(whole[:2000] + bytes(500) + whole[2500:])  # the first recording's samples
    load = data_lib.local.spoken_digits
    broken(load, archive, r"0_ann_0\.wav in .*\.zip cannot be read: Bad CRC-32")
    archive.write_bytes(whole[:-200])
    broken(load, archive, r"must be a zip or a directory of \.wav files, got .*\.zip")
    directory = whole.rindex(b"PK\x01\x02")
    archive.write_bytes(whole[:directory] + b"XXXX" + whole[directory + 4 :])
    broken(load, archive, r"\.zip cannot be read: Bad magic number")
    broken(load, recordings / "absent", "must be a zip or a directory of .wav files")


@pytest.mark.realdata
def test_the_real_recordings_are_all_there(real_data_dir):
    source = Path(real_data_dir).parent / "spoken_digits" / "recordings.zip"
    if not os.path.exists(source):
        pytest.skip(f"{source} is not there")
    dataset = data_lib.load("spoken_digits", source=source)
    assert len(dataset.train["targets"]) == 5 * 10 * 45
    assert len(dataset.test["targets"]) == 5 * 10 * 5 + 500
    assert np.bincount(dataset.train["identity"]).tolist() == [450] * 5
