"""The process that quantises: `python -m vllama.engines.llama.quantize SOURCE TARGET TYPE THREADS`.

llama.cpp ends the process at what it cannot stand; here nothing else goes with it.
"""

from __future__ import annotations

import os
import sys

FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7, "Q4_K_S": 14, "Q4_K_M": 15, "BF16": 32}
"""llama.cpp's numbers of the file types that can be asked for."""


def main(source: str, target: str, wanted: str, threads: int) -> int:
    """Writes the source as the target; exit status 0, or 1 with the reason as the last line on standard error."""
    from vllama.engines.llama.bindings import Log, die_with_parent, lib

    die_with_parent()
    log = Log(debug=False)
    params = lib.llama_model_quantize_default_params()
    params.ftype = FILE_TYPES[wanted]
    params.nthread = threads
    if lib.llama_model_quantize(os.fsencode(source), os.fsencode(target), params) != 0:
        print(log.reason(), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
