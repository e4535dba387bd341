"""How families of models mark their thoughts: one table, searched by what a model's Jinja template writes.

Go templates are not searched: their tags are read from the template (`infer_tags`). gpt-oss has channels instead of
tags (`tools/harmony.py`). Every format is on by default where a model can think; a level is for the template only.
"""

from __future__ import annotations

from dataclasses import dataclass

from vllama.prompts.thinking import GO_SPACE, ThinkingParser, overlap


@dataclass(frozen=True, slots=True)
class ThinkingFormat:
    """`open` and `close` stand around the thoughts, `answer` (if the format has it) around what follows.

    `source` names the repository whose template shows it. A template writes the format if it contains all of `marks`.
    `control` are texts of control tokens in the tags, which the engine must pass on.
    """

    name: str
    source: str
    open: str
    close: str
    marks: tuple[str, ...]
    answer: tuple[str, str] = ("", "")
    control: tuple[str, ...] = ()


FORMATS: tuple[ThinkingFormat, ...] = (
    ThinkingFormat(
        "granite-3.3",
        "ibm-granite/granite-3.3-8b-instruct",
        "<think>",
        "</think>",
        marks=("<think>", "<response>"),
        answer=("<response>", "</response>"),
    ),
    ThinkingFormat("think", "Qwen/Qwen3-8B", "<think>", "</think>", marks=("<think>",)),
    ThinkingFormat("deepseek-r1", "deepseek-ai/DeepSeek-R1", "<think>", "</think>", marks=("</think>",)),
    ThinkingFormat(
        "magistral",
        "mistralai/Magistral-Small-2509",
        "[THINK]",
        "[/THINK]",
        marks=("[THINK]",),
        control=("[THINK]", "[/THINK]"),
    ),
    ThinkingFormat(
        "seed", "ByteDance-Seed/Seed-OSS-36B-Instruct", "<seed:think>", "</seed:think>", marks=("<seed:think>",)
    ),
    ThinkingFormat(
        "command-r",
        "CohereLabs/c4ai-command-r7b-12-2024",
        "<|START_THINKING|>",
        "<|END_THINKING|>",
        marks=("<|START_THINKING|>",),
        control=("<|START_THINKING|>", "<|END_THINKING|>"),
    ),
    ThinkingFormat(
        "gemma4",
        "google/gemma-4-31B-it",
        "<|channel>thought",
        "<channel|>",
        marks=("<|channel>",),
        control=("<|channel>", "<channel|>"),
    ),
    ThinkingFormat(
        "granite-3.2",
        "ibm-granite/granite-3.2-8b-instruct",
        "Here is my thought process:",
        "Here is my response:",
        marks=("Here is my thought process:", "Here is my response:"),
    ),
    ThinkingFormat("exaone", "LGAI-EXAONE/EXAONE-Deep-7.8B", "<thought>", "</thought>", marks=("<thought>",)),
)
"""The first that fits is taken."""


def find(jinja: str) -> ThinkingFormat | None:
    """The format that a Jinja template writes, None if it writes none."""
    return next((known for known in FORMATS if all(mark in jinja for mark in known.marks)), None)


class AnswerParser:
    """A thinking parser for formats whose answer stands between marks too.

    Without its opening mark an answer is left alone, and a closing mark counts only at the very end.
    """

    __slots__ = ("_close", "_held", "_inside", "_open", "_space", "_thinking")

    def __init__(self, thinking: ThinkingParser, open: str, close: str) -> None:
        self._thinking = thinking
        self._open = open
        self._close = close
        self._held = ""
        self._space: list[str] = []
        """White space before the opening mark, or a closing mark and white space."""
        self._inside: bool | None = None
        """None until the beginning of the answer is known."""

    @property
    def held(self) -> int:
        """How many characters are looked at again with the next piece: less than the tags have."""
        return self._thinking.held + len(self._held)

    def add(self, text: str) -> tuple[str, str]:
        """Take the next piece of output; return (thinking, content) that can be passed on now."""
        thinking, content = self._thinking.add(text)
        return thinking, self._unwrap(content) if content else ""

    def finish(self) -> tuple[str, str]:
        """The same for what was held back, at the end of the output; the closing mark goes."""
        thinking, content = self._thinking.finish()
        content = self._unwrap(content) if content else ""
        if not self._inside:
            content += "".join(self._space)
        if not self._inside or len(self._held) < 3:
            content += self._held
        self._held, self._space = "", []
        return thinking, content

    def _unwrap(self, text: str) -> str:
        text = self._held + text
        self._held = ""
        if self._inside is None:
            start = text.lstrip(GO_SPACE)
            self._space.append(text[: len(text) - len(start)])
            if len(start) < len(self._open) and self._open.startswith(start):
                self._held = start
                return ""
            self._inside = start.startswith(self._open)
            text = start[len(self._open) :] if self._inside else "".join([*self._space, start])
            self._space.clear()
        if not self._inside:
            return text
        if self._space:
            if not text.strip(GO_SPACE):
                self._space.append(text)
                return ""
            text = "".join([*self._space, text])
            self._space.clear()
        at = text.rfind(self._close)
        if at >= 0 and not text[at + len(self._close) :].strip(GO_SPACE):
            self._space.append(text[at:])
            return text[:at]
        length = overlap(text, self._close)
        self._held = text[len(text) - length :]
        return text[: len(text) - length]
