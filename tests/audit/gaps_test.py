import numpy as np
import pytest

from unlearnjax import audit

ORACLE = {
    "forget_accuracy": 0.1,
    "retain_accuracy": 1.0,
    "test_accuracy": 0.9,
    "mia_efficacy": 0.8,
}
ROW = {"forget_accuracy": 0.3, "retain_accuracy": 0.9, "test_accuracy": 0.9, "mia_efficacy": 0.4}


def test_gap_and_tug_of_war_by_hand_and_perfect_for_the_oracle():
    assert audit.average_gap(ROW, ORACLE) == pytest.approx((0.2 + 0.1 + 0.0 + 0.4) / 4)
    two = ("forget_accuracy", "mia_efficacy")
    assert audit.average_gap(ROW, ORACLE, two) == pytest.approx((0.2 + 0.4) / 2)
    assert audit.tug_of_war(ROW, ORACLE) == pytest.approx(0.8 * 0.9 * 1.0)
    assert audit.tug_of_war(ROW, ORACLE, "mia_efficacy") == pytest.approx(0.6 * 0.9 * 1.0)
    assert audit.average_gap(ORACLE, ORACLE) == 0 and audit.tug_of_war(ORACLE, ORACLE) == 1


def test_nomus_is_best_at_chance_whichever_way_the_attack_leans():
    assert audit.nomus(0.9, 0.5) == pytest.approx(0.95)
    assert audit.nomus(0.9, 0.7) == audit.nomus(0.9, 0.3) == pytest.approx(0.75)
    assert audit.nomus(0.0, 1.0) == 0 and audit.nomus(1.0, 0.5) == 1


def test_gaps_of_half_precision_are_those_of_the_numbers():
    halves = [{k: np.float16(v) for k, v in row.items()} for row in (ROW, ORACLE)]
    wide = [{k: float(v) for k, v in row.items()} for row in halves]
    assert audit.average_gap(*halves) == audit.average_gap(*wide)
    assert audit.tug_of_war(*halves) == audit.tug_of_war(*wide)
    assert isinstance(audit.average_gap(*halves), float)
    unknown = {**ROW, "mia_efficacy": float("nan")}
    assert np.isnan(audit.average_gap(unknown, ORACLE))
    assert audit.tug_of_war(unknown, ORACLE) == pytest.approx(0.8 * 0.9)
