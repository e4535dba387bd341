"""The harness: paired, validated measurements of vLLama and of the systems it is compared with.

It speaks HTTP to servers that it starts as child processes (and a pipe to the in-process ceiling), and
imports nothing of the server. docs/benchmarks.md says what is measured and how.
"""
