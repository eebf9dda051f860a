"""Decoders of `transformers` in PyTorch, with our weights, trained and asked as its users do.

Optional: torch and transformers.
"""

import copy
import tempfile
from collections.abc import Mapping

import jax
import numpy as np

from experiments.benchmarks import torch_models
from experiments.benchmarks.torch_reference import Call, waited_for
from unlearnjax import models, pretrained
from unlearnjax.types import PyTree

try:
    import torch
    import transformers
    from torch.nn import functional as F
except ImportError:  # the references are then left out
    torch = transformers = None


def available() -> bool:
    """Whether both libraries are there."""
    return transformers is not None and torch_models.available()


def network(config: models.DecoderConfig, params: PyTree) -> "torch.nn.Module":
    """The same decoder on the device, in evaluation mode, read from a folder as a published one."""
    with tempfile.TemporaryDirectory() as folder:
        pretrained.decoder.save(folder, params, config)
        read = transformers.AutoModelForCausalLM.from_pretrained
        return read(folder, dtype=torch.float32).to(torch_models.device()).eval()


@waited_for
def training_step(net: "torch.nn.Module", batch: Mapping[str, jax.Array], rate: float) -> Call:
    """One step of Adam on the mean negative log-likelihood of all tokens of a batch."""
    student = copy.deepcopy(net).train()
    optimizer = torch.optim.Adam(student.parameters(), rate)
    inputs, targets = (tokens(batch[name]) for name in ("inputs", "targets"))

    def call():
        logits = student(inputs, use_cache=False).logits
        loss = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return call


@waited_for
def greedy(net: "torch.nn.Module", prompts: jax.Array, num_tokens: int) -> Call:
    """`num_tokens` after prompts `[B, P]` of one length, by `generate` with its cache."""
    given = tokens(prompts)
    options = {"do_sample": False, "max_new_tokens": num_tokens, "min_new_tokens": num_tokens}

    def call():
        with torch.no_grad():
            found = net.generate(given, attention_mask=torch.ones_like(given), **options)
        return found[:, given.shape[1] :]

    return call


def tokens(array: jax.Array) -> "torch.Tensor":
    """Whole numbers on the device."""
    return torch.from_numpy(np.array(array)).long().to(torch_models.device())
