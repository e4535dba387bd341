"""Which format a model's calls are in: one table, read by the text of its template, its parser's name and its family.

A Go template keeps Ollama's own way of finding calls (`ToolParser`), so that they are found exactly where Ollama finds
them, except for the formats that it cannot read. A Jinja template's format is recognised by what it writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vllama.prompts.messages import Tool
from vllama.prompts.tools import (
    command_r,
    deepseek,
    dsml,
    gemma,
    glm,
    granite,
    harmony,
    hermes,
    kimi,
    lfm2,
    llama3,
    mistral,
    olmo,
    pythonic,
    qwen3_coder,
)
from vllama.prompts.tools.blocks import BlockParser, Rule


@dataclass(frozen=True, slots=True)
class Format:
    """One format of tool calls.

    `source` names the repository whose template shows it. `marks`: a template that contains one of them writes it.
    `families` are architectures that write it whatever their template is, `parsers` Ollama's names for it (PARSER).
    `control`: texts of control tokens that the engine must pass on. `dropped` are markers around calls or answers.
    `go`: the generic parser cannot read it, so a Go template is searched for the marks as well.
    `always`: its markers are in the output of every request, also without tools.
    """

    name: str
    source: str
    marks: tuple[str, ...]
    rules: tuple[Rule, ...] = ()
    dropped: tuple[str, ...] = ()
    control: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    parsers: tuple[str, ...] = ()
    go: bool = False
    always: bool = False

    def parser(self, tools: Sequence[Tool]) -> BlockParser:
        """A parser for one answer. Harmony has its own (`HarmonyParser`): it is the whole output's."""
        return BlockParser(tools, self.rules if tools else (), self.dropped)


HARMONY = Format(
    "harmony",
    "openai/gpt-oss-20b",
    marks=(harmony.CHANNEL,),
    control=harmony.MARKERS,
    families=("gpt-oss", "gptoss"),
    parsers=("harmony",),
    go=True,
    always=True,
)

FORMATS: tuple[Format, ...] = (
    HARMONY,
    Format(
        "kimi",
        "moonshotai/Kimi-K2-Instruct",
        marks=(kimi.CALL,),
        rules=kimi.RULES,
        dropped=kimi.DROPPED,
        control=(kimi.SECTION, kimi.SECTION_END, kimi.CALL, kimi.CALL_END, kimi.ARGUMENT),
        go=True,
    ),
    Format(
        "deepseek-dsml",
        "deepseek-ai/DeepSeek-V3.2",
        marks=(dsml.CALL,),
        rules=dsml.RULES,
        control=(dsml.MARK,),
        go=True,
    ),
    Format(
        "deepseek",
        "deepseek-ai/DeepSeek-V3",
        marks=(deepseek.CALL,),
        rules=deepseek.RULES,
        dropped=deepseek.DROPPED,
        control=(deepseek.CALLS, deepseek.CALLS_END, deepseek.CALL, deepseek.CALL_END, deepseek.SEPARATOR),
        parsers=("deepseek3", "cogito"),
        go=True,
    ),
    Format(
        "functiongemma",
        "google/functiongemma-270m-it",
        marks=(gemma.FUNCTION_OPEN,),
        rules=gemma.FUNCTION_RULES,
        control=(gemma.FUNCTION_OPEN, gemma.FUNCTION_CLOSE, gemma.ESCAPE),
        parsers=("functiongemma",),
        go=True,
    ),
    Format(
        "gemma4",
        "google/gemma-4-31B-it",
        marks=(gemma.GEMMA4_OPEN,),
        rules=gemma.GEMMA4_RULES,
        control=(gemma.GEMMA4_OPEN, gemma.GEMMA4_CLOSE, gemma.GEMMA4_QUOTE),
        families=("gemma4",),
        parsers=("gemma4", "gemma4-no-thinking"),
        go=True,
    ),
    Format(
        "command-r",
        "CohereLabs/c4ai-command-r7b-12-2024",
        marks=(command_r.OPEN,),
        rules=command_r.RULES,
        dropped=command_r.DROPPED,
        control=(command_r.OPEN, command_r.CLOSE, *command_r.DROPPED),
        parsers=("cohere",),
        go=True,
        always=True,
    ),
    Format(
        "command-r-old",
        "CohereLabs/c4ai-command-r-v01",
        marks=("Write 'Action:' followed by", "Action: ```json", "Action:```json"),
        rules=command_r.OLD_RULES,
        go=True,
    ),
    Format(
        "mistral",
        "mistralai/Mistral-Nemo-Instruct-2407",
        marks=(mistral.OPEN,),
        rules=mistral.RULES,
        control=(mistral.OPEN, mistral.ARGS, mistral.CALL_ID),
        parsers=("ministral",),
    ),
    Format(
        "glm",
        "zai-org/GLM-4.5",
        marks=("<arg_key>",),
        rules=glm.RULES,
        parsers=("glm-4.6", "glm-4.7"),
        go=True,
    ),
    Format(
        "qwen3-coder",
        "Qwen/Qwen3-Coder-30B-A3B-Instruct",
        marks=("<function=",),
        rules=qwen3_coder.RULES,
        parsers=("qwen3-coder", "qwen3.5", "nemotron-3-nano", "nemotron-3.5-nano"),
        go=True,
    ),
    Format(
        "granite",
        "ibm-granite/granite-3.3-8b-instruct",
        marks=(granite.OPEN,),
        rules=granite.RULES,
        control=(granite.OPEN, granite.CLOSE),
    ),
    Format(
        "hermes",
        "Qwen/Qwen3-8B",
        marks=(hermes.OPEN,),
        rules=hermes.RULES,
        control=(hermes.OPEN, hermes.CLOSE),
        parsers=("qwen3", "qwen3-thinking", "qwen3-vl-instruct", "qwen3-vl-thinking"),
    ),
    Format(
        "olmo3",
        "allenai/Olmo-3-7B-Instruct",
        marks=(olmo.OPEN,),
        rules=olmo.RULES,
        control=(olmo.OPEN, olmo.CLOSE),
        parsers=("olmo3", "olmo3-think"),
    ),
    Format(
        "lfm2",
        "LiquidAI/LFM2-1.2B",
        marks=(lfm2.OPEN, "<|tool_list_start|>"),
        rules=lfm2.RULES,
        control=(lfm2.OPEN, lfm2.CLOSE),
        parsers=("lfm2", "lfm2-thinking"),
        go=True,
    ),
    Format(
        "pythonic",
        "meta-llama/Llama-4-Scout-17B-16E-Instruct",
        marks=(pythonic.OPEN, "[func_name1(params_name1="),
        rules=pythonic.RULES,
        control=(pythonic.OPEN, pythonic.CLOSE),
    ),
    Format(
        "llama3",
        "meta-llama/Llama-3.1-8B-Instruct",
        marks=(llama3.TAG, "Environment: ipython"),
        rules=llama3.RULES,
        control=(llama3.TAG, llama3.MESSAGE_END),
    ),
)
"""The first that fits is taken: GLM and Qwen3-Coder write `<tool_call>` too."""


def choose(*, go: str | None = None, jinja: str | None = None, family: str = "", parser: str = "") -> Format | None:
    """The format of a model, None for Ollama's generic one.

    `jinja` is the template in use, None where the Go template is. `parser` is Ollama's PARSER of the model.
    """
    for known in FORMATS:
        if (parser and parser in known.parsers) or (family and family in known.families):
            return known
    text = jinja if jinja is not None else go or ""
    return next(
        (known for known in FORMATS if (jinja is not None or known.go) and any(mark in text for mark in known.marks)),
        None,
    )
