"""The only code that touches ctypes and llama_cpp. Imported in the worker process, never in the gateway.

`Model` (weights and vocabulary), `Context` (KV memory, decode), `EmbeddingContext`, `Chain` (sampler) and `Grammar` own
C objects and free them in `close()`. Nothing here knows requests or frames. Sizes are tokens unless a docstring says
bytes.
"""

from vllama.engines.llama.bindings.candidates import largest
from vllama.engines.llama.bindings.chain import Chain, top_logprobs
from vllama.engines.llama.bindings.context import Context, Outcome
from vllama.engines.llama.bindings.grammar import Grammar
from vllama.engines.llama.bindings.library import (
    LoadError,
    Log,
    die_with_parent,
    free_device_memory,
    lib,
    offloads,
)
from vllama.engines.llama.bindings.model import Model
from vllama.engines.llama.bindings.pooling import EmbeddingContext

__all__ = [
    "Chain",
    "Context",
    "EmbeddingContext",
    "Grammar",
    "LoadError",
    "Log",
    "Model",
    "Outcome",
    "die_with_parent",
    "free_device_memory",
    "largest",
    "lib",
    "offloads",
    "top_logprobs",
]
