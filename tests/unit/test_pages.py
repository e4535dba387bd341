"""When weights are copied into huge pages."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllama.engines.pages import copies, environment, huge_pages


def machine(root: Path, mode: str, available_kib: int) -> Path:
    (root / "sys/kernel/mm/transparent_hugepage").mkdir(parents=True)
    (root / "sys/kernel/mm/transparent_hugepage/enabled").write_text(mode)
    (root / "proc").mkdir()
    (root / "proc/meminfo").write_text(f"MemTotal: 9999999 kB\nMemAvailable: {available_kib} kB\n")
    return root


@pytest.fixture
def weights(tmp_path: Path) -> str:
    path = tmp_path / "weights.gguf"
    path.write_bytes(bytes(100 * 1024))
    return str(path)


@pytest.mark.parametrize(
    ("mode", "found"),
    [("always [madvise] never", True), ("[always] madvise never", True), ("always madvise [never]", False)],
)
def test_the_kernel_says_whether_there_are_huge_pages(tmp_path: Path, mode: str, found: bool) -> None:
    assert huge_pages(machine(tmp_path, mode, 1)) is found


def test_a_kernel_without_them_says_nothing(tmp_path: Path) -> None:
    assert huge_pages(tmp_path) is False


def test_weights_are_copied_while_they_are_small_beside_the_free_memory(tmp_path: Path, weights: str) -> None:
    roomy = machine(tmp_path / "roomy", "[madvise]", 200)
    tight = machine(tmp_path / "tight", "[madvise]", 199)
    assert copies(weights, offloads=False, root=roomy, system="linux")
    assert not copies(weights, offloads=False, root=tight, system="linux")


def test_weights_stay_mapped_where_copying_brings_nothing(tmp_path: Path, weights: str) -> None:
    without = machine(tmp_path / "without", "[never]", 1000)
    roomy = machine(tmp_path / "roomy", "[always]", 1000)
    assert not copies(weights, offloads=False, root=without, system="linux")
    assert not copies(weights, offloads=True, root=roomy, system="linux")
    assert not copies(weights, offloads=False, root=roomy, system="darwin")


def test_the_c_library_is_asked_for_huge_pages_and_mappings_unless_the_user_decided() -> None:
    huge, mappings = "glibc.malloc.hugetlb=1", "glibc.malloc.mmap_threshold=1048576"
    assert environment({"A": "1"}) == {"A": "1", "GLIBC_TUNABLES": f"{huge}:{mappings}"}
    assert environment({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}) == {
        "GLIBC_TUNABLES": f"glibc.malloc.hugetlb=0:{mappings}"
    }
    kept = {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=4096:glibc.malloc.hugetlb=0"}
    assert environment(kept) == kept
    assert environment({"GLIBC_TUNABLES": "glibc.malloc.check=1"}) == {
        "GLIBC_TUNABLES": f"glibc.malloc.check=1:{huge}:{mappings}"
    }
