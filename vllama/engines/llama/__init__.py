"""llama.cpp behind the engine protocol: a worker process per model with our own continuous batcher.

engine.py        the gateway's side: starts the worker, turns frames into events
frames.py        what travels between the two processes
worker.py        the worker's main loop: read frames, plan, decode, sample, send one frame
jobs.py          one request inside the worker: sampler, text, counters
scheduler.py     which tokens of which sequence go into the next step (pure: no ctypes, no clock)
bindings/        the only files that touch ctypes and llama_cpp
offloading.py    how many layers a GPU takes (pure)
"""
