"""Which files of a repository make a model: one GGUF by its quantisation, with all its pieces, or safetensors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vllama.errors import NotFoundError, RequestError, ServerError

SAFETENSORS = "safetensors"
"""The tag that asks for safetensors rather than a quantisation."""
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})")
_QUANT = re.compile(
    r"(?:^|[-_./])((?:UD-)?(?:I?Q\d(?:_(?:\d|K|NL|X?X?S|S|M|L|XL))*|TQ\d_\d|MXFP4(?:_MOE)?|B?F16|F32|FP16|FP32))$", re.I
)
_NOT_A_MODEL = re.compile(r"mmproj|imatrix|ggml-vocab", re.I)
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\]")
_PREFERRED = (
    "Q4_K_M UD-Q4_K_XL Q4_K_XL Q4_K_L Q4_K_S Q4_0 Q4_1 IQ4_NL IQ4_XS MXFP4 MXFP4_MOE "
    "Q5_K_M Q5_K_S Q5_0 Q5_1 Q6_K Q8_0 Q3_K_L Q3_K_M Q3_K_S Q2_K BF16 F16 F32"
).split()
_BESIDE_WEIGHTS = re.compile(
    r"(config|generation_config|preprocessor_config|processor_config|special_tokens_map|added_tokens"
    r"|tokenizer|tokenizer_config|vocab|chat_template)\.json|merges\.txt|vocab\.txt|chat_template\.jinja"
    r"|[^/]+\.model|[^/]+\.tiktoken|[^/]+\.safetensors\.index\.json"
)


@dataclass(frozen=True, slots=True)
class RepoFile:
    """One file of a repository. `size` in bytes; `sha256` 64 hex digits, "" for small files that git itself keeps."""

    path: str
    size: int
    sha256: str = ""

    @property
    def safe(self) -> bool:
        """Whether the path stays below the folder that it is put into."""
        return not _FORBIDDEN.search(self.path) and not self.path.startswith("/") and ".." not in self.path.split("/")


@dataclass(frozen=True, slots=True)
class Variant:
    """One GGUF model of a repository. `stem` is its path without number and ending; `files` in loading order.

    `pieces` is how many files there should be; `quant` is as the file name has it, "" when it has none.
    """

    stem: str
    quant: str
    files: tuple[RepoFile, ...]
    pieces: int = 1

    @property
    def label(self) -> str:
        """What a user writes as the tag."""
        return self.quant or self.stem.rpartition("/")[2]


def variants(files: Iterable[RepoFile]) -> list[Variant]:
    """The GGUF models among the files, pieces put together. Projectors and the like are none."""
    groups: dict[tuple[str, int], dict[int, RepoFile]] = {}
    for file in files:
        name = file.path.rpartition("/")[2]
        if not name.lower().endswith(".gguf") or _NOT_A_MODEL.search(name) or not file.safe:
            continue
        stem = file.path[: -len(".gguf")]
        shard = _SHARD.fullmatch(stem)
        key, number = ((shard["stem"], int(shard["count"])), int(shard["number"])) if shard else ((stem, 1), 1)
        groups.setdefault(key, {})[number] = file
    found = [
        Variant(stem, _quant(stem), tuple(numbered[n] for n in sorted(numbered)), pieces)
        for (stem, pieces), numbered in groups.items()
    ]
    return sorted(found, key=lambda variant: variant.stem)


def _quant(stem: str) -> str:
    folder, _, name = stem.rpartition("/")
    match = _QUANT.search(name) or _QUANT.search(folder)
    return match[1].upper() if match else ""


def pick(found: Sequence[Variant], tag: str, repo: str) -> Variant:
    """The variant that a tag means: "latest" is Q4_K_M or what comes nearest; else a quantisation or a file's name.

    Raises `NotFoundError` that lists what there is, `RequestError` when a tag fits several, and `ServerError` for a
    model of which pieces are missing.
    """
    chosen = _preferred(found) if tag == "latest" else _called(found, tag)
    if not chosen:
        choices = ", ".join(sorted({variant.label for variant in found}))
        what = "nothing that is chosen by itself" if tag == "latest" else f"no {tag}"
        raise NotFoundError(f"{repo} has {what}; ask for one of {choices}, for instance {repo}:{_first(choices)}")
    if len(chosen) > 1:
        names = ", ".join(variant.stem.rpartition("/")[2] + ".gguf" for variant in chosen)
        raise RequestError(f"{repo} has several files for {tag}: name one of {names} after the colon")
    (variant,) = chosen
    if len(variant.files) != variant.pieces:
        raise ServerError(
            f"{repo} is incomplete: it has {len(variant.files)} of {variant.pieces} pieces of {variant.stem}"
        )
    return variant


def _first(choices: str) -> str:
    return choices.split(", ")[0]


def _preferred(found: Sequence[Variant]) -> list[Variant]:
    if len(found) == 1:
        return list(found)
    for quant in _PREFERRED:
        if same := [variant for variant in found if variant.quant == quant]:
            return same
    return []


def _called(found: Sequence[Variant], tag: str) -> list[Variant]:
    wanted = _plain(tag)
    for variant in found:
        if tag.lower() in {
            text.lower() for file in variant.files for text in (file.path, file.path.rpartition("/")[2])
        }:
            return [variant]
    if stems := [v for v in found if v.stem.rpartition("/")[2].lower() == tag.lower().removesuffix(".gguf")]:
        return stems
    return [variant for variant in found if variant.quant and _plain(variant.quant) == wanted]


def _plain(quant: str) -> str:
    text = quant.upper().replace("-", "_")
    return {"FP16": "F16", "FP32": "F32"}.get(text, text)


def safetensors(files: Iterable[RepoFile]) -> list[RepoFile]:
    """The weights in the main folder with what an engine needs beside them; [] when there are no weights."""
    top = [file for file in files if "/" not in file.path and file.safe]
    weights = [file for file in top if file.path.endswith(".safetensors")]
    # some publish the same weights a second time in their own layout
    weights = [file for file in weights if not file.path.startswith("consolidated")] or weights
    if not weights:
        return []
    beside = [file for file in top if _BESIDE_WEIGHTS.fullmatch(file.path) and not file.path.startswith("consolidated")]
    return beside + weights
