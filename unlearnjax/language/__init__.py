"""Language: tokens and text."""

from unlearnjax.language import tokens
from unlearnjax.language.tokens import Tokenizer

__all__ = ["Tokenizer", "tokens"]
