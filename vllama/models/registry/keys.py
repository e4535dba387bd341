"""The user's key, `~/.ollama/id_ed25519` in OpenSSH's format: made when it is first needed, shared with Ollama."""

from __future__ import annotations

import base64
import contextlib
import logging
import os
import secrets
import struct
from dataclasses import dataclass
from pathlib import Path

from vllama.errors import ServerError
from vllama.models.registry import ed25519

log = logging.getLogger(__name__)

_MAGIC = b"openssh-key-v1\0"
_KIND = b"ssh-ed25519"
_BEGIN, _END = "-----BEGIN OPENSSH PRIVATE KEY-----", "-----END OPENSSH PRIVATE KEY-----"
_MAX_FILE = 64 << 10


@dataclass(frozen=True, slots=True)
class Key:
    """A private seed of 32 bytes and its public key."""

    seed: bytes
    public: bytes

    @property
    def line(self) -> str:
        """The public key as OpenSSH writes it: what a user gives to ollama.com or huggingface.co."""
        return f"ssh-ed25519 {_encoded_public(self.public)}"

    def authorization(self, text: str) -> str:
        """The header's value for a signed text: public key and signature, both base64."""
        signature = base64.b64encode(ed25519.sign(self.seed, text.encode())).decode()
        return f"{_encoded_public(self.public)}:{signature}"


def default_path() -> Path:
    """Where Ollama has it."""
    return Path.home() / ".ollama" / "id_ed25519"


def load_or_create(path: Path) -> Key | None:
    """The key of the file; a new one if there is none. None where none can be kept. Raises `ServerError` if damaged."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return load(path)
    seed = secrets.token_bytes(32)
    key = Key(seed, ed25519.public_key(seed))
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        try:
            _write_new(path, dump(key).encode(), 0o600)
        except FileExistsError:  # another process was quicker
            return load(path)
        path.with_name(path.name + ".pub").write_text(key.line + "\n")
    except OSError as error:
        log.warning("no key can be kept in %s (%s): asking registries without one", path.parent, error.strerror)
        return None
    log.info("made a new key, its public part is: %s", key.line)
    return key


def load(path: Path) -> Key:
    """Reads a private key. Raises `FileNotFoundError`, or `ServerError` when it cannot be used."""
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_FILE).decode("ascii", "replace")
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise ServerError(f"cannot read the key {path}: {error.strerror}") from error
    try:
        return parse(text)
    except (ValueError, struct.error) as error:
        raise ServerError(f"cannot use the key {path}: {error}") from error


def parse(text: str) -> Key:
    """Takes the file's text apart. Raises `ValueError` or `struct.error`."""
    head, body, tail = text.partition(_BEGIN)[1], *text.partition(_BEGIN)[2].partition(_END)[:2]
    if not head or not tail:
        raise ValueError("it is no OpenSSH private key")
    data = base64.b64decode("".join(body.split()), validate=True)
    if not data.startswith(_MAGIC):
        raise ValueError("it is no OpenSSH private key")
    rest = data[len(_MAGIC) :]
    cipher, rest = _string(rest)
    for _ in range(2):  # how the password would be stretched
        _, rest = _string(rest)
    if cipher != b"none":
        raise ValueError("it has a password")
    (count,) = struct.unpack(">I", rest[:4])
    _, rest = _string(rest[4:])
    inner, _ = _string(rest)
    first, second = struct.unpack(">II", inner[:8])
    kind, inner = _string(inner[8:])
    if count != 1 or first != second or kind != _KIND:
        raise ValueError("it is no ed25519 key")
    public, inner = _string(inner)
    private, _ = _string(inner)
    if len(public) != 32 or len(private) != 64 or private[32:] != public:
        raise ValueError("its parts do not fit together")
    return Key(private[:32], public)


def dump(key: Key) -> str:
    """The text of a private key file without a password."""
    check = secrets.token_bytes(4)
    inner = check + check + _packed(_KIND) + _packed(key.public) + _packed(key.seed + key.public) + _packed(b"")
    inner += bytes(range(1, 1 + -len(inner) % 8))
    data = _MAGIC + _packed(b"none") + _packed(b"none") + _packed(b"") + struct.pack(">I", 1)
    data += _packed(_packed(_KIND) + _packed(key.public)) + _packed(inner)
    text = base64.b64encode(data).decode()
    lines = [text[at : at + 70] for at in range(0, len(text), 70)]
    return "\n".join([_BEGIN, *lines, _END, ""])


def _encoded_public(public: bytes) -> str:
    return base64.b64encode(_packed(_KIND) + _packed(public)).decode()


def _packed(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _string(data: bytes) -> tuple[bytes, bytes]:
    (length,) = struct.unpack(">I", data[:4])
    if length > len(data) - 4:
        raise ValueError("it is cut off")
    return data[4 : 4 + length], data[4 + length :]


def _write_new(path: Path, data: bytes, mode: int) -> None:
    """Writes the whole file or nothing, and never over one that is there."""
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    finally:
        os.unlink(temporary)
