import math

import pytest

from experiments import reproduce
from tests.experiments import cli

PUBLISHED = {
    "method": "ssd",
    "forget_accuracy": 0.1,
    "forget_accuracy_std": 0.02,
    "test_accuracy": 0.9,
    "test_accuracy_std": None,
    "seconds": 3.0,
    "seconds_std": 0.0,
}
COLUMNS = ("test_accuracy", "forget_accuracy", "mia")


def test_bands_are_three_standard_deviations_and_a_point():
    same = reproduce.compare(PUBLISHED, PUBLISHED, COLUMNS)
    assert [line["column"] for line in same] == ["forget_accuracy", "test_accuracy"]
    assert [line["band"] for line in same] == pytest.approx([0.07, 0.01])
    assert all(line["within"] for line in same)
    off = reproduce.compare(PUBLISHED, {"forget_accuracy": 0.171, "test_accuracy": 0.905}, COLUMNS)
    assert [line["within"] for line in off] == [False, True]
    (lost, _) = reproduce.compare(PUBLISHED, {"test_accuracy": 0.9}, COLUMNS)
    assert not lost["within"] and math.isnan(lost["measured"])


def test_the_band_of_a_mean_over_scenarios_is_their_mean_band():
    row = {"gap: a": 0.1, "gap: a_std": 0.01, "gap: b": 0.3, "gap: b_std": 0.03, "gap": 0.2}
    bands = {line["column"]: line["band"] for line in reproduce.compare(row, row, ())}
    assert bands == pytest.approx({"gap: a": 0.04, "gap: b": 0.1, "gap": 0.07})


def test_rows_that_are_not_published_are_named():
    for row, message in (
        ("digits_convnet/sdd", "row must be digits_convnet/METHOD with METHOD one of"),
        ("digits_cnn/ssd", "row must be FILE/METHOD with FILE one of ['"),
        (None, "row must be FILE/METHOD with FILE one of ['"),
    ):
        with pytest.raises(ValueError) as caught:
            reproduce.stored(row)
        assert message in str(caught.value) and "\n" not in str(caught.value)


def test_rows_of_streams_are_named_by_both():
    assert reproduce.name({"stream": "adversarial", "method": "ssd"}) == "adversarial/ssd"
    results, wanted = reproduce.stored("continual_digits/adversarial/acu_gram")
    assert results["experiment"] == "continual" and wanted == "adversarial/acu_gram"


@pytest.mark.slow
@pytest.mark.parametrize("row", ["digits_mlp/ssd", "continual_digits/adversarial/acu_inverse"])
def test_a_published_row_is_reproduced(row, tmp_path, tfds_dir):
    command = cli.command(tmp_path / "run", f"--row={row}", config=None, experiment="reproduce")
    process = cli.run(command, tfds_dir, quick=False)
    assert process.returncode == 0, process.stdout_text + process.stderr_text
    assert "published" in process.stdout_text and "NO" not in process.stdout_text
