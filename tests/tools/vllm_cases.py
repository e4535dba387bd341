"""What is asked of vLLama while vLLM is recorded, and asked again of the replay; and the directory of the model.

The small model follows examples only, so tool calls and thoughts are shown to it first.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx

from vllama.models.gguf import read_metadata

FILE = Path(__file__).parents[1] / "golden" / "vllm" / "served-0.32.0.json"
NAME = "small"

TEMPLATE = """\
{%- if tools %}<|im_start|>system
Functions:
{% for tool in tools %}{{ tool.function.name }}
{% endfor %}Call one so: <tool_call>{"name": "...", "arguments": {...}}</tool_call><|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{% if message.reasoning_content %}<think>{{ message.reasoning_content }}</think>{% endif %}
{{- message.content }}
{%- for call in message.tool_calls or [] %}<tool_call>{"name": "{{ call.function.name }}", "arguments": \
{{ call.function.arguments | tojson }}}</tool_call>{% endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{% endif %}"""

LOOK = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a place",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}


def said(role: str, content: str, **more: Any) -> dict[str, Any]:
    """One message."""
    return {"role": role, "content": content} | more


def weather(city: str) -> list[dict[str, Any]]:
    """An example of a call."""
    call = {"function": {"name": "get_weather", "arguments": {"city": city}}}
    return [said("user", f"Weather in {city}?"), said("assistant", "", tool_calls=[call])]


CALLS = [*weather("Paris"), *weather("Rome"), *weather("Oslo"), said("user", "Weather in Berlin?")]
THOUGHTS = [
    said("user", "2 + 2?"),
    said("assistant", "4", thinking="Easy."),
    said("user", "3 + 3?"),
    said("assistant", "6", thinking="Easy."),
    said("user", "1 + 1?"),
    said("assistant", "2", thinking="Easy."),
    said("user", "4 + 4?"),
]
FRANCE = [said("user", "Name the capital of France.")]
GREEDY = {"temperature": 0, "num_predict": 12}
THIRTY = {"temperature": 0, "num_predict": 30}
EVERYTHING = {
    "temperature": 0.7,
    "top_k": 30,
    "top_p": 0.8,
    "min_p": 0.05,
    "repeat_penalty": 1.2,
    "presence_penalty": 0.3,
    "frequency_penalty": 0.2,
    "seed": 42,
    "num_predict": 10,
    "stop": ["zzz", "yyy"],
}


def ask(path: str, **body: Any) -> tuple[str, dict[str, Any]]:
    """One request, greedy and short unless it says otherwise."""
    if path.startswith("/api"):
        body = {"stream": False} | body | {"options": body.get("options", GREEDY)}
    return path, {"model": NAME} | body


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ask("/api/chat", messages=FRANCE),
    "chat-stream": ask("/api/chat", messages=FRANCE, stream=True),
    "chat-options": ask("/api/chat", messages=FRANCE, options=EVERYTHING),
    "chat-stop": ask("/api/chat", messages=FRANCE, options=GREEDY | {"stop": [" France"]}),
    "chat-unlimited": ask("/api/chat", messages=FRANCE, options={"temperature": 0, "num_predict": -1}),
    "chat-small-context": ask("/api/chat", messages=FRANCE, options={"temperature": 0, "num_ctx": 24}),
    "generate": ask("/api/generate", prompt="The sky is"),
    "generate-raw": ask("/api/generate", prompt="The sky is", raw=True),
    "generate-stream": ask("/api/generate", prompt="The sky is", raw=True, stream=True),
    "generate-context": ask("/api/generate", prompt="And then?", context=[504, 6376, 314]),
    "generate-cut": ask("/api/generate", prompt="one two three " * 40, raw=True, options=GREEDY | {"num_ctx": 64}),
    "generate-too-long": ask("/api/generate", prompt="one two three " * 40, options={"num_ctx": 64}, truncate=False),
    "tools": ask("/api/chat", messages=CALLS, tools=[LOOK], options={"temperature": 0, "num_predict": 40}),
    "tools-stream": ask("/api/chat", messages=CALLS, tools=[LOOK], stream=True, options={"temperature": 0}),
    "thinking": ask("/api/chat", messages=THOUGHTS, think=True),
    "thinking-stream": ask("/api/chat", messages=THOUGHTS, think=True, stream=True),
    "no-thinking": ask("/api/chat", messages=THOUGHTS, think=False),
    # A model that can think and does not is not constrained, as in Ollama.
    "unthinking-json": ask("/api/chat", messages=FRANCE, format="json", options=THIRTY),
    "unthinking-schema": ask("/api/chat", messages=FRANCE, format=SCHEMA, options=THIRTY),
    "format-after-thinking": ask("/api/chat", messages=THOUGHTS, think=True, format=SCHEMA, options={"temperature": 0}),
    "unthinking-choice": ask("/v1/chat/completions", messages=FRANCE, structured_outputs={"choice": ["Lyon", "Nice"]}),
    "logprobs": ask("/api/generate", prompt="The sky is", raw=True, logprobs=True, top_logprobs=3),
    "openai": ask("/v1/chat/completions", messages=FRANCE, temperature=0, max_tokens=8),
    "openai-stream": ask("/v1/chat/completions", messages=FRANCE, temperature=0, max_tokens=8, stream=True),
    "openai-logprobs": ask("/v1/completions", prompt="The sky is", temperature=0, max_tokens=4, logprobs=2),
    "anthropic": ask("/v1/messages", messages=FRANCE, temperature=0, max_tokens=8),
    "responses": ask("/v1/responses", input="Name the capital of France.", temperature=0, max_output_tokens=8),
    "error-token": ask("/api/generate", prompt="x", context=[99999999]),
    "error-embedding": ask("/api/embed", input="Hello"),
    "error-schema": ask("/api/chat", messages=FRANCE, format={"type": "no such type"}),
}
CHANGES = re.compile(r"created|_duration$|^(id|item_id|response_id|completed_at)$")
"""Fields that differ between two runs."""


def answers(url: str) -> dict[str, Any]:
    """Status and body of all cases, without what changes."""
    found = {}
    with httpx.Client(base_url=url, timeout=300) as client:
        for name, (path, body) in CASES.items():
            response = client.post(path, json=body)
            found[name] = {"status": response.status_code, "body": _decoded(response.text)}
    return found


def _decoded(text: str) -> Any:
    """An object, or a list of the objects in lines or events."""
    lines = [line.removeprefix("data: ") for line in text.splitlines()]
    objects = [plain(json.loads(line)) for line in lines if line.startswith("{")]
    return objects if objects else text


def plain(value: Any) -> Any:
    """Without the fields that change; probabilities to the first digit."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items() if not CHANGES.search(key)}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    if isinstance(value, str):
        return re.sub(r"\b(msg|resp|chatcmpl|call|cmpl|item|rs)[-_][\w-]+", r"\1-*", value)
    return value


def directory(home: Path, gguf: Path, weights: Path | None = None) -> Path:
    """The model as Hugging Face lays it out: `weights` is a directory with the real files, None makes empty ones.

    The vocabulary comes from the GGUF of the same model; our template takes the place of its own.
    """
    made = home / NAME
    made.mkdir()
    for file in weights.iterdir() if weights is not None else ():
        if file.name != "chat_template.jinja":
            (made / file.name).symlink_to(file)
    (made / "chat_template.jinja").write_text(TEMPLATE)
    if weights is not None:
        return made
    kv = read_metadata(gguf).kv
    tokens, kinds = (kv[f"tokenizer.ggml.{key}"].values() for key in ("tokens", "token_type"))
    special = [{"id": n, "content": tokens[n], "special": True} for n, kind in enumerate(kinds) if kind == 3]
    texts = {text: number for number, text in enumerate(tokens) if kinds[number] != 3}
    files = {
        "config.json": {
            "architectures": ["LlamaForCausalLM"],
            "max_position_embeddings": 8192,
            "model_type": "llama",
            "vocab_size": len(tokens),
        },
        "tokenizer.json": {"model": {"vocab": texts}, "decoder": {"type": "ByteLevel"}, "added_tokens": special},
        "tokenizer_config.json": {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"},
    }
    for name, content in files.items():
        (made / name).write_text(json.dumps(content))
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (made / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)
    return made
