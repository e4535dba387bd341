"""Chat templates from model files (`tokenizer.chat_template`), rendered as Hugging Face renders them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import jinja2

from vllama.errors import TemplateError, TemplateLimit
from vllama.prompts.budget import OPERATIONS, TEXT_LIMIT, Budget, OutOfSteps, spending
from vllama.prompts.messages import Message, Think, Tool
from vllama.prompts.sandbox import compile_template

MAX_TEMPLATE = 256 * 1024
"""Longest template in characters; real ones are below 32 Ki."""

CACHED_TEMPLATES = 32


class JinjaTemplate:
    """A compiled chat template. Compiled code is cached by text, so making one again is cheap.

    Raises `TemplateError` where the text does not compile.
    """

    __slots__ = ("_template", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self._template = _compile(text)

    def __reduce__(self) -> tuple[Any, ...]:
        # Compiled code cannot be pickled; the text says it all.
        return JinjaTemplate, (self.text,)

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        *,
        think: Think | None = None,
        bos: str = "",
        eos: str = "",
        add_generation_prompt: bool = True,
        operations: int = OPERATIONS,
    ) -> str:
        """The prompt for a chat.

        `think` None leaves the template's own default. Raises `TemplateError`: with the template's own message where
        it calls raise_exception, and when it makes too much text; `TemplateLimit` when it takes
        more than so many operations (and one for each 16 characters of the chat).
        """
        variables: dict[str, Any] = {
            "messages": [_message(message) for message in messages],
            "tools": [tool_json(tool) for tool in tools] or None,
            "documents": None,
            "bos_token": bos,
            "eos_token": eos,
            "add_generation_prompt": add_generation_prompt,
        }
        if think is not None:
            # enable_thinking is Qwen's name (and most others'), thinking DeepSeek's and Granite's.
            variables["enable_thinking"] = variables["thinking"] = think.enabled
            if think.enabled and think.level:
                variables["reasoning_effort"] = think.level
        size = sum(len(message.content) + len(message.thinking) for message in messages)
        budget = Budget(operations + size // 16, TEXT_LIMIT + 4 * size)
        return _run(self._template, variables, budget)


def _run(template: jinja2.Template, variables: dict[str, Any], budget: Budget) -> str:
    parts: list[str] = []
    length = 0
    try:
        with spending(budget):
            for part in template.root_render_func(template.new_context(variables)):
                length += len(part)
                budget.text(length if length > budget.limit else 0)
                parts.append(part)
    except OutOfSteps as error:
        raise TemplateLimit(str(error)) from None
    except jinja2.TemplateError as error:
        raise TemplateError(error.message or type(error).__name__) from None
    except RecursionError:
        raise TemplateError("the template is nested too deeply") from None
    # A template is a program of its own: any exception of Python can come out of it.
    except Exception as error:
        raise TemplateError(f"the template failed: {str(error) or type(error).__name__}") from None
    return "".join(parts)


@lru_cache(maxsize=CACHED_TEMPLATES)
def _compile(text: str) -> jinja2.Template:
    if len(text) > MAX_TEMPLATE:
        raise TemplateError(f"the template is longer than {MAX_TEMPLATE} characters")
    try:
        return compile_template(text)
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(f"template line {error.lineno}: {error.message}") from None
    except jinja2.TemplateError as error:
        raise TemplateError(error.message or type(error).__name__) from None
    except RecursionError:
        raise TemplateError("the template is nested too deeply") from None
    # Python's own compiler has limits too (SyntaxError, MemoryError, OverflowError).
    except Exception as error:
        raise TemplateError(f"the template does not compile: {str(error) or type(error).__name__}") from None


def _message(message: Message) -> dict[str, Any]:
    """A message as templates expect it: OpenAI's names, arguments of tool calls as objects."""
    result: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.thinking:
        result["reasoning_content"] = result["thinking"] = message.thinking
    if message.tool_calls:
        result["tool_calls"] = [
            {
                "type": "function",
                "id": call.id,
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    if message.tool_name:
        result["name"] = message.tool_name
    if message.tool_call_id:
        result["tool_call_id"] = message.tool_call_id
    return result


def tool_json(tool: Tool) -> dict[str, Any]:
    """A tool in OpenAI's form."""
    function = tool.function
    return {
        "type": tool.type,
        "function": {
            "name": function.name,
            "description": function.description,
            "parameters": function.parameters,
        },
    }
