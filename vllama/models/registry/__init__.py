"""The registry client: pulls models into the store and pushes them out of it, by Docker's registry protocol as Ollama
speaks it. `transfers.Transfers` is the way in; docs/registry.md is its page.
"""
