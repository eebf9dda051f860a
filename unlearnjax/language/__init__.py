"""Language: how a model continues prompts."""

from unlearnjax.language.decoding import CACHE, Step, decode

__all__ = ["CACHE", "Step", "decode"]
