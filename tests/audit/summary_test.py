import ml_dtypes
import numpy as np
import pytest

from unlearnjax import audit
from unlearnjax.audit.summary import set_means


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


def rows_of(rng, methods):
    rows, probs = [], []
    for i, method in enumerate(methods):
        names = ("forget", "retain", "test", "unseen")
        rows.append({"method": method, **{f"{n}_accuracy": rng.uniform() for n in names}})
        rows[-1]["mia_efficacy"], rows[-1]["relearn_steps"] = rng.uniform(), 3 + i
        probs.append(rng.dirichlet(np.ones(3), 20))
    return rows, probs


def test_rows_are_compared_with_the_oracles_others_of_an_oracle(rng):
    rows, probs = rows_of(rng, ["oracle", "finetune", "oracle", "oracle"])
    novice = rng.dirichlet(np.ones(3), 20)
    compared = audit.against_oracles(rows, probs, novice)
    for i, others in ((0, (2, 3)), (1, (0, 2, 3)), (3, (0, 2))):
        distances = [audit.activation_distance(probs[i], probs[j]) for j in others]
        assert compared[i]["activation_distance"] == pytest.approx(np.mean(distances))
        divergences = [audit.jensen_shannon(probs[i], probs[j]) for j in others]
        assert compared[i]["jensen_shannon"] == pytest.approx(np.mean(divergences))
        assert compared[i]["zrf"] == audit.zero_retrain_forgetting(probs[i], novice)
    mean = {k: np.mean([rows[i][k] for i in (0, 2, 3)]) for k in rows[0] if k != "method"}
    assert compared[1]["average_gap"] == pytest.approx(audit.average_gap(rows[1], mean))
    assert compared[1]["tug_of_war"] == pytest.approx(audit.tug_of_war(rows[1], mean))
    gaps = [abs(rows[1][n] - mean[n]) for n in ("unseen_accuracy", "test_accuracy")]
    assert compared[1]["corrective_gap"] == pytest.approx(sum(gaps) / 2)
    assert compared[1]["anamnesis"] == pytest.approx(4 / np.mean([3, 5, 6]))
    assert (
        "anamnesis"
        not in audit.against_oracles(
            [{k: v for k, v in row.items() if k != "relearn_steps"} for row in rows], probs, novice
        )[0]
    )


def test_a_diverged_model_leaves_its_own_distances_open(rng):
    rows, probs = rows_of(rng, ["oracle", "oracle", "ascent"])
    probs[2][5, 1] = np.nan
    novice = np.full((20, 3), 1 / 3)
    compared = audit.against_oracles(rows, probs, novice)
    columns = ("activation_distance", "jensen_shannon", "zrf")
    assert all(np.isnan(compared[2][name]) for name in columns)
    assert all(np.isfinite(compared[i][name]) for i in (0, 1) for name in columns)
    alone = audit.against_oracles([rows[0], rows[2]], [probs[0], probs[1]], novice)
    assert np.isnan(alone[0]["jensen_shannon"]) and np.isfinite(alone[1]["jensen_shannon"])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, bool])
def test_means_are_not_of_the_outputs_type(dtype):
    """A sum of ones stops at 256 in bfloat16."""
    ones = {"accuracy": np.ones(1000, dtype), "loss": np.ones(1000, dtype)}
    row = set_means({"forget": ones, "retain": {k: v[:0] for k, v in ones.items()}}, ones)
    assert row["forget_accuracy"] == row["forget_loss"] == 1
    assert np.isnan(row["retain_loss"]) and len(row) == 4


def test_sets_of_two_are_enough_for_the_attacks(rng):
    sets = {}
    for name in ("forget", "retain", "test", "unseen"):
        loss = rng.exponential(size=2)
        sets[name] = {"accuracy": np.ones(2), "loss": loss, "confidence": np.exp(-loss)}
    row = audit.summarise(sets)
    assert np.isfinite([row["mia"], row["mia_auc"], row["mia_efficacy"], row["nomus"]]).all()
    for name, lost in (("retain", "mia_efficacy"), ("forget", "mia"), ("unseen", "mia_auc")):
        one = {k: v[:1] for k, v in sets[name].items()}
        assert np.isnan(audit.summarise({**sets, name: one})[lost])
