"""Models of an OpenAI-compatible deployment that others run."""
