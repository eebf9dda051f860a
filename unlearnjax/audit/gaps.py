"""One number per row: how far from the oracle over several audits at once."""

from collections.abc import Mapping, Sequence

AVG_GAP = ("forget_accuracy", "retain_accuracy", "test_accuracy", "mia_efficacy")


def average_gap(
    row: Mapping[str, float], oracle: Mapping[str, float], names: Sequence[str] = AVG_GAP
) -> float:
    """Mean absolute difference to the oracle over unlearning, retain and test accuracy and MIA.

    Or over other columns, `names`, where one of these has no meaning.

    Needs: an oracle, better several, whose mean is compared with. In [0, 1], larger is worse; NaN
    where one of the values is. Value of a perfect unlearner: 0 in the mean of many oracles; null
    value: the gap of one oracle to that mean. (A difference in forget accuracy is one in unlearning
    accuracy.)

    References:
      Fan et al., "SalUn", ICLR 2024, section 5 ("Avg. Gap").

    Examples:
      >>> oracle = dict(forget_accuracy=0.0, retain_accuracy=1.0, test_accuracy=0.99)
      >>> oracle["mia_efficacy"] = 1.0
      >>> unlearned = oracle | dict(forget_accuracy=0.04, test_accuracy=0.97)
      >>> round(average_gap(unlearned, oracle), 3)
      0.015
    """
    return sum(_difference(row, oracle, name) for name in names) / len(names)


def tug_of_war(
    row: Mapping[str, float], oracle: Mapping[str, float], forget: str = "forget_accuracy"
) -> float:
    """ToW: product of `1 - |difference to the oracle|` over forget, retain and test accuracy.

    Needs: as `average_gap`. In [0, 1], smaller is worse. Value of a perfect unlearner: 1 in the
    mean of many oracles; null value: that of one oracle. With `forget='mia_efficacy'` it is
    ToW-MIA.

    References:
      Zhao et al., "What makes unlearning hard and what to do about it", NeurIPS 2024.

    Examples:
      >>> oracle = dict(forget_accuracy=0.0, retain_accuracy=1.0, test_accuracy=0.99)
      >>> round(tug_of_war(oracle, oracle), 3)
      1.0
      >>> round(tug_of_war(oracle | dict(forget_accuracy=1.0), oracle), 3)  # forgot nothing
      0.0
    """
    result = 1.0
    for name in (forget, "retain_accuracy", "test_accuracy"):
        result *= 1 - _difference(row, oracle, name)
    return result


def nomus(test_accuracy: float, mia_accuracy: float) -> float:
    """NoMUS: half the test accuracy, half how near a membership attack is to chance.

    `0.5 TA + 0.5 (1 - 2 |MIA - 0.5|)`, in [0, 1], larger is better. Needs: what the attack does.
    Value of a perfect unlearner, and null value: the oracle's.

    References:
      Choi and Na, "Towards Machine Unlearning Benchmarks", 2023 (arXiv 2311.02240).

    Examples:
      >>> nomus(test_accuracy=0.9, mia_accuracy=0.5)
      0.95
    """
    return 0.5 * test_accuracy + 0.5 * (1 - 2 * abs(mia_accuracy - 0.5))


def _difference(row: Mapping[str, float], oracle: Mapping[str, float], name: str) -> float:
    return abs(float(row[name]) - float(oracle[name]))
