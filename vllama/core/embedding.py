"""Embedding: what Ollama's options mean for the length of an input, and vectors with fewer dimensions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllama.core.options import MIN_NUM_CTX
from vllama.core.requests import EmbedRequest
from vllama.engines.base import Embedding, Vectors

UNSUPPORTED = "This server does not support embeddings. Start it with `--embeddings`"
"""Ollama's text for a model that generates."""

NO_LIMIT = 2**31 - 1


def embedding_of(request: EmbedRequest, model_params: Mapping[str, Any], num_ctx: int) -> Embedding:
    """What the engine is asked for. `num_ctx` is the context in tokens that the request runs with.

    Ollama cuts an input to the num_ctx that was asked for, even where its context is larger: there is no context
    of less than four tokens. A num_ctx of 0 and less cuts nothing, but what is longer than the least context fails.
    """
    asked = request.options.get("num_ctx")
    if asked is None:
        asked = model_params.get("num_ctx")
    if request.legacy:
        return Embedding(request.inputs, num_ctx=num_ctx, truncate=False)
    truncate = request.truncate is not False
    if asked is None:
        return Embedding(request.inputs, num_ctx=num_ctx, truncate=truncate)
    if int(asked) <= 0:
        return Embedding(request.inputs, num_ctx=NO_LIMIT, truncate=truncate, limit=MIN_NUM_CTX)
    return Embedding(request.inputs, num_ctx=min(int(asked), NO_LIMIT), truncate=truncate)


def shorten(vectors: Vectors, dimensions: int) -> Vectors:
    """The first `dimensions` numbers of each vector, normalised again."""
    if not 0 < dimensions < vectors.width:
        return vectors
    import numpy as np

    rows = np.frombuffer(vectors.data, "<f4").reshape(-1, vectors.width)[:, :dimensions]
    lengths = np.sqrt(np.sum(rows * rows, axis=1, keepdims=True))
    short = (rows / np.maximum(lengths, np.float32(1e-12))).astype("<f4")
    return Vectors(short.tobytes(), dimensions, vectors.prompt_tokens)
