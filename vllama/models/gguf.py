"""A bounded reader of GGUF headers: metadata and tensor infos, never the weights.

A GGUF file may come from anybody. Every count, string length, array length, offset and size in it is
compared with the size of the file before anything is allocated or walked; what does not fit is a
`GGUFError` that names the place. Arrays (a vocabulary has 10^5 strings) are only walked over: `GGUFArray`
remembers where they are and decodes them when somebody asks.
"""

from __future__ import annotations

import functools
import math
import os
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from vllama.errors import ModelLoadError
from vllama.models import gguf_types as types

MAX_STRING = 4 << 20
"""Bytes of one string value; the longest chat templates have some 10^4."""
MAX_NAME = (1 << 16) - 1
"""Bytes of a key (the format's own limit) or of a tensor's name."""
MAX_TEXT = 8 << 20
"""Bytes of all keys, names and string values together: each alone may fit into a file of gigabytes."""
MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 16
MAX_ELEMENTS = 1 << 24
"""Elements of one array of numbers."""
MAX_WALKED = 1 << 22
"""Strings in all arrays together; walking more would take seconds, and no vocabulary has a tenth of that."""
MAX_DECODED = 1 << 20
"""Elements of an array that is decoded."""
MAX_DECODED_BYTES = 48 << 20
"""Memory of the strings of an array that is decoded."""
MAX_DIMENSIONS = 4
MAX_SHOWN = 150
"""Characters of the beginning and of the end of an error text that are shown."""
_CHUNK = 1 << 20
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")


class GGUFError(ModelLoadError):
    """The file is no GGUF, is damaged, or is of a version that is not read. `truncated`: it ends too early."""

    def __init__(self, text: str, *, truncated: bool = False, magic: bool = True) -> None:
        super().__init__(text)
        self.truncated = truncated
        self.magic = magic


@dataclass(frozen=True, slots=True)
class GGUFArray:
    """An array value that was not decoded: `count` elements of `type` from byte `offset` of the file on."""

    path: Path
    type: int
    count: int
    offset: int

    def __len__(self) -> int:
        return self.count

    def values(self) -> list[Any]:
        """All elements (strings, numbers, booleans). Raises `GGUFError` when they are too many or the file changed."""
        with _open(self.path) as file:
            reader = _Reader(file, self.path)
            reader.seek(self.offset)
            if self.count > MAX_DECODED:
                raise reader.error(f"an array of {self.count} elements is too large to be decoded")
            if self.type == types.STRING:
                return list(reader.strings(self.count))
            code = types.SCALARS[self.type]
            raw = reader.take(self.count * struct.calcsize("<" + code), "array")
            return list(struct.unpack(f"<{self.count}{code}", raw))


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor: `shape` in elements, innermost first; `offset` in bytes from the start of the data part."""

    name: str
    type: int
    shape: tuple[int, ...]
    offset: int

    @property
    def type_name(self) -> str:
        """The type as ggml names it: F32, Q4_K ..."""
        known = types.TENSOR_TYPES.get(self.type)
        return known[0] if known else f"unknown({self.type})"

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class GGUFMetadata:
    """What a GGUF file says of itself. `kv` keeps the order of the file; arrays are `GGUFArray`."""

    kv: dict[str, Any]
    tensors: tuple[TensorInfo, ...]
    version: int
    data_offset: int

    @property
    def architecture(self) -> str:
        """`general.architecture`, "" when absent."""
        value = self.kv.get("general.architecture")
        return value if isinstance(value, str) else ""

    def arch(self, key: str) -> Any:
        """The value of `<architecture>.<key>`, None when absent."""
        return self.kv.get(f"{self.architecture}.{key}")

    def arch_int(self, key: str) -> int:
        """The same as a non-negative integer; 0 when absent or of another type."""
        value = self.arch(key)
        return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0

    def text(self, key: str) -> str:
        """A string value, "" when absent or of another type."""
        value = self.kv.get(key)
        return value if isinstance(value, str) else ""

    @property
    def chat_template(self) -> str | None:
        """The Jinja chat template, None when absent or empty."""
        return self.text("tokenizer.chat_template") or None

    @property
    def parameter_count(self) -> int:
        """Numbers in all tensors."""
        return sum(t.elements for t in self.tensors)

    @property
    def file_type(self) -> str:
        """The quantisation's name (Q4_K_M), "unknown" when absent or new."""
        value = self.kv.get("general.file_type")
        return types.FILE_TYPES.get(value, "unknown") if isinstance(value, int) else "unknown"


def read_metadata(path: Path | str) -> GGUFMetadata:
    """Metadata and tensor infos of a file; cached for as long as its path, mtime and size stay the same.

    Raises `GGUFError` for a damaged file and `ModelLoadError` for one that cannot be opened.
    """
    if not isinstance(path, Path):  # a new Path would lose the cached hash, and requests come through here
        path = Path(path)
    try:
        stat = os.stat(path)
    except OSError as error:
        raise ModelLoadError(f"cannot open {path}: {error.strerror}") from error
    return _read_cached(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=256)
def _read_cached(path: Path, _mtime_ns: int, _size: int) -> GGUFMetadata:
    with _open(path) as file:
        return _read(_Reader(file, path), path)


def _open(path: Path) -> BinaryIO:
    try:
        # a FIFO or a device would block or never end
        if not path.is_file():
            raise ModelLoadError(f"cannot open {path}: not a regular file")
        return path.open("rb", buffering=0)
    except OSError as error:
        raise ModelLoadError(f"cannot open {path}: {error.strerror}") from error


class _Reader:
    """Sequential reads with a window of the file in memory; `left` bounds everything."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.file = file
        self.path = path
        self.size = os.fstat(file.fileno()).st_size
        self.base = 0
        self.at = 0
        self.buffer = b""
        self.text_left = MAX_TEXT
        self.walk_left = MAX_WALKED

    @property
    def offset(self) -> int:
        return self.base + self.at

    @property
    def left(self) -> int:
        return self.size - self.offset

    def error(self, text: str, *, truncated: bool = False) -> GGUFError:
        if len(text) > 2 * MAX_SHOWN:  # a key may have thousands of characters
            text = f"{text[:MAX_SHOWN]}...{text[-MAX_SHOWN:]}"
        return GGUFError(f"{self.path.name} is not a readable GGUF file: {text}", truncated=truncated)

    def seek(self, offset: int) -> None:
        self.base, self.at, self.buffer = offset, 0, b""

    def fill(self, count: int, what: str) -> None:
        """Makes `count` bytes from here on available in the buffer."""
        if count > self.left:
            raise self.error(f"{what} at byte {self.offset} goes beyond the end of the file", truncated=True)
        want = min(max(count, _CHUNK), self.left)
        parts = [self.buffer[self.at :]]
        have = len(parts[0])
        self.file.seek(self.offset + have)
        while have < want:
            part = self.file.read(want - have)
            if not part:
                raise self.error("the file became shorter while it was read", truncated=True)
            parts.append(part)
            have += len(part)
        self.base, self.at, self.buffer = self.offset, 0, b"".join(parts)

    def take(self, count: int, what: str) -> bytes:
        if self.at + count > len(self.buffer):
            self.fill(count, what)
        start = self.at
        self.at += count
        return self.buffer[start : self.at]

    def u32(self, what: str) -> int:
        return int(_U32.unpack(self.take(4, what))[0])

    def u64(self, what: str) -> int:
        return int(_U64.unpack(self.take(8, what))[0])

    def string(self, what: str, limit: int = MAX_STRING) -> str:
        raw = self.raw_string(what, limit)
        self.text_left -= len(raw)
        if self.text_left < 0:
            raise self.error(f"{what} at byte {self.offset}: keys, names and texts have more than {MAX_TEXT} bytes")
        return raw.decode("utf-8", "replace")

    def raw_string(self, what: str, limit: int = MAX_STRING) -> bytes:
        length = self.u64(what)
        if length > limit:
            raise self.error(f"{what} at byte {self.offset} has {length} bytes")
        return self.take(length, what)

    def strings(self, count: int) -> Iterator[str]:
        room = MAX_DECODED_BYTES
        for _ in range(count):
            text = self.raw_string("array element").decode("utf-8", "replace")
            room -= sys.getsizeof(text)
            if room < 0:
                raise self.error(f"an array of {count} strings is too large to be decoded")
            yield text

    def skip_strings(self, count: int, what: str) -> None:
        """Walks over `count` strings. The hot loop of every model load: no calls but one."""
        self.walk_left -= count
        if self.walk_left < 0:
            raise self.error(f"{what} at byte {self.offset}: arrays have more than {MAX_WALKED} strings")
        unpack = _U64.unpack_from
        while count:
            buffer, at, end = self.buffer, self.at, len(self.buffer)
            while count and at + 8 <= end:
                (length,) = unpack(buffer, at)
                if at + 8 + length > end:
                    break
                at += 8 + length
                count -= 1
            self.at = at
            if not count:
                return
            self.raw_string(what)
            count -= 1


def _read(reader: _Reader, path: Path) -> GGUFMetadata:
    if reader.size < 4 or reader.take(4, "magic") != types.MAGIC:
        raise GGUFError(f"{path.name} is not a GGUF file", magic=False)
    version = reader.u32("version")
    if version not in types.VERSIONS:
        if int.from_bytes(version.to_bytes(4, "little"), "big") in types.VERSIONS:
            raise reader.error("it is big-endian")
        raise reader.error(f"version {version} is not supported")
    tensor_count, key_count = reader.u64("tensor count"), reader.u64("key count")
    # the smallest tensor info has 24 bytes, the smallest key-value pair 13
    if tensor_count > min(MAX_TENSORS, reader.left // 24):
        raise reader.error(f"{tensor_count} tensors do not fit", truncated=tensor_count <= MAX_TENSORS)
    if key_count > min(MAX_KEYS, reader.left // 13):
        raise reader.error(f"{key_count} metadata keys do not fit", truncated=key_count <= MAX_KEYS)

    kv: dict[str, Any] = {}
    for _ in range(key_count):
        key = reader.string("metadata key", MAX_NAME)
        if key in kv:
            raise reader.error(f"the key {key!r} occurs twice")
        kv[key] = _value(reader, key, path)

    alignment = kv.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1) or alignment > 1 << 20:
        raise reader.error(f"alignment {alignment!r} is not a power of two")
    found: dict[str, TensorInfo] = {}
    for _ in range(tensor_count):
        tensor = _tensor(reader)
        if tensor.name in found:  # told at once: zeros in a large file look like many tensors without a name
            raise reader.error("a tensor name occurs twice")
        found[tensor.name] = tensor
    tensors = tuple(found.values())
    data_offset = -(-reader.offset // alignment) * alignment
    for tensor in tensors:
        _check_tensor(reader, tensor, data_offset, alignment)
    return GGUFMetadata(kv, tensors, version, data_offset)


def _value(reader: _Reader, key: str, path: Path) -> Any:
    kind = reader.u32(f"type of {key!r}")
    if kind == types.STRING:
        return reader.string(f"value of {key!r}")
    if kind in types.SCALARS:
        code = "<" + types.SCALARS[kind]
        (value,) = struct.unpack(code, reader.take(struct.calcsize(code), f"value of {key!r}"))
        return shortest_float32(value) if kind == 6 else value
    if kind != types.ARRAY:
        raise reader.error(f"{key!r} has the unknown type {kind}")
    element, count = reader.u32(f"array {key!r}"), reader.u64(f"array {key!r}")
    if element == types.STRING:
        smallest = 8
    elif element in types.SCALARS:
        smallest = struct.calcsize("<" + types.SCALARS[element])
    else:
        raise reader.error(f"array {key!r} has the unsupported element type {element}")
    if count > min(MAX_ELEMENTS, reader.left // smallest):
        raise reader.error(f"array {key!r} of {count} elements does not fit", truncated=count <= MAX_ELEMENTS)
    array = GGUFArray(path, element, count, reader.offset)
    if element == types.STRING:
        reader.skip_strings(count, f"array {key!r}")
    else:
        end = reader.offset + count * smallest
        if end - reader.base <= len(reader.buffer):
            reader.at = end - reader.base
        else:
            reader.seek(end)
    return array


def shortest_float32(value: float) -> float:
    """The float64 with the fewest digits that is the same float32 (1e-05 and not 9.999999747378752e-06)."""
    if not math.isfinite(value):
        return value
    for digits in range(6, 9):
        short = float(f"{value:.{digits}g}")
        try:
            if struct.unpack("<f", struct.pack("<f", short))[0] == value:
                return short
        except OverflowError:
            continue
    return value


def _tensor(reader: _Reader) -> TensorInfo:
    name = reader.string("tensor name", MAX_NAME)
    dimensions = reader.u32(f"tensor {name!r}")
    if dimensions > MAX_DIMENSIONS:
        raise reader.error(f"tensor {name!r} has {dimensions} dimensions")
    shape = struct.unpack(f"<{dimensions}Q", reader.take(8 * dimensions, f"tensor {name!r}"))
    kind, offset = reader.u32(f"tensor {name!r}"), reader.u64(f"tensor {name!r}")
    return TensorInfo(name, kind, shape, offset)


def _check_tensor(reader: _Reader, tensor: TensorInfo, data_offset: int, alignment: int) -> None:
    if tensor.offset % alignment:
        raise reader.error(f"tensor {tensor.name!r} is not aligned")
    size = 0
    if tensor.type in types.TENSOR_TYPES:
        _, block, block_bytes = types.TENSOR_TYPES[tensor.type]
        if tensor.shape and tensor.shape[0] % block:
            raise reader.error(f"tensor {tensor.name!r} does not divide into blocks of {block}")
        size = tensor.elements // block * block_bytes
    else:
        size = tensor.elements // 8  # a type from after our time: no number takes less than a bit
    if data_offset + tensor.offset + size > reader.size:
        raise reader.error(f"tensor {tensor.name!r} goes beyond the end of the file", truncated=True)
