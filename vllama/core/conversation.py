"""The turns of a conversation, as a template shall see them."""

from __future__ import annotations

from dataclasses import replace

from vllama.core.requests import ChatRequest, GenerateRequest
from vllama.models.model import Model
from vllama.prompts.messages import Message
from vllama.prompts.thinking import ThinkingParser


def turns(request: GenerateRequest, model: Model) -> tuple[Message, ...]:
    """A generate request as a conversation; the model's own messages only where no context goes before it."""
    messages: list[Message] = []
    system = request.system or model.system
    if system:
        messages.append(Message("system", system))
    if request.context is None:
        messages.extend(Message(role, content) for role, content in model.messages)
    messages.append(Message("user", request.prompt, images=request.images))
    return tuple(messages)


def history(request: ChatRequest, model: Model) -> tuple[Message, ...]:
    """The model's own messages before the request's; its SYSTEM unless the request begins with one."""
    messages = request.messages
    if model.messages:
        messages = tuple(Message(role, content) for role, content in model.messages) + messages
    if request.messages[0].role != "system" and model.system:
        messages = (Message("system", model.system), *messages)
    if model.config.family == "qwen3" or model.name.model == "deepseek-r1":
        messages = _without_thoughts(messages)
    return messages


def _without_thoughts(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Old answers of these families carry their thoughts in the text; there they only cost tokens."""
    last_user = max((i for i, m in enumerate(messages) if m.role == "user"), default=-1)
    cleaned = []
    for i, message in enumerate(messages):
        if message.role == "assistant" and i < last_user:
            message = replace(message, content=ThinkingParser("<think>", "</think>").add(message.content)[1])
        cleaned.append(message)
    return tuple(cleaned)


def tail(messages: tuple[Message, ...], start: int) -> tuple[Message, ...]:
    """Messages from `start` on, with the system messages of what is left out."""
    kept = tuple(m for m in messages[:start] if m.role == "system")
    return kept + tag_images(messages[start:])


def tag_images(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Images become `[img-N]` in the text, where `[img]` stands or in front, numbered through the conversation."""
    for message in messages:
        if message.images:
            return _tagged(messages)
    return messages


def _tagged(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    number = 0
    tagged = []
    for message in messages:
        # Split once: with an image list and a text as long as a body may be, replacing one by one takes minutes.
        parts = message.content.split("[img]", len(message.images))
        tags = [f"[img-{number + i}]" for i in range(len(message.images))]
        number += len(tags)
        inside = len(parts) - 1
        text = "".join(part for pair in zip(parts, [*tags[:inside], ""], strict=True) for part in pair)
        tagged.append(replace(message, content="".join(tags[inside:]) + text))
    return tuple(tagged)
