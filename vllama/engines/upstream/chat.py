"""A conversation over POST /v1/chat/completions: the upstream renders it and takes the answer apart."""

from __future__ import annotations

from typing import Any

import orjson

from vllama.engines.base import Call, Chat, Generation
from vllama.engines.completions.requests import Dialect, body_of
from vllama.errors import RequestError


def chat_body(request: Generation, chat: Chat, dialect: Dialect) -> dict[str, Any]:
    """The request: sampling as for completions, messages, tools and thinking passed on."""
    limit = request.num_predict if request.num_predict > 0 else None
    stop = request.stop if dialect.vllm else request.stop[:4]
    body = body_of(
        request, dialect, prompt="", limit=limit, add_special=False, constraint=None, stop=stop, include_stop=False
    )
    # Fields that only completions have, or that mean something else for conversations.
    for name in ("prompt", "add_special_tokens", "skip_special_tokens", "return_token_ids", "logprobs"):
        body.pop(name, None)
    body.pop("return_tokens_as_token_ids", None)
    body["messages"] = list(chat.messages)
    if chat.tools:
        body["tools"] = list(chat.tools)
    if request.top_logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": request.top_logprobs}
    if isinstance(chat.think, str):
        body["reasoning_effort"] = chat.think
    elif chat.think is not None and dialect.vllm:
        # Templates know the switch by one of the two names.
        body["chat_template_kwargs"] = {"enable_thinking": chat.think, "thinking": chat.think}
    constraint = request.constraint
    if constraint is not None and constraint.schema is None:
        if not dialect.vllm:
            raise RequestError("this deployment takes JSON schemas only: no regex, choice or grammar")
        body["structured_outputs"] = {"grammar": constraint.gbnf}
    elif constraint is not None and constraint.schema is not None:
        schema = orjson.loads(constraint.schema) if constraint.schema else None
        body["response_format"] = (
            {"type": "json_object"}
            if schema is None
            else {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
        )
    return body


class CallBuilder:
    """Tool calls from their pieces: an upstream sends the name first and the arguments as text, bit by bit."""

    def __init__(self) -> None:
        self._parts: dict[int, list[str]] = {}

    def add(self, deltas: Any) -> None:
        """Take the `tool_calls` of one delta."""
        for delta in deltas or ():
            function = delta.get("function") or {}
            part = self._parts.setdefault(int(delta.get("index") or 0), ["", "", ""])
            part[0] = delta.get("id") or part[0]
            part[1] += function.get("name") or ""
            part[2] += function.get("arguments") or ""

    def finish(self) -> tuple[Call, ...]:
        """The calls, whole; arguments that are no JSON object stay visible as a text."""
        calls = []
        for _, (number, name, text) in sorted(self._parts.items()):
            try:
                arguments = orjson.loads(text or "{}")
            except orjson.JSONDecodeError:
                arguments = {"arguments": text}
            calls.append(Call(name, arguments if isinstance(arguments, dict) else {"arguments": arguments}, number))
        self._parts = {}
        return tuple(calls)
