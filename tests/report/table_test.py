import csv
import json
import math

import numpy as np
import pytest

from unlearnjax.report import html, plots, table

ROWS = [
    {"method": "oracle", "seed": 0, "forget_accuracy": 0.2, "seconds": 4.0},
    {"method": "oracle", "seed": 1, "forget_accuracy": 0.4, "seconds": 6.0},
    {"method": "ssd", "seed": 0, "forget_accuracy": 0.1, "seconds": 0.5},
    {"method": "ssd", "seed": 1, "forget_accuracy": 0.5, "seconds": 1.5},
]


KIND = table.Columns(
    printed=("forget_accuracy", "retain_accuracy", "test_accuracy", "mia", "average_gap"),
    units={
        "forget_accuracy": ("forget %", 100, 1),
        "mia": ("MIA %", 100, 1),
        "gap": ("gap", 100, 1),
    },
    plain=("average_gap",),
    spreading=("forget_accuracy", "average_gap"),
    forgotten=("forget_accuracy",),
    collapsed={"test_accuracy": -0.1},
)


def test_summary_by_hand():
    oracle, ssd = table.summarise_rows(ROWS, KIND)
    assert oracle["forget_accuracy"] == pytest.approx(0.3)
    assert oracle["forget_accuracy_std"] == pytest.approx(math.sqrt(0.02))
    assert oracle["forget_accuracy_gap"] == 0
    assert ssd["forget_accuracy_gap"] == pytest.approx(0.0)
    assert ssd["seconds_ratio"] == pytest.approx(0.2)
    assert ssd["num_seeds"] == 2 and "seed" not in ssd


def test_perturbed_originals_count_as_rows_and_not_as_seeds():
    perturbed = [{**row, "perturbed": 0} for row in ROWS]
    perturbed += [{**ROWS[3], "perturbed": 1, "forget_accuracy": 0.9}]
    ssd = table.summarise_rows(perturbed, KIND)[1]
    assert ssd["num_seeds"] == 2 and "perturbed" not in ssd
    assert ssd["forget_accuracy"] == pytest.approx(0.5)
    assert ssd["forget_accuracy_std"] == pytest.approx(0.4)


@pytest.mark.parametrize("name", KIND.spreading)
def test_what_spreads_by_more_than_five_points_is_starred(name):
    def summary(second):
        rows = [{"method": "oracle", "seed": s, name: v} for s, v in enumerate((0.5, second))]
        return table.summarise_rows(rows, KIND)[0]

    # The standard deviation of two numbers is their distance by the root of 2.
    calm, sensitive = summary(0.5 + 0.049 * 2**0.5), summary(0.5 + 0.051 * 2**0.5)
    assert (table.name_cell(calm), table.name_cell(sensitive)) == ("oracle", "oracle *")
    lone = table.summarise_rows([{"method": "oracle", "seed": 0, name: 0.5}], KIND)[0]
    assert table.name_cell(lone) == "oracle"


def test_one_seed_has_no_spread_and_no_oracle_is_refused():
    (oracle,) = table.summarise_rows(ROWS[:1], KIND)
    assert math.isnan(oracle["forget_accuracy_std"])
    assert table.cell(oracle, "forget_accuracy", KIND) == "20.0"
    with pytest.raises(ValueError, match=r"must hold the method 'oracle'.*\['ssd'\]"):
        table.summarise_rows(ROWS[2:], KIND)


def test_cells_read_as_intended():
    oracle, ssd = table.summarise_rows(ROWS, KIND)
    assert table.cell(oracle, "forget_accuracy", KIND) == "30.0 ± 14.1"
    assert table.cell(ssd, "forget_accuracy", KIND) == "30.0 ± 28.3 (+0.0)"
    assert table.cell(ssd, "mia", KIND) == "–"
    assert table.cost_cell(ssd, "seconds") == "1 s (0.2x)"
    assert table.cost_cell({"seconds": 0.01234}, "seconds") == "12.3 ms"
    assert table.cost_cell({"flops": 2.5e12, "flops_ratio": 0.125}, "flops") == "2.5 TFLOP (0.12x)"
    assert table.cost_cell({"peak_bytes": 2048.0}, "peak_bytes") == "2.05 kB"


def test_files_hold_every_number(tmp_path):
    table.write_csv(tmp_path / "r.csv", [*ROWS, {"method": "x", "extra": 1}])
    with open(tmp_path / "r.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == ["oracle", "oracle", "ssd", "ssd", "x"]
    assert float(rows[3]["seconds"]) == 1.5 and rows[4]["extra"] == "1"
    table.write_json(tmp_path / "r.json", {"a": float("nan"), "b": [np.float32(1.5), np.int64(2)]})
    assert json.loads((tmp_path / "r.json").read_text()) == {"a": None, "b": [1.5, 2]}


def full_summary():
    rows = []
    for method in ("oracle", "original", "ssd", "finetune"):
        for seed in range(2):
            row = {"method": method, "seed": seed, "seconds": 1.0, "flops": 1.0, "peak_bytes": 1.0}
            for name in ("forget", "retain", "test"):
                row[f"{name}_accuracy"] = 0.5 + 0.1 * seed
            rows.append({**row, "mia": 0.5})
    return table.summarise_rows(rows, KIND)


def test_markdown_has_one_line_per_method():
    lines = table.markdown(table.columns(full_summary(), KIND)).splitlines()
    assert len(lines) == 2 + 4
    assert len({line.count("|") for line in lines}) == 1


def test_page_is_self_contained_and_escapes_what_it_shows(rng):
    summary = full_summary()
    losses = {
        method: {name: rng.exponential(size=20) for name in plots.SETS}
        for method in ("oracle", "ssd")
    }
    figures = {
        "gaps": plots.gaps(summary),
        "losses": plots.loss_histograms(losses),
        "trade": plots.trade_off(summary),
        "curves": plots.training_curves({"original": rng.exponential(size=(2, 5))}),
        "shares": plots.fisher_shares(rng.dirichlet(np.ones(9), 2), rng.exponential(size=(2, 9))),
    }
    pngs = {caption: html.figure_png(figure) for caption, figure in figures.items()}
    page = html.page(
        "a <b>",
        "lead",
        table.columns(summary, KIND),
        pngs,
        {"x": "y"},
        {"Config": "<z>"},
        ["careful"],
    )
    assert page.count("data:image/png;base64,") == 5
    assert "<b>" not in page and "&lt;z&gt;" in page and "careful" in page
    for reference in ("http://", "https://", "<script", 'src="/'):
        assert reference not in page


def test_methods_that_did_nothing_or_broke_the_model_are_marked():
    def row(method, forget, test):
        gaps = {"forget_accuracy_gap": forget, "test_accuracy_gap": test}
        return {"method": method, "forget_accuracy": forget, "test_accuracy": 0.9 + test, **gaps}

    summary = [
        row("oracle", 0.0, 0.0),
        row("original", 0.5, 0.0),
        row("idle", 0.4, 0.0),
        row("near", 0.39, -0.1),
        row("broken", 0.5, -0.11),
        row("beyond", -0.5, 0.2),
    ]
    assert table.verdicts(summary, KIND) == {"idle": "did not forget", "broken": "collapsed"}
    names = dict([table.columns(summary, KIND)[0]])["method"]
    assert names[2] == "idle (did not forget)" and names[4] == "broken (collapsed)"
    # What the original lacks itself is not lost, and the original is not judged.
    weak = [row("oracle", 0, 0), row("original", 0.3, -0.2), row("idle", 0.3, -0.2)]
    weak += [row("worse", 0.3, -0.31), row("better", 0.1, -0.2)]
    assert table.verdicts(weak, KIND) == {"idle": "did not forget", "worse": "collapsed"}
    # Where the original is at the oracle's level there is nothing to forget; nor without one.
    assert not table.verdicts(
        [row("oracle", 0, 0), row("original", 0.05, 0), row("idle", 0.05, 0)], KIND
    )
    assert not table.verdicts([row("oracle", 0, 0), row("idle", 0.5, 0)], KIND)


def test_verdicts_of_errors_have_the_other_sign():
    def row(method, forget, test):
        return {"method": method, "forget_error_gap": forget, "test_error_gap": test}

    errors = table.Columns(forgotten=("forget_error",), collapsed={"test_error": 0.2})
    summary = [row("original", -0.5, 0.0), row("idle", -0.4, 0.2), row("broken", -0.2, 0.21)]
    assert table.verdicts(summary, errors) == {"idle": "did not forget", "broken": "collapsed"}


def test_costs_have_a_table_of_their_own():
    rows = [{**row, "flops": 2e9, "peak_bytes": 3e3, "memory_bytes": 10.0} for row in ROWS]
    summary = table.summarise_rows(rows, KIND)
    main, costs = dict(table.columns(summary, KIND)), dict(table.cost_columns(summary))
    assert "FLOPs" not in main and main["time"][1] == "1 s (0.2x)" == costs["time"][1]
    assert costs["FLOPs"][1] == "2 GFLOP (1x)" and costs["memory"][0] == "3 kB (1x)"
    assert dict(table.columns(summary, KIND, ["flops"]))["flops"] == costs["FLOPs"]
    assert costs["kept"] == ["10 B", "10 B"] and "compiling" not in costs


def test_a_column_is_printed_in_its_unit_with_its_gap_unless_it_is_plain():
    row = {"method": "ssd", "test_accuracy": 0.25, "test_accuracy_gap": -0.5, "mia": float("nan")}
    row |= {"forget_accuracy": 0.25, "forget_accuracy_gap": -0.5, "average_gap_gap": 0.1}
    row |= {"average_gap": 0.125, "gap: class:3": 0.25, "gap: class:3_gap": 0.25}
    # Where no method has a number for it, a column is left out; of one alone it is a dash.
    assert "MIA %" not in dict(table.columns([row], KIND))
    shown = {k: v[:1] for k, v in table.columns([row, {**row, "mia": 0.5}], KIND)}
    assert shown["forget %"] == ["25.0 (-50.0)"] and shown["MIA %"] == ["–"]
    assert shown["test_accuracy"] == ["0.25 (-0.50)"]  # without a unit of its own
    assert shown["average_gap"] == ["0.12"] and "retain_accuracy" not in shown
    assert table.cell(row, "gap: class:3", KIND, gap=False) == "25.0"


def test_marks_are_explained_where_a_modality_has_them():
    meant = table.marks_mean(KIND)
    assert list(meant) == ["*", "(did not forget)", "(collapsed)"]
    assert "forget_accuracy or average_gap spreads by more than 0.05" in meant["*"]
    assert meant["(did not forget)"].startswith("forget_accuracy is still")
    assert meant["(collapsed)"].startswith("test_accuracy is more than 0.1 below both")
    above = table.marks_mean(table.Columns(collapsed={"test_error": 0.2}))
    assert list(above) == ["(collapsed)"] and "more than 0.2 above" in above["(collapsed)"]
