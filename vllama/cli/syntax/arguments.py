"""Arguments and flags that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

HostOption = Annotated[
    str | None,
    typer.Option("--host", metavar="ADDRESS", help="Use the server there, and no other.", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Any setting of `vllama config`; repeatable.", show_default=False),
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Read this vllama.toml.", show_default=False)
]
InsecureOption = Annotated[
    bool, typer.Option("--insecure", help="Use http: for a registry on this machine or in a trusted network.")
]
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="A model's name.", show_default=False)]
QuantizeOption = Annotated[
    str, typer.Option("--quantize", "-q", metavar="TYPE", help="Quantize F16, BF16 or F32 weights.", show_default=False)
]
