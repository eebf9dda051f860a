"""One number per row: how far from the oracle over several audits at once."""

from collections.abc import Mapping

AVG_GAP = ("forget_accuracy", "retain_accuracy", "test_accuracy", "mia_efficacy")


def average_gap(row: Mapping[str, float], oracle: Mapping[str, float]) -> float:
    """Mean absolute difference to the oracle over unlearning, retain and test accuracy and MIA.

    In [0, 1]; 0 is ideal. (A difference in forget accuracy is one in unlearning accuracy.)

    References:
      Fan et al., "SalUn", ICLR 2024, section 5 ("Avg. Gap").

    Examples:
      >>> oracle = dict(forget_accuracy=0.0, retain_accuracy=1.0, test_accuracy=0.99)
      >>> oracle["mia_efficacy"] = 1.0
      >>> unlearned = oracle | dict(forget_accuracy=0.04, test_accuracy=0.97)
      >>> round(average_gap(unlearned, oracle), 3)
      0.015
    """
    return sum(abs(row[name] - oracle[name]) for name in AVG_GAP) / len(AVG_GAP)


def tug_of_war(
    row: Mapping[str, float], oracle: Mapping[str, float], forget: str = "forget_accuracy"
) -> float:
    """ToW: product of `1 - |difference to the oracle|` over forget, retain and test accuracy.

    In [0, 1]; 1 is ideal. With `forget='mia_efficacy'` it is ToW-MIA.

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
        result *= 1 - abs(row[name] - oracle[name])
    return result


def nomus(test_accuracy: float, mia_accuracy: float) -> float:
    """NoMUS: half the test accuracy, half how near a membership attack is to chance.

    `0.5 TA + 0.5 (1 - 2 |MIA - 0.5|)`, in [0, 1], larger is better; compare with the oracle's.

    References:
      Choi and Na, "Towards Machine Unlearning Benchmarks", 2023 (arXiv 2311.02240).

    Examples:
      >>> nomus(test_accuracy=0.9, mia_accuracy=0.5)
      0.95
    """
    return 0.5 * test_accuracy + 0.5 * (1 - 2 * abs(mia_accuracy - 0.5))
