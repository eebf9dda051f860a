"""Language: tokens, and how a model continues prompts."""

from unlearnjax.language import tokens
from unlearnjax.language.decoding import CACHE, decode
from unlearnjax.language.tokens import Tokenizer

__all__ = ["CACHE", "Tokenizer", "decode", "tokens"]
