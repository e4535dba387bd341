"""The answer of POST /v1/embeddings as `Vectors`."""

from __future__ import annotations

import base64
import binascii
import math
from array import array
from typing import Any

from vllama.engines.base import Vectors
from vllama.errors import ServerError


def packed(reply: Any, count: int) -> Vectors:
    """Vectors in the order of their inputs, normalised once more (some servers do not). Raises `ServerError`."""
    try:
        rows = sorted(reply["data"], key=lambda row: row["index"])
        vectors = [_normalised(row["embedding"]) for row in rows]
        tokens = int((reply.get("usage") or {}).get("prompt_tokens") or 0)
    except (KeyError, TypeError, ValueError, AttributeError, binascii.Error) as error:
        raise ServerError(f"the model server sent no embeddings: {error}") from None
    if len(vectors) != count or len({len(vector) for vector in vectors}) > 1:
        raise ServerError(f"the model server sent {len(vectors)} embeddings for {count} inputs")
    return Vectors(b"".join(vector.tobytes() for vector in vectors), len(vectors[0]) if vectors else 0, tokens)


def _normalised(found: Any) -> array[float]:
    """A little-endian float32 vector of length 1 from base64 or a list of numbers."""
    vector = array("f")
    if isinstance(found, str):
        vector.frombytes(base64.b64decode(found, validate=True))
    else:
        vector.extend(found)
    length = math.sqrt(math.fsum(value * value for value in vector))
    if length > 0 and abs(length - 1) > 1e-6:
        vector = array("f", (value / length for value in vector))
    return vector
