import numpy as np
import pytest

from unlearnjax import audit


def test_summary_rows_hold_means_and_the_attack_and_survive_small_sets(rng):
    def outputs(n):
        loss = rng.exponential(size=n)
        return {"accuracy": np.arange(n) % 2, "loss": loss, "confidence": np.exp(-loss)}

    sets = {name: outputs(n) for name, n in (("forget", 40), ("retain", 60), ("unseen", 30))}
    sets["test"] = outputs(50)
    row = audit.summarise(sets)
    assert row["forget_accuracy"] == 0.5
    assert row["retain_loss"] == pytest.approx(sets["retain"]["loss"].mean())
    attack = audit.membership_inference(sets["forget"]["loss"], sets["unseen"]["loss"])
    confidences = [sets[name]["confidence"] for name in ("retain", "test", "forget")]
    assert row["mia_efficacy"] == audit.membership_efficacy(*confidences)
    assert (row["mia"], row["mia_auc"]) == (attack["accuracy"], attack["auc"])
    assert np.isnan(audit.summarise({**sets, "unseen": outputs(1)})["mia"])
    sets["unseen"]["loss"][0] = np.inf
    assert np.isnan(audit.summarise(sets)["mia"])


def test_an_independent_oracle_is_perfect_against_oracles_within_their_spread(rng):
    """The null test: 'unlearned' is one more oracle."""
    rows, probs = [], []
    for method, seed in [("oracle", 0), ("oracle", 1), ("oracle", 2), ("ssd", 0), ("bad", 0)]:
        noise = 0.01 * rng.normal(size=4)
        names = ("forget_accuracy", "retain_accuracy", "test_accuracy", "mia_efficacy")
        base = [0.1, 0.9, 0.8, 0.5] if method != "bad" else [0.9, 0.9, 0.8, 0.1]
        rows.append({"method": method, "seed": seed, **dict(zip(names, base + noise, strict=True))})
        rows[-1]["unseen_accuracy"] = base[0] + noise[0]
        certain = np.eye(3)[np.full(20, 2 if method == "bad" else 1)]
        probs.append(0.9 * certain + 0.1 * rng.dirichlet(np.ones(3), 20))
    compared = audit.against_oracles(rows, probs, np.full((20, 3), 1 / 3))
    assert compared[3]["corrective_gap"] < 0.03 < 0.3 < compared[4]["corrective_gap"]
    oracles, null, bad = compared[:3], compared[3], compared[4]
    for name in ("average_gap", "activation_distance", "jensen_shannon"):
        spread = max(row[name] for row in oracles)
        assert null[name] < 3 * spread < bad[name], name
    assert null["tug_of_war"] > 0.9 > bad["tug_of_war"]
    assert 0 < null["zrf"] < 1
