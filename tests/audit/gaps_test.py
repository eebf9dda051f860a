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
    assert audit.tug_of_war(ROW, ORACLE) == pytest.approx(0.8 * 0.9 * 1.0)
    assert audit.tug_of_war(ROW, ORACLE, "mia_efficacy") == pytest.approx(0.6 * 0.9 * 1.0)
    assert audit.average_gap(ORACLE, ORACLE) == 0 and audit.tug_of_war(ORACLE, ORACLE) == 1


def test_nomus_is_best_at_chance_whichever_way_the_attack_leans():
    assert audit.nomus(0.9, 0.5) == pytest.approx(0.95)
    assert audit.nomus(0.9, 0.7) == audit.nomus(0.9, 0.3) == pytest.approx(0.75)
    assert audit.nomus(0.0, 1.0) == 0 and audit.nomus(1.0, 0.5) == 1
