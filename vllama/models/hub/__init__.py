"""Models from Hugging Face through its own library: files stay in its cache, a record makes them a model here."""
