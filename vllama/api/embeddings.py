"""Vectors as JSON: Ollama's two shapes and OpenAI's."""

from __future__ import annotations

import asyncio
import base64
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from vllama.api.http import dumps

if TYPE_CHECKING:
    from vllama.core.replies import Embedded
    from vllama.engines.base import Vectors

LARGE = 256 << 10
"""Bytes of vectors whose JSON is written in a thread, so that it never stops all streams."""

T = TypeVar("T")


async def written(write: Callable[[Embedded, T], bytes], result: Embedded, extra: T) -> bytes:
    """`write(result, extra)`, off the event loop when that takes long: the first time, and for many vectors."""
    vectors = result.vectors
    if vectors is not None and ("numpy" not in sys.modules or len(vectors.data) > LARGE):
        return await asyncio.to_thread(write, result, extra)
    return write(result, extra)


def embed_json(result: Embedded, model: str) -> bytes:
    """The answer of /api/embed. Without an input it has no counters."""
    vectors = result.vectors
    if vectors is None:
        return b'{"model":%b,"embeddings":[]}' % dumps(model)
    return b'{"model":%b,"embeddings":%b,"total_duration":%d,"load_duration":%d,"prompt_eval_count":%d}' % (
        dumps(model),
        _numbers(_rows(vectors)),
        result.total_ns,
        max(1, result.load_ns),
        vectors.prompt_tokens,
    )


def embeddings_json(result: Embedded, model: str) -> bytes:
    """The answer of /api/embeddings: one vector, in numbers of 64 bits."""
    if result.vectors is None:
        return b'{"embedding":[]}'
    return b'{"embedding":%b}' % _numbers(_rows(result.vectors)[0].astype("f8"))


def openai_json(result: Embedded, extra: tuple[str, bool]) -> bytes:
    """The answer of /v1/embeddings; `extra` are the model's name and whether vectors are wanted as base64."""
    model, encoded = extra
    vectors = result.vectors
    assert vectors is not None, "the request has at least one input"
    rows = _rows(vectors)
    entries = [
        b'{"object":"embedding","embedding":%b,"index":%d}'
        % (b'"%b"' % base64.b64encode(row.tobytes()) if encoded else _numbers(row), index)
        for index, row in enumerate(rows)
    ]
    count = vectors.prompt_tokens
    return b'{"object":"list","data":[%b],"model":%b,"usage":{"prompt_tokens":%d,"total_tokens":%d}}\n' % (
        b",".join(entries),
        dumps(model),
        count,
        count,
    )


def _rows(vectors: Vectors) -> Any:
    import numpy as np

    return np.frombuffer(vectors.data, "<f4").reshape(-1, vectors.width)


def _numbers(values: Any) -> bytes:
    """The shortest decimals that mean the same, whole numbers without a point, as Go writes them."""
    text = orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)
    return text.replace(b".0,", b",").replace(b".0]", b"]")
