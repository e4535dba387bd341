"""Which inputs share a decode, and how an input is cut."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama.engines.fitting import INPUT_NOT_SHORTER, INPUT_TOO_LONG, NO_ROOM_FOR_INPUT
from vllama.engines.llama.packing import Packer, Request, fit_input
from vllama.engines.llama.prompt import RequestFault

HEAD, TAIL = [101], [102]


def fit(body: int, *, num_ctx: int, limit: int = 512, truncate: bool = True) -> list[int]:
    return fit_input(list(range(body)), HEAD, TAIL, num_ctx=num_ctx, limit=limit, truncate=truncate)


def test_what_fits_stays() -> None:
    assert fit(3, num_ctx=5, truncate=False) == [101, 0, 1, 2, 102]
    assert fit(0, num_ctx=1) == [101, 102]


def test_the_end_is_cut_and_the_special_tokens_stay() -> None:
    assert fit(9, num_ctx=5) == [101, 0, 1, 2, 102]
    assert fit_input([1, 2, 3], [], [], num_ctx=2, limit=9, truncate=True) == [1, 2]


@pytest.mark.parametrize(
    ("num_ctx", "limit", "truncate", "text"),
    [
        (5, 512, False, INPUT_TOO_LONG),
        (2, 512, True, NO_ROOM_FOR_INPUT),
        (2, 512, False, NO_ROOM_FOR_INPUT),
        (512, 4, True, INPUT_NOT_SHORTER),
        (512, 4, False, INPUT_TOO_LONG),
    ],
)
def test_what_cannot_be_made_to_fit(num_ctx: int, limit: int, truncate: bool, text: str) -> None:
    with pytest.raises(RequestFault) as caught:
        fit(9, num_ctx=num_ctx, limit=limit, truncate=truncate)
    assert caught.value.text == text


def request(id: int, sizes: Sequence[int]) -> Request:
    """An input of 0 tokens is one that cannot be used."""

    def ids(index: int) -> list[int]:
        if not sizes[index]:
            raise RequestFault("request", f"input {index}")
        return [id] * sizes[index]

    return Request(id, len(sizes), ids)


@given(st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=8), min_size=1, max_size=6))
def test_every_input_is_packed_once_within_bounds(requests: list[list[int]]) -> None:
    packer = Packer(tokens=32, inputs=4)
    for id, sizes in enumerate(requests):
        packer.add(request(id, sizes))
    failed: dict[int, str] = {}
    seen: dict[int, list[int]] = {}
    while pack := packer.next(lambda one, fault: failed.update({one.id: fault.text})):
        assert len(pack) <= 4
        assert sum(len(ids) for _, _, ids in pack) <= 32 or len(pack) == 1
        for one, index, ids in pack:
            assert one.id not in failed
            assert len(ids) == requests[one.id][index]
            seen.setdefault(one.id, []).append(index)
    assert not packer.waiting
    for id, sizes in enumerate(requests):
        if 0 in sizes:
            assert failed[id] == f"input {sizes.index(0)}"
            assert not packer.knows(id)
        else:
            assert seen[id] == list(range(len(sizes)))


def test_a_short_request_does_not_wait_for_a_long_one() -> None:
    packer = Packer(tokens=10, inputs=64)
    packer.add(request(1, [5] * 100))
    packer.add(request(2, [5]))
    assert [one.id for one, _, _ in packer.next(lambda *_: None)] == [1, 2]


def test_dropped_requests_are_not_packed() -> None:
    packer = Packer(tokens=10, inputs=64)
    packer.add(request(1, [5, 5]))
    packer.add(request(2, [5]))
    assert packer.drop(1)
    assert not packer.drop(1)
    assert [one.id for one, _, _ in packer.next(lambda *_: None)] == [2]
    assert packer.next(lambda *_: None) == []
