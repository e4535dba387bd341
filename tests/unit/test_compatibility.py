"""The page of differences is the tables' own, and the tables name what exists."""

from __future__ import annotations

from tests.compatibility import OTHER_FILE, PAGE, RULES, different, render, streams, wire_different, wire_ids


def test_the_page_is_what_the_tables_say() -> None:
    assert PAGE.read_text("utf-8") == render(), "run: python -m tests.compatibility"


def test_every_difference_is_of_a_recorded_case_and_has_a_reason() -> None:
    wire = wire_different()
    assert set(wire) | set(OTHER_FILE) <= set(wire_ids())
    assert not set(wire) & set(OTHER_FILE)
    assert set(different("tools_different.json")) <= set(streams("tools.jsonl"))
    assert set(different("thinking_different.json")) <= set(streams("thinking.jsonl"))
    reasons = [
        *wire.values(),
        *OTHER_FILE.values(),
        *(
            row["why"]
            for name in ("tools_different.json", "thinking_different.json")
            for row in different(name).values()
        ),
    ]
    assert all(len(reason) > 30 for reason in reasons)


def test_at_most_two_of_a_hundred_recorded_answers_differ() -> None:
    assert len(wire_different()) + len(OTHER_FILE) <= 0.02 * len(wire_ids())


def test_no_cell_breaks_the_table() -> None:
    assert not any("|" in cell or "\n" in cell for row in (*RULES, *wire_different().items()) for cell in row)
