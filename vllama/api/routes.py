"""Every route of this server, in one table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama.api.anthropic.messages import count_tokens_endpoint, messages_endpoint
from vllama.api.ollama import cloud
from vllama.api.ollama.blobs import head_blob_endpoint, post_blob_endpoint
from vllama.api.ollama.chat import chat_endpoint, generate_endpoint
from vllama.api.ollama.copy import copy_endpoint, delete_endpoint
from vllama.api.ollama.create import create_endpoint
from vllama.api.ollama.embed import embed_endpoint, embeddings_endpoint
from vllama.api.ollama.ps import ps_endpoint
from vllama.api.ollama.root import root, status_endpoint, version
from vllama.api.ollama.show import show_endpoint
from vllama.api.ollama.tags import tags_endpoint
from vllama.api.ollama.transfer import pull_endpoint, push_endpoint
from vllama.api.openai.chat import chat_completions_endpoint, completions_endpoint
from vllama.api.openai.embeddings import v1_embeddings_endpoint
from vllama.api.openai.models import model_endpoint, models_endpoint
from vllama.api.openai.responses import responses_endpoint
from vllama.api.ops.health import health
from vllama.api.ops.metrics import metrics
from vllama.api.ops.missing import missing
from vllama.api.routing import Route

if TYPE_CHECKING:
    from vllama.core.service import Service

_GET = ("GET",)
_READ = ("HEAD", "GET")
_POST = ("POST",)
_DELETE = ("DELETE",)


def routes(service: Service) -> tuple[Route, ...]:
    """The table for a service. Method and path are Ollama's; `/health` is ours."""
    return (
        Route(_READ, "/", root, "ollama", "Whether the server runs"),
        Route(_READ, "/api/version", version, "ollama", "The version of Ollama's API"),
        Route(_GET, "/api/status", status_endpoint(service), "ollama", "Whether cloud models can be used"),
        Route(_POST, "/api/generate", generate_endpoint(service), "ollama", "Complete a prompt"),
        Route(_POST, "/api/chat", chat_endpoint(service), "ollama", "Answer a conversation"),
        Route(_POST, "/api/embed", embed_endpoint(service), "ollama", "Embed texts"),
        Route(_POST, "/api/embeddings", embeddings_endpoint(service), "ollama", "Embed one text"),
        Route(_READ, "/api/tags", tags_endpoint(service), "ollama", "List models"),
        Route(_GET, "/api/ps", ps_endpoint(service), "ollama", "List loaded models"),
        Route(_POST, "/api/show", show_endpoint(service), "ollama", "Describe a model"),
        Route(_POST, "/api/create", create_endpoint(service), "ollama", "Create a model"),
        Route(_POST, "/api/copy", copy_endpoint(service), "ollama", "Copy a model"),
        Route(_DELETE, "/api/delete", delete_endpoint(service), "ollama", "Delete a model"),
        Route(_POST, "/api/pull", pull_endpoint(service), "ollama", "Pull a model from a registry"),
        Route(_POST, "/api/push", push_endpoint(service), "ollama", "Push a model to a registry"),
        Route(_POST, "/api/blobs/{digest}", post_blob_endpoint(service), "ollama", "Upload a blob"),
        Route(("HEAD",), "/api/blobs/{digest}", head_blob_endpoint(service), "ollama", "Whether a blob is there"),
        Route(_POST, "/api/me", cloud.me, "ollama", "Who is signed in"),
        Route(_POST, "/api/signout", cloud.signout, "ollama", "Sign out"),
        Route(_DELETE, "/api/user/keys/{encodedKey}", cloud.signout, "ollama", "Sign out"),
        Route(
            _POST,
            "/api/experimental/web_search",
            cloud.disabled("web search is unavailable"),
            "ollama",
            "Search the web",
        ),
        Route(
            _POST,
            "/api/experimental/web_fetch",
            cloud.disabled("web fetch is unavailable"),
            "ollama",
            "Fetch a page",
        ),
        Route(
            _GET,
            "/api/experimental/model-recommendations",
            cloud.recommendations,
            "ollama",
            "Models to try",
        ),
        Route(_GET, "/v1/models", models_endpoint(service), "openai", "List models"),
        Route(_GET, "/v1/models/{model}", model_endpoint(service), "openai", "Describe a model"),
        Route(_POST, "/v1/chat/completions", chat_completions_endpoint(service), "openai", "Answer a conversation"),
        Route(_POST, "/v1/completions", completions_endpoint(service), "openai", "Complete a prompt"),
        Route(_POST, "/v1/embeddings", v1_embeddings_endpoint(service), "openai", "Embed texts"),
        Route(_POST, "/v1/responses", responses_endpoint(service), "openai", "Answer a conversation"),
        missing("POST", "/v1/audio/transcriptions", "openai", "Transcribe speech"),
        Route(_POST, "/v1/messages", messages_endpoint(service), "anthropic", "Answer a conversation"),
        Route(
            _POST, "/v1/messages/count_tokens", count_tokens_endpoint(service), "anthropic", "Count a prompt's tokens"
        ),
        Route(_READ, "/health", health(service), "ops", "Whether the server can answer, and with what"),
        Route(_READ, "/metrics", metrics(service), "ops", "Counters in Prometheus' text format"),
    )
