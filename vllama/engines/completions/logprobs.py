"""Log-probabilities of a completion as `Logprob`, with the tokens' bytes where the vocabulary is at hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from vllama.engines.base import Logprob

MARK = "token_id:"
"""What vLLM puts before an id where it was asked for ids instead of texts."""


class Vocabulary:
    """Token id to bytes, read from a tokenizer.json. `special` are the texts of control tokens."""

    def __init__(self, pieces: dict[int, bytes], special: dict[int, str]) -> None:
        self._pieces = pieces
        self.special = special

    @classmethod
    def read(cls, path: Path) -> Vocabulary:
        """Raises OSError and ValueError; unknown kinds of tokenizer give texts as they stand in the file."""
        found = orjson.loads(path.read_bytes())
        model = found.get("model") or {}
        vocab = model.get("vocab") or {}
        if isinstance(vocab, list):  # Unigram: [text, score]
            vocab = {text: number for number, (text, _) in enumerate(vocab)}
        read = _decoder(orjson.dumps([found.get("decoder"), found.get("pre_tokenizer")]))
        pieces = {number: read(text) for text, number in vocab.items()}
        special = {}
        for token in found.get("added_tokens") or ():
            pieces[token["id"]] = token["content"].encode()
            if token.get("special"):
                special[token["id"]] = token["content"]
        return cls(pieces, special)

    def logprob(self, token: str, value: float) -> Logprob:
        """One token as the server names it: by its id or its text."""
        if token.startswith(MARK) and token[len(MARK) :].isdigit():
            number = int(token[len(MARK) :])
            if number in self.special:
                return Logprob(self.special[number], value, None)
            raw = self._pieces.get(number, b"")
            return Logprob(raw.decode("utf-8", "replace"), value, raw)
        return Logprob(token, value, token.encode())


def logprobs_of(choice: dict[str, Any], top: int | None, words: Vocabulary | None) -> tuple[Logprob, ...]:
    """The log-probabilities of one piece, each with its `top` most likely alternatives, the likeliest first."""
    found = choice.get("logprobs")
    if top is None or not isinstance(found, dict):
        return ()
    words = words or _NOTHING
    rows = []
    others = found.get("top_logprobs") or ()
    values = found.get("token_logprobs") or ()
    for number, (token, value) in enumerate(zip(found.get("tokens") or (), values, strict=False)):
        alternatives = others[number] if number < len(others) and others[number] else {}
        # The server adds the chosen token where it is not among the most likely.
        best = sorted(alternatives.items(), key=lambda item: -item[1])[:top]
        chosen = words.logprob(token, value if value is not None else 0.0)
        rows.append(Logprob(chosen.token, chosen.logprob, chosen.raw, tuple(words.logprob(*one) for one in best)))
    return tuple(rows)


def _decoder(kinds: bytes) -> Callable[[str], bytes]:
    """How the texts in the file become bytes."""
    if b'"ByteLevel"' in kinds:
        table = _byte_level()

        def from_bytes(text: str) -> bytes:
            try:
                return bytes(table[letter] for letter in text)
            except KeyError:
                return text.encode()

        return from_bytes

    def from_pieces(text: str) -> bytes:
        if len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
            return bytes.fromhex(text[3:5])
        return text.replace("\u2581", " ").encode()

    return from_pieces


def _byte_level() -> dict[str, int]:
    """GPT-2's letters for bytes: printable ones stand for themselves, the others for letters from U+0100 on."""
    table, spare = {}, 0x100
    for byte in range(256):
        if 0x21 <= byte <= 0x7E or 0xA1 <= byte <= 0xAC or 0xAE <= byte <= 0xFF:
            table[chr(byte)] = byte
        else:
            table[chr(spare)] = byte
            spare += 1
    return table


_NOTHING = Vocabulary({}, {})
