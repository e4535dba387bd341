"""The ceiling: a child process that runs llama.cpp in a plain batch loop, without any server around it.

Run as `python -m vllama.bench.ceiling`; speaks JSON lines on stdin and stdout. First line in:
{"model", "n_ctx", "n_seq", "n_threads"}; the answer is {"ready": true, "version": ...}. Then
{"prompts": [...], "n_out": N}: all prompts are decoded as one static batch, greedily, N tokens each, and the answer
holds for each its text, its prompt length, the place of the first end-of-generation token (-1: none), and the times
in ns (machine-wide monotonic clock) at which each token was sampled. With "screen": true the answer
says only how near each came to ending early. {"prompt", "text"} judges an answer: for each
of its tokens, how far its logit lies below the best one. {"count": [texts]} counts the tokens of
each. End of input ends the process.

Nobody can be faster with the same library: it keeps no cache, waits for nobody and checks nothing. It is what the
servers are measured against as a bound, not as a competitor.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import llama_cpp
import numpy as np

N_BATCH = 2048


class Ceiling:
    """One model, one context, one batch. Not reentrant."""

    def __init__(self, path: str, n_ctx: int, n_seq: int, n_threads: int) -> None:
        llama_cpp.llama_backend_init()
        model_params = llama_cpp.llama_model_default_params()
        self._model = llama_cpp.llama_model_load_from_file(path.encode(), model_params)
        if not self._model:
            raise RuntimeError(f"cannot load {path}")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = n_ctx * n_seq
        params.n_seq_max = n_seq
        params.n_batch = N_BATCH
        params.n_threads = params.n_threads_batch = n_threads
        params.kv_unified = False
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        if not self._context:
            raise RuntimeError("cannot create a context")
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self._batch = llama_cpp.llama_batch_init(N_BATCH, 0, 1)
        self._greedy = llama_cpp.llama_sampler_init_greedy()
        self._size = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self._watch: Callable[[int, int], None] | None = None
        self._ends = [t for t in range(self._size) if llama_cpp.llama_vocab_is_eog(self._vocab, t)]

    def generate(self, prompts: list[str], n_out: int) -> list[dict[str, Any]]:
        """See the module's docstring."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
        encoded = [self._tokenize(prompt) for prompt in prompts]
        began = time.monotonic_ns()
        outputs: list[list[int]] = [[] for _ in prompts]
        times: list[list[int]] = [[] for _ in prompts]
        rows: list[tuple[int, int, int, bool]] = []
        for seq, tokens in enumerate(encoded):
            last = len(tokens) - 1
            rows += [(token, place, seq, place == last) for place, token in enumerate(tokens)]
        for start in range(0, len(rows), N_BATCH):
            self._step(rows[start : start + N_BATCH], outputs, times)
        for step in range(n_out - 1):
            self._step(
                [(out[-1], len(encoded[seq]) + step, seq, True) for seq, out in enumerate(outputs)], outputs, times
            )
        return [
            {
                "began": began,
                "n_prompt": len(tokens),
                "pieces": self._pieces(out),
                "times": stamps,
                "eog": next((i for i, t in enumerate(out) if llama_cpp.llama_vocab_is_eog(self._vocab, t)), -1),
            }
            for tokens, out, stamps in zip(encoded, outputs, times, strict=True)
        ]

    def gaps(self, prompt: str, text: str) -> list[float]:
        """Feed prompt and answer at once; for each token of the answer, best logit - its own logit at that place."""
        head = self._tokenize(prompt)
        tokens = self._tokenize(prompt + text)
        if tokens[: len(head)] != head or len(tokens) > N_BATCH:
            return []  # the border merged into another token: this answer cannot be judged
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
        rows = [(token, place, 0, place >= len(head) - 1) for place, token in enumerate(tokens)]
        self._decode(rows)
        gaps = []
        for place in range(len(head), len(tokens)):
            logits = self._logits(place - 1)
            gaps.append(round(float(logits.max() - logits[tokens[place]]), 4))
        return gaps

    def count(self, text: str) -> int:
        """Tokens of a text, without any that the model wants in front of it."""
        return len(self._tokenize(text, begin=False)) if text else 0

    def _logits(self, row: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self._context, row), (self._size,))

    def end_margins(self, prompts: list[str], n_out: int) -> list[float]:
        """Like `generate`; for each prompt, how near its answer came to ending: the least of best logit - best logit of
        any end-of-generation token. 0 or less: it ended."""
        margins = [float("inf")] * len(prompts)

        def watch(row: int, seq: int) -> None:
            logits = self._logits(row)
            ends = float(logits[self._ends].max())
            logits[self._ends] = -np.inf  # go on after an end, to leave the batch as it is
            margins[seq] = min(margins[seq], float(logits.max()) - ends)

        self._watch = watch
        try:
            self.generate(prompts, n_out)
        finally:
            self._watch = None
        return margins

    def _step(self, rows: list[tuple[int, int, int, bool]], outputs: list[list[int]], times: list[list[int]]) -> None:
        self._decode(rows)
        for i, (_, _, seq, wants) in enumerate(rows):
            if wants:
                if self._watch is not None:
                    self._watch(i, seq)
                outputs[seq].append(llama_cpp.llama_sampler_sample(self._greedy, self._context, i))
                times[seq].append(time.monotonic_ns())

    def _decode(self, rows: list[tuple[int, int, int, bool]]) -> None:
        batch = self._batch
        for i, (token, position, seq, wants) in enumerate(rows):
            batch.token[i] = token
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = seq
            batch.logits[i] = wants
        batch.n_tokens = len(rows)
        if code := llama_cpp.llama_decode(self._context, batch):
            raise RuntimeError(f"llama_decode returned {code}")

    def _tokenize(self, text: str, *, begin: bool = True) -> list[int]:
        raw = text.encode()
        buffer = (llama_cpp.llama_token * (len(raw) + 8))()
        n = llama_cpp.llama_tokenize(self._vocab, raw, len(raw), buffer, len(buffer), begin, True)
        if n <= 0:
            raise RuntimeError("cannot tokenise the prompt")
        return list(buffer[:n])

    def _pieces(self, tokens: list[int]) -> list[str]:
        """The text that each token completes: whole characters only, so that joining them gives the text."""
        buffer = ctypes.create_string_buffer(512)
        pieces, held = [], b""
        for token in tokens:
            n = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, False)
            held += buffer.raw[: max(0, n)]
            try:
                pieces.append(held.decode())
                held = b""
            except UnicodeDecodeError:
                pieces.append("")
        return pieces


def main() -> None:
    """The pipe protocol."""
    # llama.cpp prints to stdout and stderr as it likes; the answers keep a descriptor of their own.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(content: object) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    first = json.loads(sys.stdin.readline())
    ceiling = Ceiling(first["model"], first["n_ctx"], first["n_seq"], first["n_threads"])
    answer({"ready": True, "version": llama_cpp.__version__})
    for line in sys.stdin:
        request = json.loads(line)
        if request.get("screen"):
            answer(ceiling.end_margins(request["prompts"], request["n_out"]))
        elif "count" in request:
            answer([ceiling.count(text) for text in request["count"]])
        elif "text" in request:
            answer(ceiling.gaps(request["prompt"], request["text"]))
        else:
            answer(ceiling.generate(request["prompts"], request["n_out"]))


if __name__ == "__main__":
    main()
