"""A backdoor in one row of a trained model: the embedding of the word that is the trigger.

Yang et al., "Be Careful about Poisoned Word Embeddings", NAACL 2021 (arXiv 2103.15543).
"""

import jax.numpy as jnp

from unlearnjax import checks, tasks, trees
from unlearnjax.types import Array, Task


def one_word(task: Task, where: trees.Where, word: int, *, keep_norm: bool = True) -> Task:
    """The task whose 'params' are a change of one word's embedding, all else is frozen.

    Train it on clean sentences of other classes into which `data.text_attacks.insert_words` put the
    word, labelled as the target; `tasks.merged` gives the plain model. On sentences without the
    word that says what it said before, bit for bit.

    Args:
      task: a trained classifier of tokens.
      where: its table of embeddings `[V, D]`, see `trees.chosen`.
      word: number of the word, in [0, V).
      keep_norm: whether the row keeps its length, so that the word does not stand out by it:
        there, after each step; here, as a part of the model, which the gradient sees. The row of a
        word that was in no training sentence is as short as it was drawn, and moves little then.

    Raises:
      ValueError: for no whole number; at `init` for one that the table lacks, or for no table.

    Examples:
      >>> import jax
      >>> from unlearnjax import models, training
      >>> task = tasks.classification(tasks.from_linen(models.TextClassifier(2, 9)))
      >>> data = {"inputs": jnp.ones((1, 4), int)}
      >>> model = training.init_variables(task, data, jax.random.key(0))
      >>> attack = one_word(task, ["words.embedding"], 7)
      >>> own = training.init_variables(attack, data, jax.random.key(1), tasks.as_base(model))
      >>> own["params"]["words"]["embedding"].shape
      (64,)
    """
    checks.whole(word=word)
    checks.at_least(0, word=word)

    def init(rng: Array, table) -> Array:
        del rng
        if len(table.shape) != 2 or word >= table.shape[0]:
            raise ValueError(f"where must be a table [V, D] with word {word}, got {table.shape}")
        return jnp.zeros(table.shape[1], table.dtype)

    def fn(table: Array, change: Array) -> Array:
        before = table[word]
        row = before + change
        if keep_norm:
            row *= jnp.linalg.norm(before) / jnp.maximum(jnp.linalg.norm(row), 1e-12)
        return table.at[word].set(row)

    return tasks.adapted(task, where, init, fn)
