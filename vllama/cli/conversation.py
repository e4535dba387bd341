"""The interactive prompt without its terminal: a conversation with a model."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

from vllama.cli import humanize
from vllama.cli.attachments import attached
from vllama.cli.client import Client
from vllama.cli.console import AnswerView, spinning
from vllama.cli.run import Question
from vllama.errors import ConfigError, VllamaError


class Conversation:
    """What was said, and how the next answer is asked for. Prints to standard output; errors become one line.

    `own` are the messages that the model itself begins with (MESSAGE in its Modelfile, or a saved conversation): the
    server puts them before ours.
    """

    def __init__(self, client: Client, question: Question) -> None:
        self.client = client
        self.question = question
        self.own: list[dict[str, Any]] = []
        self.messages: list[dict[str, Any]] = []
        self.capabilities: tuple[str, ...] = ()
        self.system = ""
        self.parameters: dict[str, Any] = {}
        self.keep_history = True

    def load(self, model: str) -> None:
        """Get the model into memory, start anew with it and show how it begins. Raises VllamaError."""
        info = self.client.post("/api/show", {"model": model})
        capabilities = tuple(info.get("capabilities") or ())
        if "embedding" in capabilities:
            raise ConfigError(f'{model} makes embeddings and cannot converse: vllama run {model} "TEXT" prints one')
        question = replace(self.question, model=model)
        with spinning(f"loading {model}"):
            for _ in self.client.stream("/api/generate", question.body()):
                pass
        self.question = question
        self.capabilities = capabilities
        self.own = list(info.get("messages") or ())
        self.messages.clear()
        for message in self.own:
            if message.get("role") == "user":
                print(f">>> {message.get('content', '')}")
            elif message.get("role") == "assistant":
                view = self._view()
                view.show("", message.get("content", ""))
                view.end()

    def enter(self, line: str) -> bool:
        """Take what was typed; False means leave."""
        from vllama.cli.commands import Commands

        text = line.strip()
        try:
            if Commands.is_one(text):
                return Commands(self).run(text)
            if text:
                self.say(line)
        except VllamaError as error:
            print(f"Error: {error.text}")
        return True

    def say(self, text: str) -> None:
        """Ask and print the answer; Ctrl+C ends the answer alone, and what came of it stays in the conversation."""
        content, images, lines = attached(text, self.capabilities, self.question.model)
        for line in lines:
            print(line, file=sys.stderr)
        asked: dict[str, Any] = {"role": "user", "content": content} | ({"images": images} if images else {})
        view = self._view()
        system = [{"role": "system", "content": self.system}] if self.system else []
        body = self.question.body() | {"messages": [*system, *self.messages, asked]}
        if self.parameters:
            body["options"] = self.parameters
        said, last = "", {}
        stream = self.client.stream("/api/chat", body)
        try:
            with spinning("waiting for the answer") as spinner:
                for item in stream:
                    spinner.stop()
                    message = item.get("message") or {}
                    piece = message.get("content", "")
                    view.show(message.get("thinking", ""), piece, message.get("tool_calls"))
                    said += piece
                    last = item
        except KeyboardInterrupt:
            pass
        finally:
            stream.close()
        view.end()
        self.messages.append(asked)
        if said:
            self.messages.append({"role": "assistant", "content": said})
        if self.question.verbose:
            print(humanize.rates(last), file=sys.stderr)

    def _view(self) -> AnswerView:
        question = self.question
        return AnswerView(
            word_wrap=question.word_wrap, hide_thinking=question.hide_thinking, markdown=question.markdown
        )
