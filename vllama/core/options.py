"""Model options: the server's defaults, under the model's parameters, under the request's `options`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vllama.engines.base import Sampling
from vllama.errors import RequestError
from vllama.goquote import quote

MIN_NUM_CTX = 4
"""The least context a request can ask for, in tokens; anything less is taken as this."""

MAX_STOPS = 1000
"""Most stop strings of a request: every token is compared with all of them."""

_log = logging.getLogger("vllama.options")


class OptionError(RequestError):
    """An option has a value of the wrong type."""


@dataclass(frozen=True, slots=True)
class Options:
    """Every option that Ollama knows, with its default. Counts are tokens.

    `num_ctx` 0 leaves it to the server; `num_gpu` -1, `num_thread` 0 and None leave it to the engine.
    `seed` -1 is random, `num_predict` -1 no limit.
    """

    num_keep: int = 4
    seed: int = -1
    num_predict: int = -1
    top_k: int = 40
    top_p: float = 0.9
    min_p: float = 0.0
    typical_p: float = 1.0
    repeat_last_n: int = 64
    temperature: float = 0.8
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    stop: tuple[str, ...] = ()
    num_ctx: int = 0
    num_batch: int = 512
    num_gpu: int = -1
    main_gpu: int | None = None
    use_mmap: bool | None = None
    num_thread: int = 0
    draft_num_predict: int = 4

    def to_sampling(self) -> Sampling:
        """The part that chooses tokens, for an engine."""
        return Sampling(
            temperature=max(0.0, self.temperature),
            top_k=max(0, self.top_k),
            top_p=self.top_p,
            min_p=self.min_p,
            typical_p=self.typical_p,
            repeat_last_n=max(-1, self.repeat_last_n),
            repeat_penalty=self.repeat_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            seed=None if self.seed == -1 else self.seed,
        )


DEFAULTS = Options()


def merge_options(model_params: Mapping[str, Any], request_options: Mapping[str, Any]) -> Options:
    """The options of a request. Unknown names are logged and ignored, None leaves the value below.

    Raises OptionError for a value of the wrong type.
    """
    if not model_params and not request_options:
        return DEFAULTS
    changes: dict[str, Any] = {}
    for source in (model_params, request_options):
        for name, value in source.items():
            read = _READERS.get(name)
            if read is None:
                _log.warning("invalid option provided: %s", quote(name))
            elif value is not None:
                changes[name] = read(name, value)
    return Options(**changes) if changes else DEFAULTS


def _integer(name: str, value: Any) -> int:
    kind = type(value)
    if kind is not int and kind is not float:
        raise OptionError(f"option {quote(name)} must be of type integer")
    # Ollama holds JSON numbers as float64 and cuts them to int64; amd64 makes the least int of what does not fit.
    number = float(value)
    return int(number) if -(2.0**63) <= number < 2.0**63 else -(2**63)


def _context(name: str, value: Any) -> int:
    return max(MIN_NUM_CTX, _integer(name, value))


def _limit(name: str, value: Any) -> int:
    # To Ollama, 0 and every negative number mean no limit.
    limit = _integer(name, value)
    return limit if limit > 0 else -1


def _number(name: str, value: Any) -> float:
    kind = type(value)
    if kind is not int and kind is not float:
        raise OptionError(f"option {quote(name)} must be of type float32")
    return float(value)


def _boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise OptionError(f"option {quote(name)} must be of type boolean")
    return value


def _strings(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise OptionError(f"option {quote(name)} must be of type array")
    if not all(isinstance(item, str) for item in value):
        raise OptionError(f"option {quote(name)} must be of an array of strings")
    if len(value) > MAX_STOPS:
        raise OptionError(f"option {quote(name)} must have at most {MAX_STOPS} strings")
    return tuple(value)


_READERS: dict[str, Callable[[str, Any], Any]] = {
    "num_keep": _integer,
    "seed": _integer,
    "num_predict": _limit,
    "top_k": _integer,
    "top_p": _number,
    "min_p": _number,
    "typical_p": _number,
    "repeat_last_n": _integer,
    "temperature": _number,
    "repeat_penalty": _number,
    "presence_penalty": _number,
    "frequency_penalty": _number,
    "stop": _strings,
    "num_ctx": _context,
    "num_batch": _integer,
    "num_gpu": _integer,
    "main_gpu": _integer,
    "use_mmap": _boolean,
    "num_thread": _integer,
    "draft_num_predict": _integer,
}
