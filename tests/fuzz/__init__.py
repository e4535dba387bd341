"""Fuzzing: `python -m tests.fuzz --files 100000`. A small share runs with the other tests."""
