"""What the routes answer, as JSON Schemas. Objects are closed: a field that does not stand here is never sent.

`tests/unit/test_openapi.py` holds them against the recorded answers of a real Ollama, and against the routes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from vllama.api.openapi import anthropic_answers, native_answers, openai_answers, responses_answers
from vllama.api.openapi.schema import Schema

COMPONENTS: Mapping[str, Schema] = {
    **native_answers.COMPONENTS,
    **openai_answers.COMPONENTS,
    **responses_answers.COMPONENTS,
    **anthropic_answers.COMPONENTS,
}
"""All of them, by name."""


class Answers(NamedTuple):
    """What a route answers when all is well.

    `json` is the component of a single object, `lines` of each line of an NDJSON stream, `events` of each `data:` of
    Server-Sent Events. `text` is a media type for what is no JSON; with nothing set the body is empty.
    """

    json: str = ""
    lines: str = ""
    events: str = ""
    text: str = ""
    status: int = 200


_EMPTY = Answers()
_REFUSED = Answers(status=0)
"""No success is possible: there is no cloud here, or no such feature yet."""

ANSWERS: Mapping[tuple[str, str], Answers] = {
    ("HEAD", "/"): _EMPTY,
    ("GET", "/"): Answers(text="text/plain"),
    ("HEAD", "/api/version"): _EMPTY,
    ("GET", "/api/version"): Answers("Version"),
    ("GET", "/api/status"): Answers("CloudStatus"),
    ("POST", "/api/generate"): Answers("Generated", lines="Generated"),
    ("POST", "/api/chat"): Answers("ChatAnswer", lines="ChatAnswer"),
    ("POST", "/api/embed"): Answers("Embedded"),
    ("POST", "/api/embeddings"): Answers("Embedding"),
    ("HEAD", "/api/tags"): _EMPTY,
    ("GET", "/api/tags"): Answers("Tags"),
    ("GET", "/api/ps"): Answers("Running"),
    ("POST", "/api/show"): Answers("Shown"),
    ("POST", "/api/create"): Answers("Progress", lines="Progress"),
    ("POST", "/api/copy"): _EMPTY,
    ("DELETE", "/api/delete"): _EMPTY,
    ("POST", "/api/pull"): Answers("Progress", lines="Progress"),
    ("POST", "/api/push"): Answers("Progress", lines="Progress"),
    ("POST", "/api/blobs/{digest}"): Answers(status=201),
    ("HEAD", "/api/blobs/{digest}"): _EMPTY,
    ("POST", "/api/me"): _REFUSED,
    ("POST", "/api/signout"): _REFUSED,
    ("DELETE", "/api/user/keys/{encodedKey}"): _REFUSED,
    ("POST", "/api/experimental/web_search"): _REFUSED,
    ("POST", "/api/experimental/web_fetch"): _REFUSED,
    ("GET", "/api/experimental/model-recommendations"): Answers("Recommendations"),
    ("GET", "/v1/models"): Answers("OpenAIModels"),
    ("GET", "/v1/models/{model}"): Answers("OpenAIModel"),
    ("POST", "/v1/chat/completions"): Answers("ChatCompletion", events="ChatCompletionChunk"),
    ("POST", "/v1/completions"): Answers("Completion", events="CompletionChunk"),
    ("POST", "/v1/embeddings"): Answers("OpenAIEmbeddings"),
    ("POST", "/v1/responses"): Answers("Response", events="ResponseEvent"),
    ("POST", "/v1/audio/transcriptions"): _REFUSED,
    ("POST", "/v1/messages"): Answers("Message", events="MessageEvent"),
    ("POST", "/v1/messages/count_tokens"): Answers("TokenCount"),
    ("HEAD", "/health"): _EMPTY,
    ("GET", "/health"): Answers("Health"),
    ("HEAD", "/metrics"): _EMPTY,
    ("GET", "/metrics"): Answers(text="text/plain"),
    ("HEAD", "/docs"): _EMPTY,
    ("GET", "/docs"): Answers(text="text/html"),
    ("HEAD", "/openapi.json"): _EMPTY,
    ("GET", "/openapi.json"): Answers("Document"),
}
"""For each route and method."""

ERRORS: Mapping[str, str] = {
    "ollama": "Error",
    "ops": "Error",
    "openai": "OpenAIError",
    "anthropic": "AnthropicError",
}
"""The component of an API's errors."""
