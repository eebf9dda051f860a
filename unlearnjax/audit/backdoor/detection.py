"""Has a model a backdoor, and for which class?"""

import jax
import jax.numpy as jnp
import numpy as np

from unlearnjax import checks
from unlearnjax.audit import inputs
from unlearnjax.audit.backdoor.images import Predict, pixels
from unlearnjax.types import Array

# Published thresholds: the variance of class shares, the anomaly index, the p-value of margins.
SHARE_VARIANCE, ANOMALY_INDEX, MARGIN_P_VALUE = 0.01, 2.0, 0.05
_MAD = 1.4826  # makes the median absolute deviation of normal numbers their standard deviation


def class_shares(predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """`[C]`: which share of predicted classes `[N]` each one has.

    After clean unlearning the largest is taken for the label of the backdoor, and their variance
    above `SHARE_VARIANCE` for a sign of one (Li et al., arXiv 2410.19427, code). Null value: that
    of clean models after the same, which is not small.

    Raises:
      ValueError: for none, or what is no class.

    Examples:
      >>> class_shares(np.array([0, 2, 2, 2]), 3).tolist()
      [0.25, 0.0, 0.75]
    """
    found = _classes(num_classes, predictions=predictions)
    if not len(found):
        raise ValueError("predictions must be of at least one example, got none")
    return np.bincount(found, minlength=num_classes) / len(found)


def attack_success(predictions: np.ndarray, targets: np.ndarray, wanted: np.ndarray | int) -> float:
    """Share of triggered images that a model takes for the class that the attack wants.

    Images that are of this class are left out: they need no trigger. Null value: a clean model's
    error rate into that class.

    Args:
      predictions: `[N]` classes of images with the trigger.
      targets: `[N]` true classes.
      wanted: one class, or `[N]`.

    Raises:
      ValueError: for other shapes, or if no image is left.

    Examples:
      >>> attack_success(np.array([0, 0, 1, 0]), np.array([0, 1, 1, 2]), 0) == 2 / 3
      True
    """
    predictions, targets = np.asarray(predictions), np.asarray(targets)
    wanted = np.broadcast_to(np.asarray(wanted), targets.shape)
    if predictions.shape != targets.shape or targets.ndim != 1:
        raise ValueError(
            f"predictions and targets must be [N], got {predictions.shape}, {targets.shape}"
        )
    others = targets != wanted
    if not others.any():
        raise ValueError("targets must be of other classes than the wanted, too, got none")
    return float((predictions == wanted)[others].mean())


def anomaly_index(norms: np.ndarray) -> np.ndarray:
    """`[C]`: how far each class's number is from the median, in median absolute deviations.

    `|n - med| / (1.4826 * med |n - med|)`, of masks' norms as a rule. A class is flagged by Neural
    Cleanse if it is below the median and its index above `ANOMALY_INDEX`. Of an even number of
    classes the median is the mean of the middle two; PyTorch's, in published codes, is the lower.

    Raises:
      ValueError: for fewer than three classes, or if half of them or more are alike, so that no
        deviation is left to divide by.

    Examples:
      >>> anomaly_index(np.array([10, 11, 9, 10, 2.0])).round(3).tolist()
      [0.0, 0.674, 0.674, 0.0, 5.396]
    """
    (norms,) = inputs.scores(3, norms=norms)
    apart = np.abs(norms - np.median(norms))
    spread = _MAD * np.median(apart)
    if spread == 0:
        raise ValueError(
            f"norms must differ in more than half of the classes, got the deviations {apart}"
        )
    return apart / spread


def flagged(norms: np.ndarray, threshold: float = ANOMALY_INDEX) -> np.ndarray:
    """`[C]` bool: below the median, and `anomaly_index` above the threshold."""
    return (anomaly_index(norms) > threshold) & (norms < np.median(norms))


def max_margin(
    predict: Predict,
    shape: tuple[int, int, int],
    num_classes: int,
    rng: Array,
    *,
    num_images: int = 30,
    num_steps: int = 3000,
    learning_rate: float = 0.01,
    tolerance: float = 1e-5,
) -> Array:
    """`[C]`: the largest margin that an image of each class can have: MM-BD.

    From uniform noise in [0, 1], the sum over images of `f_t - max_{c != t} f_c` is ascended by
    plain gradient steps, images clipped to [0, 1] where they are looked at, until it changes by
    less than `tolerance` of itself. The published code names a momentum of 0.2, but makes its
    optimizer anew in every step, so that none acts. Data-free.

    Args:
      predict: see above.
      shape: `[H, W, C]` of an image.
      num_classes: of the model.
      rng: of the noise, the same for every class.
      num_images: starts of each class; the largest margin among them counts.
      num_steps, learning_rate, tolerance: of the ascent.

    Raises:
      ValueError: for a value out of range.

    References:
      Wang et al., "MM-BD: Post-Training Detection of Backdoor Attacks with Arbitrary Backdoor
      Pattern Types Using a Maximum Margin Statistic", S&P 2024 (arXiv 2205.06900).
    """
    checks.whole(num_images=num_images, num_steps=num_steps, num_classes=num_classes)
    checks.at_least(1, num_images=num_images, num_steps=num_steps)
    checks.at_least(2, num_classes=num_classes)
    checks.positive(learning_rate=learning_rate)
    checks.at_least(0, tolerance=tolerance)
    start = jax.random.uniform(rng, (num_images, *shape))

    def of_class(label):
        own = jnp.arange(num_classes) == label

        def margins(images):
            logits = predict(jnp.clip(images, 0, 1))
            return logits[:, label] - jnp.where(own, -jnp.inf, logits).max(-1)

        def step(state):
            images, before, _, count = state
            value, slopes = jax.value_and_grad(lambda x: margins(x).sum())(images)
            done = jnp.abs(value - before) < tolerance * jnp.abs(before)
            return images + learning_rate * slopes, value, done, count + 1

        going = lambda state: ~state[2] & (state[3] < num_steps)
        state = (start, jnp.asarray(-1000.0), jnp.asarray(False), 0)
        images, *_ = jax.lax.while_loop(going, step, state)
        return margins(images).max()

    return jax.lax.map(of_class, jnp.arange(num_classes))


def margin_p_value(margins: np.ndarray) -> float:
    """How likely the largest of `[C]` margins would be that large, were it like the others.

    A Gamma distribution F with location is fitted to the others; `1 - F(largest)^C`. MM-BD calls a
    model backdoored below `MARGIN_P_VALUE`, for the class of the largest margin. Null value: of ten
    normal margins, all alike, that is so 15 % of the time, since the largest was left out of the
    fit.

    Raises:
      ValueError: for fewer than four classes, or others to which nothing can be fitted, such as
        ones that are all equal.
    """
    from scipy import stats

    (margins,) = inputs.scores(4, margins=margins)
    others = np.delete(margins, margins.argmax())
    try:
        with np.errstate(all="ignore"):  # equal ones are divided by their deviation, 0
            shape, location, scale = stats.gamma.fit(others)
    except stats.FitError as error:
        raise ValueError(f"margins must differ, got {margins}") from error
    return float(1 - stats.gamma.cdf(margins.max(), shape, location, scale) ** len(margins))


def strip_entropy(
    predict: Predict, images: Array, clean: Array, rng: Array, *, num_overlays: int = 100
) -> Array:
    """`[N]`, nats: mean entropy of predictions for an image with clean ones laid over it: STRIP.

    An overlay is the sum of two images, clipped to [0, 1] (published: of bytes, saturated). Low
    where one class is predicted whatever lies over it, as a trigger makes it.

    Args:
      predict: see above.
      images: `[N, H, W, C]` to be judged.
      clean: `[M, H, W, C]`.
      rng: of which of them are laid over; the same for every image.
      num_overlays: drawn without repetition, at most M.

    Raises:
      ValueError: for images of another shape or outside of [0, 1], or fewer than 1 overlay.

    References:
      Gao et al., "STRIP: A Defence Against Trojan Attacks on Deep Neural Networks", ACSAC 2019.
    """
    checks.whole(num_overlays=num_overlays)
    checks.at_least(1, num_overlays=num_overlays)
    images, clean = pixels(images), pixels(clean)
    if not len(images) or not len(clean) or images.shape[1:] != clean.shape[1:]:
        raise ValueError(
            f"images and clean must be some images of one shape, got {images.shape}, {clean.shape}"
        )
    drawn = clean[jax.random.permutation(rng, len(clean))[:num_overlays]]

    def one(image):
        log_probs = jax.nn.log_softmax(predict(jnp.clip(image + drawn, 0, 1)))
        return -(jnp.exp(log_probs) * log_probs).sum(-1).mean()

    return jax.lax.map(one, images)


def _classes(num_classes: int, **arrays: np.ndarray) -> np.ndarray:
    """One array of class numbers, `[N]`."""
    checks.whole(num_classes=num_classes)
    ((name, given),) = arrays.items()
    given = np.asarray(given)
    if given.ndim != 1 or given.dtype.kind not in "iu":
        raise ValueError(f"{name} must be [N] class numbers, got {given.dtype} {given.shape}")
    if len(given) and not 0 <= given.min() <= given.max() < num_classes:
        raise ValueError(f"{name} must be classes 0 to {num_classes - 1}, got {np.unique(given)}")
    return given
