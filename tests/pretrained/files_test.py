import json
import pickle
import subprocess
import sys
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as library

from unlearnjax.pretrained import files

RNG = np.random.default_rng(0)
TENSORS = {
    "a": RNG.standard_normal((3, 4)).astype(np.float32),
    "b/c": RNG.standard_normal(5).astype(jnp.bfloat16),
    "half": RNG.standard_normal((2, 1, 2)).astype(np.float16),
    "double": RNG.standard_normal(2),
    "number": np.array(7, np.int64),
    "bytes": np.arange(6, dtype=np.uint8).reshape(2, 3),
    "flags": np.array([True, False]),
    "none": np.zeros((0, 3), np.float32),
}


def same(tensors, expected=None):
    expected = TENSORS if expected is None else expected
    assert set(tensors.shapes) == set(expected)
    for name, value in expected.items():
        shape, read = tensors.shapes[name], tensors.read(name)
        assert (shape.shape, shape.dtype) == (read.shape, read.dtype) == (value.shape, value.dtype)
        assert read.tobytes() == value.tobytes(), name


@pytest.mark.parametrize("name", ["model.safetensors", "model.npz"])
def test_what_is_written_is_read_bit_by_bit(name, tmp_path):
    files.write_tensors(tmp_path / name, TENSORS)
    same(files.open_tensors(tmp_path / name))
    assert [file.name for file in tmp_path.iterdir()] == [name]  # nothing partial is left


def test_the_library_reads_what_is_written_and_we_what_it_writes(tmp_path):
    files.write_tensors(tmp_path / "ours.safetensors", TENSORS)
    read = library.load_file(tmp_path / "ours.safetensors")
    for name, value in TENSORS.items():
        assert read[name].tobytes() == value.tobytes()
    library.save_file(TENSORS, tmp_path / "theirs.safetensors")
    same(files.open_tensors(tmp_path / "theirs.safetensors"))


@pytest.mark.parametrize("name", ["model.safetensors", "model.npz"])
def test_arrays_whose_axes_lie_in_another_order_are_written_as_they_are(name, tmp_path):
    files.write_tensors(tmp_path / name, {"a": TENSORS["a"].T, "b": TENSORS["a"][:, ::2]})
    same(files.open_tensors(tmp_path / name), {"a": TENSORS["a"].T, "b": TENSORS["a"][:, ::2]})


def test_files_say_that_they_are_for_pytorch_as_transformers_wants_it(tmp_path):
    files.write_tensors(tmp_path / "model.safetensors", TENSORS)
    whole = (tmp_path / "model.safetensors").read_bytes()
    header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
    assert header["__metadata__"] == {"format": "pt"}


@pytest.fixture
def sharded(tmp_path):
    """Two shards and their index."""
    names = sorted(TENSORS)
    parts = {"one.safetensors": names[:3], "two.safetensors": names[3:]}
    for file, part in parts.items():
        files.write_tensors(tmp_path / file, {name: TENSORS[name] for name in part})
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    return path, index


def test_shards_are_read_as_one_from_their_index_or_their_folder(sharded):
    path, _ = sharded
    same(files.open_tensors(path))
    same(files.open_tensors(path.parent))


def test_a_folder_with_one_file_is_that_file(tmp_path):
    files.write_tensors(tmp_path / "model.safetensors", TENSORS)
    same(files.open_tensors(str(tmp_path)))


def test_an_index_that_disagrees_with_its_shards_is_refused(sharded):
    path, index = sharded
    cases = {
        "disagree about 'z' in one.safetensors": {"z": "one.safetensors"},
        "disagree about 'a' in one.safetensors": {"a": "two.safetensors"},
        "there is no file .*three.safetensors": {"z": "three.safetensors"},
        **{
            f"a shard must be a .safetensors beside its index, got {file!r}": {"a": file}
            for file in ("../one.safetensors", "/one.safetensors", "..", "", 5, "one.npz")
            + ("model.safetensors.index.json",)
        },
    }
    for message, change in cases.items():
        path.write_text(json.dumps({"weight_map": index["weight_map"] | change}))
        with pytest.raises(ValueError, match=f"^weights.*{message}"):
            files.open_tensors(path)
    path.write_text(json.dumps({"weight_map": {"a": "one.safetensors"}}))
    with pytest.raises(ValueError, match="disagree about"):
        files.open_tensors(path)
    for text in ("{}", "[]", '{"weight_map": {}}', '{"weight_map": []}', "5"):
        path.write_text(text)
        with pytest.raises(ValueError, match="index.json cannot be read: it has no weight_map"):
            files.open_tensors(path)
    path.write_text(json.dumps({"weight_map": {"a": "gone.safetensors"}}))
    with pytest.raises(ValueError, match="^weights: there is no file .*gone.safetensors"):
        files.open_tensors(path)
    for text in ("{", ""):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"^weights .*index.json cannot be read: "):
            files.open_tensors(path)


class Trap:
    """Unpickled, it leaves a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "a.pt", "a.pth", "a.ckpt", "a.pkl", "a.safetensors", "a.npz"]
)
def test_pickles_are_never_opened(name, tmp_path):
    trap = tmp_path / "sprung"
    path = tmp_path / "weights" / name
    path.parent.mkdir()
    path.write_bytes(pickle.dumps(Trap(trap)))
    with pytest.raises(ValueError, match=rf"^weights .*{name}.*(never opened|cannot be read)"):
        files.open_tensors(path)
    with pytest.raises(ValueError, match="holds no model.safetensors") as refused:
        files.open_tensors(path.parent)
    named = f"but {name}: a pickle" in str(refused.value)
    assert named == (path.suffix not in (".safetensors", ".npz"))
    # As torch writes them today: a pickle in an archive; and as NumPy would: objects in an array.
    with zipfile.ZipFile(tmp_path / "torch.npz", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Trap(trap)))
    np.savez(tmp_path / "objects.npz", a=np.array([Trap(trap)], object))
    for archive in ("torch.npz", "objects.npz"):
        with pytest.raises(ValueError, match=rf"^weights .*{archive} cannot be read: .*never"):
            files.open_tensors(tmp_path / archive)
    assert not trap.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "model.npz"])
def test_a_file_cut_short_anywhere_ends_in_one_line(name, tmp_path):
    path = tmp_path / name
    files.write_tensors(path, TENSORS)
    whole = path.read_bytes()
    for length in (0, 4, 8, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=rf"^weights .*{name} cannot be read: ") as refused:
            files.open_tensors(path)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["model.safetensors", "model.npz"])
def test_a_file_that_is_cut_or_gone_after_it_was_opened_ends_in_one_line(name, tmp_path):
    path = tmp_path / name
    files.write_tensors(path, {"a": TENSORS["a"]})
    tensors = files.open_tensors(path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=rf"^weights .*{name} cannot be read: "):
        tensors.read("a")
    path.unlink()
    with pytest.raises(ValueError, match=rf"^weights: there is no file .*{name}"):
        tensors.read("a")


def test_what_is_not_there_or_of_another_kind_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^weights: there is no file .*absent.safetensors"):
        files.open_tensors(tmp_path / "absent.safetensors")
    with pytest.raises(ValueError, match=r"^weights must be a .safetensors file.* got .*absent$"):
        files.open_tensors(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"^weights: .* holds no model.safetensors$"):
        files.open_tensors(tmp_path)
    with pytest.raises(ValueError, match="the ending of path must be .*'.bin'"):
        files.write_tensors(tmp_path / "model.bin", TENSORS)


def test_types_without_a_counterpart_are_refused(tmp_path):
    header = json.dumps({"x": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0")
    with pytest.raises(ValueError, match="cannot be read: x is of type F8_E4M3"):
        files.open_tensors(path)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.npz"
    files.write_tensors(path, {"a": TENSORS["a"]})

    def fail(file, **arrays):
        file.write_bytes(b"half")
        raise OSError("full")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="full"):
        files.write_tensors(path, TENSORS)
    same(files.open_tensors(path), {"a": TENSORS["a"]})
    assert [file.name for file in tmp_path.iterdir()] == ["model.npz"]


def test_the_library_is_imported_only_to_read_and_its_extra_named_where_it_lacks(tmp_path):
    files.write_tensors(tmp_path / "model.safetensors", TENSORS)
    code = (
        "import sys, unlearnjax\nfrom unlearnjax import pretrained\n"
        "assert 'safetensors' not in sys.modules\nsys.modules['safetensors'] = None\n"
        f"pretrained.open_tensors({str(tmp_path / 'model.safetensors')!r})"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = process.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError") and "pip install 'unlearnjax[pretrained]'" in last
