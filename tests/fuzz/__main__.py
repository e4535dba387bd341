"""`python -m tests.fuzz`: many damaged GGUF files; exit status 1 if one breaks a promise."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.fuzz.gguf import fuzz
from tests.fuzz.headers import made, seed_of, whole
from vllama.models.overlay import Overlay


def main() -> int:
    """The seeds are the models that packages carry, and small files of our own."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1, help="other files with another number")
    parser.add_argument("--keep", type=Path, help="where files that break a promise stay")
    args = parser.parse_args()
    real = [model.gguf for model in Overlay().models() if model.gguf is not None]
    small = [seed_of(path, elements) for path in real for elements in (0, 3, 40)]
    small += [made({"general.architecture": "llama", "yes": True, "x": 0.5, "words": ["a", "b"], "numbers": [1, 2]})]
    seeds = small * 100 + [whole(path) for path in real]  # a whole vocabulary takes as long as a thousand small ones
    with tempfile.TemporaryDirectory() as folder:
        report = fuzz(args.keep or Path(folder), seeds, args.files, args.seed)
    counts = ", ".join(f"{count} {outcome}" for outcome, count in report.outcomes.most_common())
    print(f"{args.files} files: {counts}; at most {report.peak / 2**20:.1f} MiB of memory")
    for line in report.broken[:50]:
        print(line)
    return 1 if report.broken else 0


if __name__ == "__main__":
    sys.exit(main())
