"""Go's text/template language, and Ollama's way of turning chats into prompts with it."""

from vllama.prompts.gotemplate.execute import GoTemplate, TemplateValues, parse

__all__ = ["GoTemplate", "TemplateValues", "parse"]
