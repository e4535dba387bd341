"""What a model's templates can do."""

from __future__ import annotations

import re
from functools import lru_cache

from vllama.errors import TemplateError
from vllama.prompts import thinking_formats
from vllama.prompts.gotemplate import parse
from vllama.prompts.thinking import infer_tags

_JINJA_TOOLS = re.compile(r"\btools\b|tool_call")
# The switches of the chat templates in use, or a tag that the template itself cuts out of the history.
_JINJA_THINKING = re.compile(r"\benable_thinking\b|\breasoning_effort\b|\breasoning_content\b|</think>|\[/THINK\]")


@lru_cache(maxsize=64)
def capabilities(go_template: str | None, jinja_template: str | None) -> frozenset[str]:
    """A subset of {"tools", "insert", "thinking"}: what either template supports.

    A Go template does tools if it reads `.Tools`, insertion if it reads `.Suffix`, and thinking if both thinking tags
    can be read from it; a Jinja template is judged by its words. A Go template that does not parse can do nothing.
    """
    return _go(go_template) | _jinja(jinja_template)


def _go(text: str | None) -> frozenset[str]:
    if not text:
        return frozenset()
    try:
        template = parse(text)
    except TemplateError:
        return frozenset()
    found = {name for name, variable in (("tools", "tools"), ("insert", "suffix")) if variable in template.vars}
    if all(infer_tags(template.root)):
        found.add("thinking")
    return frozenset(found)


def _jinja(text: str | None) -> frozenset[str]:
    if not text:
        return frozenset()
    found = {"tools"} if _JINJA_TOOLS.search(text) else set()
    if _JINJA_THINKING.search(text) or thinking_formats.find(text) is not None:
        found.add("thinking")
    return frozenset(found)
