"""`structured_outputs` with the real model: what comes out is what was asked for."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from tests.integration.conftest import MODEL, Server

pytestmark = pytest.mark.model


def ask(server: Server, route: str, rule: dict[str, Any]) -> httpx.Response:
    talk: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Is snow cold? When did it fall?"}],
    }
    text = {"model": MODEL, "prompt": "Is snow cold? When did it fall?"}
    body = talk if "chat" in route else text
    limit = {"max_tokens": 40, "seed": 1} if route.startswith("/v1") else {"options": {"num_predict": 40, "seed": 1}}
    return httpx.post(
        server.url + route, json={**body, **limit, "stream": False, "structured_outputs": rule}, timeout=60
    )


def said(reply: httpx.Response) -> str:
    assert reply.status_code == 200, reply.text
    answer = reply.json()
    if "choices" in answer:
        choice = answer["choices"][0]
        return str(choice["text"] if "text" in choice else choice["message"]["content"])
    return str(answer["response"] if "response" in answer else answer["message"]["content"])


@pytest.mark.parametrize("route", ["/api/generate", "/api/chat", "/v1/completions", "/v1/chat/completions"])
def test_the_output_follows_its_rule(server: Server, route: str) -> None:
    assert said(ask(server, route, {"choice": ["frost", "a thaw"]})) in ("frost", "a thaw")
    assert re.fullmatch(r"\d{4}-\d{2}: (yes|no)", said(ask(server, route, {"regex": r"\d{4}-\d{2}: (yes|no)"})))
    assert re.fullmatch("(ab)+", said(ask(server, route, {"grammar": 'root ::= "ab" | "ab" "ab"'})))


def test_a_grammar_that_is_none_is_an_error_of_its_request(server: Server) -> None:
    reply = ask(server, "/api/generate", {"grammar": "root ::= ("})
    assert (reply.status_code, "grammar" in reply.json()["error"]) == (400, True)
    assert said(ask(server, "/api/generate", {"choice": ["frost"]})) == "frost"
