"""Writing a report, and whether one on the disk is what the records say."""

from vllama.bench.report.markdown import is_current, write

__all__ = ["is_current", "write"]
