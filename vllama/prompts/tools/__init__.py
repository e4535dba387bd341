"""Tool calls in a model's output: the tag that opens them, and the parser that takes them out of the stream."""

from vllama.prompts.tools.parser import ToolParser
from vllama.prompts.tools.tag import infer_tag

__all__ = ["ToolParser", "infer_tag"]
