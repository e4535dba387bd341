"""Work beside the step loop: order, cancelling, deadlines. And the bounds of requests."""

from __future__ import annotations

import select
import threading
from dataclasses import dataclass
from typing import Any

import pytest

from vllama.engines.llama.bounds import MAX_DEPTH, MAX_GRAMMAR, MAX_RULES, check_grammar, clip
from vllama.engines.llama.histogram import Histogram
from vllama.engines.llama.plan import Plan
from vllama.engines.llama.preparation import LEFT_BEHIND, TOO_MANY, TOO_SLOW, Preparation, Task
from vllama.engines.llama.prompt import RequestFault
from vllama.engines.llama.recovery import halves
from vllama.engines.llama.sequence import Sequence, Slot


@dataclass
class Frame:
    id: int


class Closable:
    closed = False

    def close(self) -> None:
        self.closed = True


def wait(preparation: Preparation, count: int = 1) -> list[Task]:
    """The next tasks, as the worker would wait for them."""
    found: list[Task] = []
    while len(found) < count:
        readable, _, _ = select.select([preparation], [], [], preparation.patience() or 30)
        assert readable or preparation.patience() is not None, "nobody woke the step loop"
        found += preparation.take()
    return found


def test_work_is_done_in_order_and_wakes_the_loop() -> None:
    preparation = Preparation()
    for number in range(20):
        preparation.put("text", Frame(number), lambda number=number: number * 2)  # type: ignore[misc]
    found = wait(preparation, 20)
    assert [(task.frame.id, task.value, task.fault) for task in found] == [(n, 2 * n, None) for n in range(20)]
    assert preparation.patience() is None
    assert not preparation.ready


def test_a_fault_belongs_to_its_task_and_the_lane_goes_on() -> None:
    def refuse() -> Any:
        raise RequestFault("request", "no")

    def break_down() -> Any:
        raise ZeroDivisionError("oh")

    preparation = Preparation()
    for number, work in enumerate((refuse, break_down, lambda: 3)):
        preparation.put("text", Frame(number), work)
    found = wait(preparation, 3)
    assert [task.fault and (task.fault.kind, task.fault.text) for task in found] == [
        ("request", "no"),
        ("server", "ZeroDivisionError: oh"),
        None,
    ]


def test_lanes_do_not_wait_for_each_other() -> None:
    preparation, gate = Preparation(), threading.Event()
    preparation.put("bulk", Frame(1), gate.wait)
    preparation.put("text", Frame(2), lambda: "short")
    assert [task.frame.id for task in wait(preparation)] == [2]
    gate.set()
    assert [task.frame.id for task in wait(preparation)] == [1]


def test_what_is_cancelled_never_comes_back_and_is_closed() -> None:
    preparation, gate, made = Preparation(), threading.Event(), Closable()

    def work() -> Closable:
        gate.wait()
        return made

    preparation.put("text", Frame(1), work)
    preparation.put("text", Frame(2), lambda: pytest.fail("was cancelled before it began"))
    preparation.put("text", Frame(3), lambda: 3)
    while not preparation._tasks[1][1].began:
        pass
    assert preparation.cancel(1)
    assert preparation.cancel(2)
    assert not preparation.cancel(2)
    gate.set()
    assert [task.frame.id for task in wait(preparation)] == [3]
    assert made.closed


def test_a_pause_waits_for_its_task() -> None:
    preparation = Preparation()
    preparation.put("text", Frame(1), lambda: 1)
    preparation.pause(1, True)
    preparation.pause(2, True)
    assert wait(preparation)[0].paused


def test_a_deadline_frees_the_lane_for_those_behind() -> None:
    preparation, gate = Preparation(), threading.Event()
    preparation.put("grammar", Frame(1), gate.wait, 0.05)
    preparation.put("grammar", Frame(2), lambda: "fine", 0.05)
    found = {task.frame.id: task for task in wait(preparation, 2)}
    assert found[1].fault is not None
    assert found[1].fault.text == TOO_SLOW
    assert found[2].value == "fine"
    gate.set()


def test_a_lane_is_freed_of_what_nobody_waits_for() -> None:
    preparation, gate = Preparation(), threading.Event()
    preparation.put("grammar", Frame(1), gate.wait, 0.05)
    while not preparation._tasks[1][1].began:
        pass
    preparation.cancel(1)
    preparation.put("grammar", Frame(2), lambda: "fine", 0.05)
    assert wait(preparation)[0].value == "fine"
    gate.set()


def test_only_so_many_threads_are_left_behind() -> None:
    preparation, gate = Preparation(), threading.Event()
    for number in range(LEFT_BEHIND + 1):
        preparation.put("grammar", Frame(number), gate.wait, 0.02)
        [task] = wait(preparation)
        assert task.fault is not None
        assert task.fault.text == TOO_SLOW
    preparation.put("grammar", Frame(99), lambda: "fine", 0.02)
    [task] = wait(preparation)
    assert task.fault is not None
    assert task.fault.text == TOO_MANY
    gate.set()


@pytest.mark.parametrize(
    "gbnf",
    [
        "x" * (MAX_GRAMMAR + 1),
        "r ::= r\n" * (MAX_RULES + 1),
        "root ::= " + "(" * (MAX_DEPTH + 1) + '"x"' + ")" * (MAX_DEPTH + 1),
    ],
)
def test_grammars_have_a_size(gbnf: str) -> None:
    with pytest.raises(RequestFault):
        check_grammar(gbnf)


@pytest.mark.parametrize("quoted", ['"(" ', r'"\"(" ', "[(] ", r"[\](] ", "# (\n"])
def test_brackets_in_texts_are_no_nesting(quoted: str) -> None:
    check_grammar("root ::= " + quoted * (MAX_DEPTH + 10))


def test_a_prompt_that_may_fit_is_left_alone() -> None:
    text = "x" * 1000
    for longest in (0, 100):
        assert clip(text, num_ctx=10, longest=longest, truncate=False, too_long="long") is text


def test_a_prompt_that_cannot_fit_is_refused_or_loses_its_middle() -> None:
    text = "".join(chr(97 + n % 26) for n in range(5000))
    with pytest.raises(RequestFault) as caught:
        clip(text, num_ctx=10, longest=100, truncate=False, too_long="long")
    assert (caught.value.kind, caught.value.text, caught.value.prompt_tokens) == ("too_long", "long", 51)
    assert clip(text, num_ctx=10, longest=100, truncate=True, too_long="long") == text[:1000] + text[-1000:]
    assert clip(text[:1500], num_ctx=10, longest=100, truncate=True, too_long="long") == text[:1500]


def test_histogram() -> None:
    histogram = Histogram((1, 2, 4))
    for value in (0, 1, 1.5, 2, 3, 9):
        histogram.add(value)
    assert histogram.told() == ([1, 2, 4], [2, 2, 1, 1], 16.5)


def test_a_plan_is_halved_by_sequences() -> None:
    rows = []
    plan = Plan()
    for number, count in enumerate((1, 3, 2)):
        sequence = Sequence(number, [0], num_ctx=9)
        sequence.slot = Slot(number)
        rows.append(sequence)
        plan.outputs.append((len(plan.tokens) + count - 1, sequence))
        plan.tokens += [10 * number + i for i in range(count)]
        plan.positions += range(count)
        plan.slots += [number] * count
        plan.rows.append((sequence, count))
    found = halves(plan)
    assert found is not None
    first, second = found
    assert (first.tokens, first.positions, first.slots, first.outputs) == ([0], [0], [0], [(0, rows[0])])
    assert (second.tokens, second.slots) == ([10, 11, 12, 20, 21], [1, 1, 1, 2, 2])
    assert second.outputs == [(2, rows[1]), (4, rows[2])]
    assert halves(first) is None
    rows[1].slot = None
    assert halves(second) is None
