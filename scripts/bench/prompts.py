"""Prompts of exact lengths: random words that are one token each, so that a prompt of N words has N tokens.

No two prompts begin alike (unless asked to), so that no cache of prefixes helps anybody. The same seed gives
the same prompts.
"""

import random
from pathlib import Path

from tokenizers import Tokenizer


class Prompts:
    """Makes prompts for one model."""

    def __init__(self, model: Path, seed: int = 1) -> None:
        self._tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        self._random = random.Random(seed)
        # In the vocabulary of byte-level tokenizers a leading space is written as this letter.
        self._words = sorted(
            token.removeprefix("\u0120")
            for token in self._tokenizer.get_vocab()
            if token.startswith("\u0120") and token[1:].isascii() and token[1:].isalpha() and len(token) > 3
        )

    def make(self, tokens: int, begins_with: str = "") -> dict:
        """A text with its tokens, as `{"text": …, "token_ids": […]}`."""
        missing = tokens - len(self._encode(begins_with))
        text = begins_with + "".join(" " + self._random.choice(self._words) for _ in range(missing))
        token_ids = self._encode(text)
        if len(token_ids) != tokens:
            raise ValueError(f"a prompt of {tokens} words has {len(token_ids)} tokens with this tokenizer")
        return {"text": text, "token_ids": token_ids}

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text).ids if text else []
