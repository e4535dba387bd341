"""Tool calls in a model's output: which format they are in, and the parsers that take them out of the stream."""

from vllama.prompts.tools.harmony import HarmonyParser
from vllama.prompts.tools.output import OutputParser, Piece, Stages
from vllama.prompts.tools.parser import ToolParser
from vllama.prompts.tools.registry import FORMATS, HARMONY, Format, choose
from vllama.prompts.tools.tag import infer_tag

__all__ = [
    "FORMATS",
    "HARMONY",
    "Format",
    "HarmonyParser",
    "OutputParser",
    "Piece",
    "Stages",
    "ToolParser",
    "choose",
    "infer_tag",
]
