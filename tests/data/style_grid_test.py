import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from unlearnjax import data as data_lib
from unlearnjax.data import captions, style_grid, styles


@pytest.fixture(scope="module")
def digits():
    return style_grid.digits()


def test_digits_are_rendered_once_in_each_of_six_styles(digits):
    published = load_digits()
    assert digits.styles == ("photo", "crimson", "ocean", "sketch", "halftone", "neon")
    assert digits.class_names == style_grid.DIGITS and digits.num_classes == 10
    assert len(digits.train["targets"]) == 6 * 1438 and len(digits.test["targets"]) == 6 * 359
    for part, place in ((digits.train, lambda n: n + n // 4), (digits.test, lambda n: 5 * n + 4)):
        for row in (0, 7, 1234, 2000):
            number, style = divmod(row, 6)
            image = published.images[place(number)] / 16
            expected = styles.render(image, digits.styles[style])
            stored = part["inputs"][row] * digits.std + digits.mean
            np.testing.assert_allclose(stored, expected, atol=1e-4)
            labels = [part[name][row] for name in ("style", "object", "targets", "image")]
            digit = published.target[place(number)]
            assert labels == [style, digit, digit, number]
            text = f"a {digits.class_names[digit]} image in {digits.styles[style]} style"
            (caption,) = captions.decode(digits.vocabulary, part["condition"][row][None])
            assert caption == text
            every = captions.TEMPLATES + captions.HELD_OUT
            names = {"style": digits.styles[style], "object": digits.class_names[digit]}
            filled = [template.format(**names) for template in every]
            assert captions.decode(digits.vocabulary, part["captions"][row]) == filled
        assert part["inputs"].dtype == np.float32 and np.abs(part["inputs"]).max() <= 1
        np.testing.assert_array_equal(part["index"], np.arange(len(part["targets"])))
    assert digits.train["inputs"].min() == -1 and digits.train["inputs"].max() == 1


def test_an_image_validates_in_all_its_styles(digits):
    rng = np.random.default_rng(0)
    train, val, held_out = style_grid.split_by_image(digits.train, digits.test, 0.1, rng)
    assert held_out is digits.test
    assert not set(train["image"]) & set(val["image"])
    assert len(val["targets"]) == 6 * 144 and len(train["targets"]) == 6 * (1438 - 144)
    for part in (train, val):
        np.testing.assert_array_equal(part["index"], np.arange(len(part["targets"])))
    few = {name: values[:12] for name, values in digits.train.items()}
    with pytest.raises(ValueError, match="leaves none to train on"):
        style_grid.split_by_image(few, {}, 0.9, rng)
    with pytest.raises(ValueError, match=r"validation_fraction must lie in \(0, 1\), got 1.0"):
        style_grid.split_by_image(few, {}, 1.0, rng)


def test_clothes_are_padded_and_halved(monkeypatch):
    raw = np.random.default_rng(0).integers(0, 256, (20, 28, 28, 1)).astype(np.float32)
    names = ["T-shirt/top", *(f"kind{i}" for i in range(9))]
    part = lambda rows: {"inputs": raw[rows], "targets": np.arange(10)}
    loaded = data_lib.standardised(part(slice(0, 10)), part(slice(10, 20)), names)
    monkeypatch.setattr(style_grid.loading, "load", lambda *_: loaded)
    found = style_grid.fashion_mnist()
    assert len(found.styles) == 8 and found.class_names[0] == "T shirt top"
    assert found.train["inputs"].shape == (80, 16, 16, 3)
    padded = np.zeros((32, 32))
    padded[2:30, 2:30] = raw[10, ..., 0]
    halved = [
        [padded[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean() for j in range(16)] for i in range(16)
    ]
    stored = found.test["inputs"][0] * 127.5 + 127.5
    np.testing.assert_allclose(stored[..., 1], halved, atol=0.51)  # rounded to bytes


@pytest.fixture
def published(tmp_path):
    """Two styles and the photos of two objects, six images each, of plain colours."""
    for s, style in enumerate(("Seed_Images", "Van_Gogh", "Cold_Warm")):
        for o, name in enumerate(("Dogs", "Sea_Lions")):
            folder = tmp_path / style / name
            folder.mkdir(parents=True)
            for number in range(1, 11):
                colour = (60 * s, 100 * o, 20 * number)
                Image.new("RGB", (10, 12), colour).save(folder / f"{number}.png")
    return tmp_path


def test_the_published_layout_is_read_with_photos_as_a_style(published):
    found = style_grid.folder(published, size=4)
    assert found.styles == ("Cold_Warm", "Van_Gogh", "photo")
    assert found.class_names == ("Dogs", "Sea_Lions")
    assert len(found.train["targets"]) == 48 and len(found.test["targets"]) == 12
    for name, part in (("train", found.train), ("test", found.test)):
        pixels = np.round(part["inputs"] * 127.5 + 127.5).astype(int)
        first = {"Seed_Images": "photo", "Van_Gogh": "Van_Gogh", "Cold_Warm": "Cold_Warm"}
        by_red = [found.styles.index(style) for style in first.values()]
        for row in range(len(part["targets"])):
            red, green, blue = pixels[row, 0, 0]
            assert part["style"][row] == by_red[red // 60]
            assert part["object"][row] == green // 100
            # Images 5 and 10 of each object are the test set, in all styles.
            assert (blue // 20 in (5, 10)) == (name == "test")
            assert part["image"][row] == 10 * (green // 100) + blue // 20 - 1
    (caption,) = captions.decode(found.vocabulary, found.test["condition"][:1])
    assert caption == "a dogs image in cold warm style"


def test_folders_that_are_no_grid_are_refused(published, tmp_path):
    with pytest.raises(ValueError, match="source must be a directory of STYLE/OBJECT/NAME.jpg"):
        style_grid.folder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="size must be >= 1"):
        style_grid.folder(published, size=0)
    broken = published / "Van_Gogh" / "Dogs" / "3.png"
    broken.write_bytes(b"no image")
    with pytest.raises(ValueError, match="3.png cannot be read"):
        style_grid.folder(published)
    for path in (published / "Van_Gogh" / "Dogs").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="source must have images of 'Dogs' in 'Van_Gogh'"):
        style_grid.folder(published)


def test_few_images_leave_none_to_test_with(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (4, 4)).save(tmp_path / "a" / "b" / f"{number}.jpg")
    with pytest.raises(ValueError, match="source must have 5 images or more of an object"):
        style_grid.folder(tmp_path, 4)


class Names:
    def __init__(self, *names):
        self.names = list(names)


class Source(list):
    def __getitems__(self, rows):
        return [self[row] for row in rows]


class Built:
    """A tfds builder, as far as it is read."""

    def __init__(self, features, train, test):
        self.rows = {"train": Source(train), "test": Source(test)}
        info = {"features": features, "splits": self.rows}
        self.info = type("Info", (), info)

    def as_data_source(self, split):
        return self.rows[split]


def test_a_builder_of_two_labels_is_a_grid():
    features = {"image": None, "style": Names("photo", "oil"), "object": Names("cat", "dog")}
    cell = lambda s, o: {
        "image": np.full((4, 4, 3), 100 * s + o, np.uint8),
        "style": s,
        "object": o,
    }
    cells = [cell(s, o) for s in (0, 1) for o in (0, 1)]
    found = style_grid.from_builder(Built(features, cells, cells[1:]))
    assert found.styles == ("photo", "oil") and found.class_names == ("cat", "dog")
    np.testing.assert_array_equal(found.test["style"], [0, 1, 1])
    np.testing.assert_array_equal(found.test["object"], [1, 0, 1])
    stored = found.test["inputs"][:, 0, 0, 0] * 127.5 + 127.5
    np.testing.assert_allclose(stored, [1, 100, 101], atol=1e-4)
    with pytest.raises(ValueError, match="a grid must have an 'image', classes as 'style' and 'ob"):
        style_grid.from_builder(Built({"image": None, "label": Names("a")}, cells, cells))
    uneven = [*cells, {**cells[0], "image": np.zeros((2, 2, 3), np.uint8)}]
    with pytest.raises(ValueError, match="images must be of one shape"):
        style_grid.from_builder(Built(features, uneven, cells))


def part(style, content, pixels=None):
    size = len(style)
    pixels = np.zeros((size, 4, 4, 3), np.uint8) if pixels is None else pixels
    return {"pixels": pixels, "style": style, "object": content, "image": np.arange(size)}


def test_arrays_that_are_no_grid_are_refused():
    whole = part(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]))
    names = ("photo", "neon"), ("cat", "dog")
    style_grid.grid(whole, whole, *names)
    with pytest.raises(ValueError, match="there is none of 'dog' in 'photo'"):
        style_grid.grid(part(np.array([0, 1, 1]), np.array([0, 0, 1])), whole, *names)
    with pytest.raises(ValueError, match=r"train targets must be class numbers in \[0, 2\), got 2"):
        style_grid.grid(part(np.array([0, 2]), np.array([0, 0])), whole, *names)
    with pytest.raises(ValueError, match="test pixels must be .* bytes, got float64"):
        style_grid.grid(whole, {**whole, "pixels": np.zeros((4, 4, 4, 3))}, *names)
    with pytest.raises(ValueError, match=r"test image must be \[N\], of the 4 pixels .* got \[3\]"):
        style_grid.grid(whole, {**whole, "image": np.arange(3)}, *names)
    for same in ("Cat", "cat.", "_cat"):  # in captions they are one
        with pytest.raises(ValueError, match="styles and objects must be named by other words"):
            style_grid.grid(whole, whole, ("photo", same), ("cat", "dog"))
