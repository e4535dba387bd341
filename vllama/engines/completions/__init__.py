"""What the engines behind an OpenAI-compatible HTTP server share: the client, the frames, the requests."""
