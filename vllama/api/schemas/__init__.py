"""The types of request bodies: `native` for Ollama's routes, `openai` for /v1."""
