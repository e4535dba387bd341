"""vLLama: Ollama's API on the engine that suits the machine, and the harness that measures it."""

__version__ = "0.1.0"
