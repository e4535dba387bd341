"""LangChain and LlamaIndex through their integrations of Ollama: chat, stream, tools, embeddings."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.external import programs
from tests.integration import tooly
from tests.integration.conftest import MODEL, Server
from tests.integration.minilm import NAME as MINILM
from tests.integration.minilm import install_minilm, make_minilm

pytestmark = [
    pytest.mark.external,
    pytest.mark.model,
    # What they leave open or call by an old name is theirs to mend.
    pytest.mark.filterwarnings("ignore"),
]


def imported(name: str) -> Any:
    """A module of the extra `clients`."""
    try:
        return __import__(name, fromlist=["_"])
    except ImportError:
        programs.missing[name] = 'pip install "vllama[clients]"'
        pytest.skip(f"needs {name}")


@pytest.fixture(scope="module")
def models(ours: Server, tmp_path_factory: pytest.TempPathFactory) -> Server:
    directory: Path = tmp_path_factory.mktemp("minilm")
    install_minilm(ours.url, make_minilm(directory))
    tooly.install_tooly(ours.url)
    return ours


@pytest.fixture(autouse=True)
def sockets_end_with_their_test() -> Iterator[None]:
    """Neither framework closes its clients: let them be found here, not as the fault of a later test."""
    yield
    gc.collect()


def get_weather(city: str) -> str:
    """Get the weather of a city."""
    return f"18 degrees in {city}"


def test_langchain_chat(models: Server) -> None:
    chat = imported("langchain_ollama").ChatOllama(model=MODEL, base_url=models.url, temperature=0, num_predict=8)
    whole = chat.invoke("Say hello.")
    assert whole.content
    assert whole.usage_metadata["output_tokens"] <= 8
    assert "".join(chunk.content for chunk in chat.stream("Say hello.")) == whole.content


def test_langchain_tools(models: Server) -> None:
    chat = imported("langchain_ollama").ChatOllama(
        model=tooly.NAME, base_url=models.url, temperature=0, num_predict=60, format=tooly.CALL
    )
    reply = chat.bind_tools([get_weather]).invoke("The weather in Paris?")
    assert [(call["name"], call["args"]) for call in reply.tool_calls] == [("get_weather", {"city": "Paris"})]


def test_langchain_embeddings(models: Server) -> None:
    embeddings = imported("langchain_ollama").OllamaEmbeddings(model=MINILM, base_url=models.url)
    vectors = embeddings.embed_documents(["a cat", "a dog"])
    assert [len(vector) for vector in vectors] == [384, 384]
    assert embeddings.embed_query("a cat") == pytest.approx(vectors[0], abs=1e-4)


def llama_index_chat(models: Server, name: str, **extra: Any) -> Any:
    options = {"temperature": 0, "num_predict": 60}
    kind = imported("llama_index.llms.ollama").Ollama
    return kind(model=name, base_url=models.url, request_timeout=120, additional_kwargs=options, **extra)


def test_llama_index_chat(models: Server) -> None:
    llm = llama_index_chat(models, MODEL)
    whole = llm.complete("Say hello.").text
    assert whole
    assert "".join(chunk.delta for chunk in llm.stream_complete("Say hello.")) == whole
    message = imported("llama_index.core.llms").ChatMessage(role="user", content="Say hello.")
    assert llm.chat([message]).message.content


def test_llama_index_tools(models: Server) -> None:
    tool = imported("llama_index.core.tools").FunctionTool.from_defaults(get_weather)
    llm = llama_index_chat(models, tooly.NAME)
    message = imported("llama_index.core.llms").ChatMessage(role="user", content="The weather in Paris?")
    # chat_with_tools passes no format on, and without one the small model answers in its own words.
    reply = llm.chat([message], tools=[tool.metadata.to_openai_tool()], format=tooly.CALL)
    calls = llm.get_tool_calls_from_response(reply)
    assert [(call.tool_name, call.tool_kwargs) for call in calls] == [("get_weather", {"city": "Paris"})]


def test_llama_index_embeddings(models: Server) -> None:
    kind = imported("llama_index.embeddings.ollama").OllamaEmbedding
    embeddings = kind(model_name=MINILM, base_url=models.url)
    assert len(embeddings.get_text_embedding("a cat")) == 384
    assert len(embeddings.get_text_embedding_batch(["a cat", "a dog"])) == 2
