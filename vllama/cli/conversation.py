"""The interactive prompt without its terminal: a conversation with a model, and its slash commands."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

from vllama.cli import humanize, options
from vllama.cli.client import Client
from vllama.cli.console import AnswerView, spinning
from vllama.cli.run import Question
from vllama.cli.show import sections
from vllama.errors import VllamaError

HELP = """\
Available commands:
  /set            Change the session: /set lists what
  /show           Show the model: /show lists what
  /load MODEL     Converse with another model
  /save MODEL     Keep model, system message, parameters and conversation as a new model
  /list           List the models
  /clear          Forget the conversation
  /bye            Leave
  /?, /help       This help
  /? shortcuts    Keys

Lines between \"\"\" and \"\"\" are one message."""

SHORTCUTS = """\
  Ctrl + a, Ctrl + e    To the beginning or the end of the line
  Alt + b, Alt + f      One word back or on
  Ctrl + k, Ctrl + u    Delete to the end or from the beginning of the line
  Ctrl + w              Delete the word before the cursor
  Ctrl + l              Clear the screen
  Ctrl + r              Search the history
  Ctrl + c              Stop the answer
  Ctrl + d              Leave"""

SET_HELP = """\
  /set parameter NAME VALUE...   A model option, as temperature 0.5 or stop A B
  /set system TEXT               The system message
  /set format json|SCHEMA        Answers in JSON;  /set noformat ends it
  /set think [LEVEL]             Think first;  /set nothink ends it
  /set verbose                   Print rates;  /set quiet ends it
  /set wordwrap, nowordwrap      Wrap at the terminal's width
  /set history, nohistory        Keep what is typed in the history file"""

SHOW_HELP = "  /show info|license|modelfile|parameters|system|template"

SHOW_PARTS = ("license", "modelfile", "parameters", "system", "template")


class Conversation:
    """What was said, and how the next answer is asked for. Prints to standard output; errors become one line."""

    def __init__(self, client: Client, question: Question) -> None:
        self.client = client
        self.question = question
        self.messages: list[dict[str, Any]] = []
        self.system = ""
        self.parameters: dict[str, Any] = {}
        self.keep_history = True

    def load(self, model: str) -> None:
        """Get the model into memory and start anew with it. Raises VllamaError."""
        question = replace(self.question, model=model)
        with spinning(f"loading {model}"):
            for _ in self.client.stream("/api/generate", question.body()):
                pass
        self.question = question
        self.messages.clear()

    def enter(self, line: str) -> bool:
        """Take what was typed; False means leave."""
        text = line.strip()
        try:
            if text.startswith("/"):
                return self._command(text)
            if text:
                self.say(line)
        except VllamaError as error:
            print(f"Error: {error.text}")
        return True

    def say(self, text: str) -> None:
        """Ask and print the answer; Ctrl+C ends the answer alone, and what came of it stays in the conversation."""
        view = AnswerView(word_wrap=self.question.word_wrap, hide_thinking=self.question.hide_thinking)
        system = [{"role": "system", "content": self.system}] if self.system else []
        body = self.question.body() | {"messages": [*system, *self.messages, {"role": "user", "content": text}]}
        if self.parameters:
            body["options"] = self.parameters
        said, last = "", {}
        stream = self.client.stream("/api/chat", body)
        try:
            with spinning("waiting for the answer") as spinner:
                for item in stream:
                    spinner.stop()
                    message = item.get("message") or {}
                    content = message.get("content", "")
                    view.show(message.get("thinking", ""), content, message.get("tool_calls"))
                    said += content
                    last = item
        except KeyboardInterrupt:
            pass
        finally:
            stream.close()
        view.end()
        self.messages.append({"role": "user", "content": text})
        if said:
            self.messages.append({"role": "assistant", "content": said})
        if self.question.verbose:
            print(humanize.rates(last), file=sys.stderr)

    # -- commands ------------------------------------------------------------------------------------------

    def _command(self, text: str) -> bool:
        word, _, rest = text[1:].partition(" ")
        rest = rest.strip()
        if word in ("bye", "exit"):
            return False
        commands: dict[str, Callable[[str], None]] = {
            "?": self._help,
            "help": self._help,
            "set": self._set,
            "show": self._show,
            "load": self._load,
            "save": self._save,
            "list": self._list,
            "ls": self._list,
            "clear": self._clear,
        }
        command = commands.get(word)
        if command is None:
            print(f"Unknown command '/{word}'. Type /? for help")
        else:
            command(rest)
        return True

    def _help(self, topic: str) -> None:
        print({"shortcuts": SHORTCUTS, "set": SET_HELP, "/set": SET_HELP, "/show": SHOW_HELP}.get(topic, HELP))

    def _clear(self, _: str) -> None:
        self.messages.clear()
        print("Cleared session context")

    def _load(self, model: str) -> None:
        if not model:
            print("Usage: /load MODEL")
            return
        self.load(options.model_name(model))

    def _save(self, model: str) -> None:
        if not model:
            print("Usage: /save MODEL")
            return
        own = {"system": self.system, "parameters": self.parameters, "messages": self.messages}
        body = {"model": model, "from": self.question.model} | {name: value for name, value in own.items() if value}
        for _ in self.client.stream("/api/create", body):
            pass
        print(f"Created new model '{model}'")

    def _list(self, _: str) -> None:
        for model in self.client.get("/api/tags").get("models") or ():
            print(model["name"])

    def _show(self, what: str) -> None:
        if what not in ("info", *SHOW_PARTS):
            print(SHOW_HELP)
            return
        info = self.client.post("/api/show", {"model": self.question.model})
        if what == "info":
            print("\n".join(sections(info)))
            return
        if what == "parameters" and self.parameters:
            print("Set in this session:")
            print("\n".join(f"  {name:<30} {value}" for name, value in self.parameters.items()))
        text = (self.system if what == "system" else "") or info.get(what) or ""
        print(str(text).rstrip("\n") or f"The model has no {what}.")

    def _set(self, text: str) -> None:
        what, _, rest = text.partition(" ")
        rest = rest.strip()
        if what == "parameter":
            self._set_parameter(rest)
        elif what == "system" and rest:
            self.system = rest.strip('"').strip()
            print("Set system message.")
        elif what == "format" and rest:
            self.question = replace(self.question, format=options.output_format(rest))
            print("Set format.")
        elif what == "think":
            self.question = replace(self.question, think=options.think(rest or "true"))
            print(f"Set thinking to {rest or 'true'}.")
        elif what in ("history", "nohistory"):
            self.keep_history = what == "history"
        elif what in _SWITCHES:
            change, answer = _SWITCHES[what]
            self.question = replace(self.question, **change)
            print(answer)
        else:
            print(SET_HELP)

    def _set_parameter(self, text: str) -> None:
        name, *values = text.split()
        if not values:
            print("Usage: /set parameter NAME VALUE...")
            return
        self.parameters[name] = read_parameter(name, values)
        print(f"Set parameter '{name}' to '{', '.join(values)}'")


_SWITCHES: dict[str, tuple[dict[str, Any], str]] = {
    "noformat": ({"format": None}, "Disabled format."),
    "nothink": ({"think": False}, "Set thinking to false."),
    "verbose": ({"verbose": True}, "Set 'verbose' mode."),
    "quiet": ({"verbose": False}, "Set 'quiet' mode."),
    "wordwrap": ({"word_wrap": True}, "Set 'wordwrap' mode."),
    "nowordwrap": ({"word_wrap": False}, "Set 'nowordwrap' mode."),
}


def read_parameter(name: str, values: list[str]) -> Any:
    """A model option's value from words. Raises VllamaError for a name or value that no model takes."""
    from vllama.core.options import Options

    kinds = {field.name: str(field.type) for field in fields(Options)}
    kind = kinds.get(name)
    if kind is None:
        raise VllamaError(f"unknown parameter '{name}'")
    if "tuple" in kind:
        return values
    if len(values) > 1:
        raise VllamaError(f"parameter '{name}' takes one value")
    text = values[0].lower()
    try:
        if "bool" in kind:
            return {"true": True, "1": True, "false": False, "0": False}[text]
        return float(text) if "float" in kind else int(text)
    except (KeyError, ValueError):
        what = "true or false" if "bool" in kind else "a number" if "float" in kind else "a whole number"
        raise VllamaError(f"parameter '{name}' must be {what}, not '{values[0]}'") from None
