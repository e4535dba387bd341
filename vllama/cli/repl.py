"""The terminal of the interactive prompt."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from vllama.cli.client import Client
from vllama.cli.conversation import Conversation
from vllama.cli.run import Question
from vllama.cli.transfer import with_pull
from vllama.config import Settings

PROMPT = ">>> "
CONTINUED = "... "
FENCE = '"""'


class SwitchedHistory(FileHistory):
    """A history file that is written only while the session says so."""

    def __init__(self, path: Path, wanted: Callable[[], bool]) -> None:
        super().__init__(str(path))
        self._wanted = wanted

    def store_string(self, string: str) -> None:
        """Called by prompt_toolkit for each line that was entered."""
        if self._wanted():
            super().store_string(string)


def converse(client: Client, question: Question, settings: Settings) -> int:
    """Load the model, then ask and answer until /bye or Ctrl+D; returns the exit status."""
    conversation = Conversation(client, question)
    with_pull(client, question.model, question.insecure, lambda: conversation.load(question.model))
    session: PromptSession[str] = PromptSession(history=_history(settings, conversation), key_bindings=_keys())
    while True:
        try:
            text = _read(session)
        except KeyboardInterrupt:
            # Ctrl+C drops what was typed so far; who typed nothing wants to leave.
            if not session.default_buffer.text:
                print("\nUse Ctrl + d or /bye to exit.")
            session.default_buffer.reset()  # or a second Ctrl+C, before the next prompt is up, would find it again
            continue
        except EOFError:
            print()
            return 0
        if not conversation.enter(text):
            return 0


def _keys() -> KeyBindings:
    """Ctrl+G writes the message in an editor, as in Ollama: OLLAMA_EDITOR, else VISUAL or EDITOR."""
    keys = KeyBindings()

    @keys.add("c-g")
    def edit(event: KeyPressEvent) -> None:
        if editor := os.environ.get("OLLAMA_EDITOR"):
            os.environ["VISUAL"] = editor  # where prompt_toolkit looks
        event.current_buffer.open_in_editor()

    return keys


def _read(session: PromptSession[str]) -> str:
    """One message: a line, or the lines between two fences."""
    hint = FormattedText([("ansigray", "Send a message (/? for help)")])
    line = session.prompt(PROMPT, placeholder=hint)
    head, fence, rest = line.partition(FENCE)
    if not fence or (head.strip() and not head.startswith("/set system")):
        return line
    lines = [rest]
    while FENCE not in lines[-1]:
        lines.append(session.prompt(CONTINUED))
    lines[-1] = lines[-1].partition(FENCE)[0]
    return head + "\n".join(lines).strip("\n")


def _history(settings: Settings, conversation: Conversation) -> History:
    if settings.nohistory:
        return InMemoryHistory()
    from platformdirs import user_data_path

    path = user_data_path("vllama", appauthor=False) / "history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
    except OSError:
        return InMemoryHistory()
    return SwitchedHistory(path, lambda: conversation.keep_history)
