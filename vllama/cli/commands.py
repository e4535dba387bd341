"""The slash commands of the interactive prompt. Words and answers are Ollama's, with a few commands more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vllama.cli import options
from vllama.cli.attachments import named
from vllama.cli.listing import model_rows
from vllama.cli.parameters import read_parameter
from vllama.cli.show import sections
from vllama.errors import VllamaError

if TYPE_CHECKING:
    from vllama.cli.conversation import Conversation

HELP = """\
Available Commands:
  /set            Set session variables: /set lists them
  /show           Show model information: /show lists what
  /load <model>   Load a session or model
  /save <model>   Save model, system message, parameters and conversation as a new model
  /list           List the models
  /clear          Clear session context
  /bye            Exit
  /?, /help       Help for a command
  /? shortcuts    Help for keyboard shortcuts

Use \"\"\" to begin a multi-line message."""

IMAGES_HELP = "Use /path/to/file to include .jpg, .png, .webp images, or .wav audio files."

SHORTCUTS = """\
Available keyboard shortcuts:
  Ctrl + a, Ctrl + e    To the beginning or the end of the line (Home, End)
  Alt + b, Alt + f      One word back or on
  Ctrl + k, Ctrl + u    Delete to the end or from the beginning of the line
  Ctrl + w              Delete the word before the cursor
  Ctrl + l              Clear the screen
  Ctrl + r              Search the history
  Ctrl + g              Write the message in an editor ($OLLAMA_EDITOR, $VISUAL or $EDITOR)
  Ctrl + c              Stop the model from responding
  Ctrl + d              Exit (/bye)"""

SET_HELP = """\
Available Commands:
  /set parameter ...     Set a parameter: /set parameter lists them
  /set system <string>   Set system message
  /set history           Enable history
  /set nohistory         Disable history
  /set wordwrap          Enable wordwrap
  /set nowordwrap        Disable wordwrap
  /set markdown          Lay answers out as Markdown
  /set nomarkdown        Print answers as they are
  /set format json       Enable JSON mode; a JSON schema instead of json holds answers to it
  /set noformat          Disable formatting
  /set verbose           Show LLM stats
  /set quiet             Disable LLM stats
  /set think [level]     Enable thinking
  /set nothink           Disable thinking"""

PARAMETER_HELP = """\
Available Parameters:
  /set parameter seed <int>             Random number seed
  /set parameter num_predict <int>      Most tokens of an answer
  /set parameter top_k <int>            Pick from the k likeliest tokens
  /set parameter top_p <float>          Pick from the likeliest tokens that sum up to p
  /set parameter min_p <float>          Pick from tokens at least p times as likely as the likeliest
  /set parameter num_ctx <int>          Context in tokens
  /set parameter temperature <float>    How freely tokens are picked
  /set parameter repeat_penalty <float> How strongly repetitions are held back
  /set parameter repeat_last_n <int>    How far back to look for repetitions
  /set parameter num_gpu <int>          Layers that go to the GPU
  /set parameter stop <string> <string> ...   Texts that end the answer"""

SHOW_HELP = """\
Available Commands:
  /show info         Show details for this model
  /show license      Show model license
  /show modelfile    Show Modelfile for this model
  /show parameters   Show parameters for this model
  /show system       Show system message
  /show template     Show prompt template"""

ABSENT = {
    "license": "No license was specified for this model.",
    "modelfile": "",
    "system": "No system message was specified for this model.",
    "template": "No prompt template was specified for this model.",
}


class Commands:
    """Runs one command on a conversation. Raises VllamaError; prints to standard output."""

    def __init__(self, conversation: Conversation) -> None:
        self._talk = conversation
        self._client = conversation.client

    @staticmethod
    def is_one(text: str) -> bool:
        """Whether what was typed is a command: it begins with a slash, and not with an image's path."""
        return text.startswith("/") and not any(text.startswith(written) for written, _ in named(text))

    def run(self, text: str) -> bool:
        """Does what the line says; False means leave."""
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
        topics = {"shortcuts": SHORTCUTS, "shortcut": SHORTCUTS, "set": SET_HELP, "show": SHOW_HELP}
        print(topics.get(topic.removeprefix("/"), HELP))
        if not topic and {"vision", "audio"} & set(self._talk.capabilities):
            print(IMAGES_HELP)

    def _clear(self, _: str) -> None:
        self._talk.messages.clear()
        print("Cleared session context")

    def _load(self, model: str) -> None:
        if len(model.split()) != 1:
            print("Usage:\n  /load <modelname>")
            return
        print(f"Loading model '{model}'")
        try:
            self._talk.load(options.model_name(model))
        except VllamaError as error:
            if error.status != 404:
                raise
            print(f"Couldn't find model '{model}'")

    def _save(self, model: str) -> None:
        if len(model.split()) != 1:
            print("Usage:\n  /save <modelname>")
            return
        talk = self._talk
        kept = {"system": talk.system, "parameters": talk.parameters, "messages": talk.own + talk.messages}
        body = {"model": model, "from": talk.question.model} | {name: value for name, value in kept.items() if value}
        for _ in self._client.stream("/api/create", body):
            pass
        print(f"Created new model '{model}'")

    def _list(self, prefix: str) -> None:
        print("\n".join(model_rows(self._client.get("/api/tags").get("models") or [], prefix)))

    def _show(self, what: str) -> None:
        if what not in ("info", "parameters", *ABSENT):
            print(f"Unknown command '/show {what}'. Type /? for help" if what else SHOW_HELP)
            return
        talk = self._talk
        asked = {"system": talk.system, "options": talk.parameters}
        asked = {name: value for name, value in asked.items() if value}
        info = self._client.post("/api/show", {"model": talk.question.model, **asked})
        if what == "info":
            print("\n".join(sections(info)))
        elif what == "parameters":
            self._show_parameters(info)
        else:
            text = (talk.system if what == "system" else "") or info.get(what) or ""
            print(str(text).rstrip("\n") or ABSENT[what])

    def _show_parameters(self, info: dict[str, Any]) -> None:
        lines = (info.get("parameters") or "No additional parameters were specified for this model.").splitlines()
        print("Model defined parameters:")
        print("\n".join(f"  {line}" for line in lines) + "\n")
        if self._talk.parameters:
            print("User defined parameters:")
            print("\n".join(f"  {name:<30} {value}" for name, value in self._talk.parameters.items()) + "\n")

    def _set(self, text: str) -> None:
        what, _, rest = text.partition(" ")
        rest = rest.strip()
        talk = self._talk
        if what == "parameter":
            self._set_parameter(rest)
        elif what == "system" and rest:
            talk.system = rest.strip('"').strip()
            print("Set system message.")
        elif what == "format":
            self._set_format(rest)
        elif what == "think":
            talk.question = replace(talk.question, think=options.think(rest or "true"))
            print(f"Set 'think' mode to '{rest}'." if rest else "Set 'think' mode.")
        elif what in ("history", "nohistory"):
            talk.keep_history = what == "history"
        elif what in _SWITCHES:
            change, answer = _SWITCHES[what]
            talk.question = replace(talk.question, **change)
            print(answer)
        else:
            known = not what or what == "system"
            print(SET_HELP if known else f"Unknown command '/set {what}'. Type /? for help")

    def _set_format(self, text: str) -> None:
        if not text:
            print("Invalid or missing format. For 'json' mode use '/set format json'")
            return
        self._talk.question = replace(self._talk.question, format=options.output_format(text))
        print(f"Set format to '{text}' mode." if text == "json" else "Set format to a schema.")

    def _set_parameter(self, text: str) -> None:
        name, *values = text.split() or [""]
        if not values:
            print(PARAMETER_HELP)
            return
        try:
            self._talk.parameters[name] = read_parameter(name, values)
        except VllamaError as error:
            print(f'Couldn\'t set parameter: "{error.text}"')
            return
        print(f"Set parameter '{name}' to '{', '.join(values)}'")


_SWITCHES: dict[str, tuple[dict[str, Any], str]] = {
    "noformat": ({"format": None}, "Disabled format."),
    "nothink": ({"think": False}, "Set 'nothink' mode."),
    "verbose": ({"verbose": True}, "Set 'verbose' mode."),
    "quiet": ({"verbose": False}, "Set 'quiet' mode."),
    "wordwrap": ({"word_wrap": True}, "Set 'wordwrap' mode."),
    "nowordwrap": ({"word_wrap": False}, "Set 'nowordwrap' mode."),
    "markdown": ({"markdown": True}, "Set 'markdown' mode."),
    "nomarkdown": ({"markdown": False}, "Set 'nomarkdown' mode."),
}
