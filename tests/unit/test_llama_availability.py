"""What can be told of the library without loading it."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllama.engines.llama.availability import openmp


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("libggml-cpu.so", b"\x7fELF libm.so.6\0libgomp.so.1\0", True),
        ("libggml-cpu.dylib", b"@rpath/libomp.dylib", True),
        ("ggml-cpu.dll", b"VCOMP140.DLL vcomp140.dll", True),
        ("libggml-cpu.so", b"\x7fELF libm.so.6\0libc.so.6\0", False),
        ("other.so", b"libgomp", None),
    ],
)
def test_openmp_is_seen_in_the_librarys_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, expected: bool | None
) -> None:
    (tmp_path / name).write_bytes(content)
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(tmp_path))
    assert openmp() is expected
