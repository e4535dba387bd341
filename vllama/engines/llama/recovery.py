"""A step that the library could not decode is taken apart until only the sequence that is to blame is left.

What llama.cpp leaves behind (llama_context::decode): after 1 and -1 the memory is as before; after 2, -2 and -3 the
positions of the micro-batch that failed are taken back, those of earlier ones stay. `Scheduler.rewind` makes the
memory equal to the book-keeping in all of these cases, so that any part of the plan may be tried again.
"""

from __future__ import annotations

from vllama.engines.llama.plan import Plan


def halves(plan: Plan) -> tuple[Plan, Plan] | None:
    """The plan as two plans with half of the sequences each; None when there is only one left.

    Sequences that have lost their slot since are left out.
    """
    parts: list[tuple[int, int, int]] = []
    start = 0
    for index, (sequence, count) in enumerate(plan.rows):
        if sequence.slot is not None:
            parts.append((index, start, count))
        start += count
    if len(parts) < 2:
        return None
    middle = len(parts) // 2
    return _part(plan, parts[:middle]), _part(plan, parts[middle:])


def _part(plan: Plan, rows: list[tuple[int, int, int]]) -> Plan:
    found = Plan()
    wanted = dict(plan.outputs)
    for index, start, count in rows:
        for position in range(start, start + count):
            if position in wanted:
                found.outputs.append((len(found.tokens) + position - start, wanted[position]))
        found.tokens += plan.tokens[start : start + count]
        found.positions += plan.positions[start : start + count]
        found.slots += plan.slots[start : start + count]
        found.rows.append(plan.rows[index])
    return found
