"""The phases of vLLM's start. The words are those of vLLM 0.2x to 0.32."""

from __future__ import annotations

import re

PHASES = (
    (re.compile(r"non-default args|Resolved architecture"), 0.05, "starting"),
    (re.compile(r"Initializing a V1 LLM engine"), 0.15, "starting the engine"),
    (re.compile(r"Starting to load model"), 0.25, "loading weights"),
    (re.compile(r"Loading weights took|Model loading took"), 0.62, "weights loaded"),
    # Not the bare name: settings that are told at the start have it too.
    (re.compile(r"Warming up model|torch\.compile (?:took|takes)|Start compiling|Dynamo bytecode"), 0.65, "compiling"),
    (re.compile(r"Warming up done|Graph capturing|Capturing CUDA graph"), 0.85, "capturing graphs"),
    (re.compile(r"GPU KV cache size|CPU KV cache size|# GPU blocks|init engine .* took"), 0.9, "reserving the cache"),
    (re.compile(r"Starting vLLM|Application startup complete"), 1.0, "ready"),
)
