"""vLLM's own OpenAI server as a supervised child. Nothing of vLLM or torch is imported in here."""
