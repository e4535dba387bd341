"""`vllama serve` whose workers check their scheduler after every step: a state that makes no sense ends the worker."""

from __future__ import annotations

import os
import sys

from vllama.cli.main import main
from vllama.engines.llama.engine import LlamaEngine

if __name__ == "__main__":
    os.environ.setdefault("FAULTS", "{}")
    LlamaEngine.worker = "tests.contract.faulty_worker"
    main(["serve", *sys.argv[1:]])
