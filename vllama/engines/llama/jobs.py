"""One request inside the worker: what belongs to it beside its sequence (sampler, text, counters)."""

from __future__ import annotations

import time
from typing import Any

from vllama.engines.fitting import TOO_LONG
from vllama.engines.llama.allowance import Allowance
from vllama.engines.llama.bindings import Chain, Context, Grammar, Model, top_logprobs
from vllama.engines.llama.bounds import check_grammar, clip
from vllama.engines.llama.frames import Detokenize, Submit, Tokenize
from vllama.engines.llama.preparation import BULK, GRAMMAR_S, INLINE
from vllama.engines.llama.prompt import RequestFault, fit
from vllama.engines.llama.sampling import penalty_window, shortlist, stages
from vllama.engines.llama.sequence import Sequence
from vllama.engines.llama.text import TextStream

CLIP = 64 << 10
"""Characters from which it is worth asking whether a prompt can fit at all."""

SLOWEST = 50_000
"""Characters that are tokenised in a second at the very least; for deadlines."""


def lane_of(submit: Submit) -> tuple[str, float | None]:
    """Where a job is made: "" for at once in the step loop, else the lane of `Preparation` and its deadline."""
    size = len(submit.prompt) if submit.prompt is not None else len(submit.tokens or ())
    if submit.gbnf is not None:
        return "grammar", GRAMMAR_S + size / SLOWEST
    if size > BULK:
        return "bulk", None
    # Penalties look at the tokens one by one.
    return "text" if size > INLINE or penalty_window(submit, submit.num_ctx) > INLINE else "", None


def tokenize(model: Model, frame: Tokenize) -> list[int]:
    """The ids that `Tokenize` asks for; with a limit, one more than that at most."""
    text = frame.text
    if frame.limit:
        # One more, or "longer than the limit" could not be told from "as long".
        reach = (frame.limit + 1) * model.longest() if len(text) > INLINE else 0
        text = text[:reach] if 0 < reach < len(text) else text
    tokens = model.tokenize(text, add_special=frame.add_special)
    return tokens[: frame.limit + 1] if frame.limit else tokens


def detokenize(model: Model, frame: Detokenize) -> str:
    """The text that `Detokenize` asks for. Raises `RequestFault` for ids outside the vocabulary."""
    for token in frame.tokens:
        if not 0 <= token < model.vocab_size:
            raise RequestFault("request", f"token id {token} is not in the vocabulary")
    return model.detokenize(frame.tokens)


class Job:
    """Owns C objects: `close()` on every way out."""

    __slots__ = (
        "_after",
        "_allowance",
        "_chain",
        "_control",
        "_grammar",
        "_held",
        "_limit",
        "_logprobs",
        "_model",
        "_recent",
        "_stream",
        "_top",
        "_want_ids",
        "admitted_ns",
        "cached",
        "first_ns",
        "id",
        "last_ns",
        "output",
        "output_ids",
        "prompt_ids",
        "prompt_tokens",
        "sequence",
        "truncated",
    )

    def __init__(self, model: Model, submit: Submit) -> None:
        tokens = submit.tokens
        if tokens is None:
            text = submit.prompt or ""
            if len(text) > CLIP:
                text = clip(
                    text,
                    num_ctx=submit.num_ctx,
                    longest=model.longest(),
                    truncate=submit.truncate,
                    too_long=TOO_LONG,
                )
            tokens = model.tokenize(text, add_special=True)
        elif any(not 0 <= token < model.vocab_size for token in tokens):
            wrong = next(token for token in tokens if not 0 <= token < model.vocab_size)
            raise RequestFault("request", f"token id {wrong} is not in the vocabulary (0 to {model.vocab_size - 1})")
        if not tokens:
            raise RequestFault("empty", "the prompt is empty")
        if submit.num_ctx < 2:
            raise RequestFault("request", f"num_ctx {submit.num_ctx} leaves no room for a prompt and a token")
        keep = submit.num_keep + (1 if model.adds_bos and submit.num_keep >= 0 else 0)
        fitted = fit(tokens, num_ctx=submit.num_ctx, num_keep=keep, truncate=submit.truncate)
        self.id = submit.id
        self.truncated = len(tokens) - len(fitted)
        self.prompt_tokens = len(fitted)
        self._want_ids = submit.want_ids
        self.prompt_ids = list(fitted) if submit.want_ids else []
        self.output_ids: list[int] = []
        self._limit = submit.num_predict if submit.num_predict > 0 else 10 * submit.num_ctx
        self._model = model
        self._stream = TextStream(submit.stop)
        self._control = model.control(submit.control) if submit.control else {}
        self._top = submit.top_logprobs
        self._logprobs: list[Any] = []
        self._held = 0
        self.output = 0
        self.cached = 0
        self.admitted_ns = 0
        self.first_ns = 0
        self.last_ns = 0
        self._after = submit.after or ""
        self._recent = ""
        self._grammar: Grammar | None = None
        self._allowance = Allowance()
        if submit.gbnf is not None:
            check_grammar(submit.gbnf)
            try:
                self._grammar = Grammar(model, submit.gbnf)
            except ValueError as error:
                raise RequestFault("request", str(error)) from None
        self._chain = Chain(model, stages(submit, submit.num_ctx), shortlist(submit, submit.num_ctx))
        window = penalty_window(submit, submit.num_ctx)
        if window:
            for token in fitted[-window:]:
                self._chain.accept(token)
        self.sequence = Sequence(
            submit.id,
            # The sequence grows its list; the request's own stays as it came.
            list(fitted),
            num_ctx=submit.num_ctx,
            num_keep=min(max(keep, 0), submit.num_ctx - 2) if keep >= 0 else len(fitted),
            shift=submit.shift,
            remaining=min(self._limit, submit.num_ctx),
        )

    def admit(self) -> tuple[int, int, int, int]:
        """It runs from now on: the entry for `Step.started`."""
        self.admitted_ns = time.monotonic_ns()
        self.cached = self.sequence.cached
        return self.id, self.prompt_tokens, self.cached, self.truncated

    def step(self, context: Context, index: int) -> tuple[int, str, str | None]:
        """Sample from batch row `index`: (token, text that may leave, why it ends or None).

        Raises `RequestFault` when the grammar allows no token, or takes too long.
        """
        grammar = self._grammar
        if grammar is not None and not self._after:
            self._allowance.begin()
            chosen = grammar.sample(self._chain, context, index)
            self._allowance.spent()
            if chosen is None:
                raise RequestFault("server", "the grammar allows no further token")
            token = chosen
        else:
            token = self._chain.sample(context, index)
        now = time.monotonic_ns()
        if not self.output:
            self.first_ns = now
        self.last_ns = now
        self.output += 1
        self._held += 1
        if self._want_ids:
            self.output_ids.append(token)
        model = self._model
        ended = model.ends(token)
        if self._top is not None and not ended:
            self._logprobs.append(self._logprob(context, index, token))
        if ended:
            return token, "", "stop"
        piece = self._control.get(token) or model.piece(token)
        text = self._stream.feed(piece)
        if grammar is not None and self._after:
            self._watch(piece)
        if self._stream.stopped:
            return token, text, "stop"
        return token, text, "length" if self.output >= self._limit else None

    def piece(self, text: str) -> tuple[int, str, int, list[Any] | None]:
        """The entry for `Step.texts`: the text and how many tokens it took."""
        entry = (self.id, text, self._held, self._logprobs if self._top is not None else None)
        self._held = 0
        if self._top is not None:
            self._logprobs = []
        return entry

    def flush(self) -> str:
        """The text that was held back when the generation ends."""
        return self._stream.flush()

    def finished(self, reason: str) -> tuple[int, str, int, int, int, int, int, list[int], list[int]]:
        """The entry for `Step.finished`."""
        first = self.first_ns or self.admitted_ns
        return (
            self.id,
            reason,
            self.prompt_tokens,
            self.cached,
            self.output,
            first - self.admitted_ns,
            max(self.last_ns - first, 0),
            self.prompt_ids,
            self.output_ids,
        )

    def _watch(self, piece: bytes) -> None:
        """Wait for the text after which the grammar begins."""
        self._recent = (self._recent + piece.decode("utf-8", "replace"))[-4 * len(self._after) - 256 :]
        if self._after in self._recent:
            self._after = self._recent = ""

    def _logprob(self, context: Context, index: int, token: int) -> Any:
        count = self._top or 0
        value, best = top_logprobs(context.logits(index), self._model.vocab_size, token, count)
        return (*self._spell(token, value), [self._spell(other, found) for other, found in best])

    def _spell(self, token: int, value: float) -> tuple[str, float, bytes | None]:
        # Control tokens have no text, and that is how they are told from the others.
        raw = self._model.piece(token)
        return raw.decode("utf-8", "replace"), value, raw or None

    def close(self) -> None:
        """Free the sampler and the grammar; twice is fine."""
        self._chain.close()
        if self._grammar is not None:
            self._grammar.close()
