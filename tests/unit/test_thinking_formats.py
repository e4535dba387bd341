"""The table of thinking formats: recognised by what templates write, and taken apart at every split."""

from __future__ import annotations

from typing import Any

import pytest

from vllama.prompts.style import capabilities
from vllama.prompts.thinking import ThinkingParser
from vllama.prompts.thinking_formats import FORMATS, AnswerParser, ThinkingFormat, find

BY_NAME = {known.name: known for known in FORMATS}
GRANITE = BY_NAME["granite-3.3"]


def parser_of(known: ThinkingFormat, *, opened: bool = False) -> Any:
    parser = ThinkingParser(known.open, known.close)
    if opened:
        parser.add(known.open)
    return AnswerParser(parser, *known.answer) if known.answer[0] else parser


def run(parser: Any, chunks: list[str] | str) -> tuple[str, str]:
    out = [*map(parser.add, chunks), parser.finish()]
    return "".join(thinking for thinking, _ in out), "".join(content for _, content in out)


def at_every_split(known: ThinkingFormat, text: str, *, opened: bool = False) -> tuple[str, str]:
    """The result, the same however the text is cut."""
    whole = run(parser_of(known, opened=opened), [text])
    assert run(parser_of(known, opened=opened), text) == whole
    for at in range(1, len(text)):
        assert run(parser_of(known, opened=opened), [text[:at], text[at:]]) == whole
    return whole


@pytest.mark.parametrize("known", FORMATS, ids=lambda known: known.name)
def test_thoughts_and_answers(known: ThinkingFormat) -> None:
    o, c = known.open, known.close
    assert at_every_split(known, f"{o}\nHm, 1 < 2.\n{c}\n\nYes.") == ("Hm, 1 < 2.\n", "Yes.")
    assert at_every_split(known, f" {o}Hm.{c}Yes. {o}no{c}") == ("Hm.", f"Yes. {o}no{c}")
    assert at_every_split(known, f"Hm.{c}Yes.", opened=True) == ("Hm.", "Yes.")
    assert at_every_split(known, f"{o}{c}Yes.") in (("", "Yes."), ("", f"{c}Yes."))
    assert at_every_split(known, f"{o}Hm, cut") == ("Hm, cut", "")
    assert at_every_split(known, f"{o}Hm{c[:-1]}") == (f"Hm{c[:-1]}", "")
    assert at_every_split(known, "No thought, a < b.") == ("", "No thought, a < b.")
    assert at_every_split(known, o[:-1]) == ("", o[:-1])
    assert at_every_split(known, "") == ("", "")
    assert at_every_split(known, " \n") == ("", " \n")


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("<response>Yes.</response>", "Yes."),
        ("\n<response>\nYes.\n</response>\n", "\nYes.\n"),
        ("<response>Yes, cut", "Yes, cut"),
        ("<response>Yes.</respon", "Yes."),
        ("<response>a < b, x <", "a < b, x <"),
        ("<response>An element </response> is closed so.", "An element </response> is closed so."),
        ("<response>Twice </response>  </response>", "Twice </response>  "),
        ("Yes. <response>no</response>", "Yes. <response>no</response>"),
        ("<resp", "<resp"),
        ("<response></response>", ""),
    ],
)
def test_granites_answer_stands_between_marks(text: str, content: str) -> None:
    assert at_every_split(GRANITE, "<think>Hm.</think>" + text) == ("Hm.", content)


@pytest.mark.parametrize("known", FORMATS, ids=lambda known: known.name)
def test_a_template_is_recognised_by_its_marks(known: ThinkingFormat) -> None:
    template = "{{ messages }}" + " ".join(known.marks)
    assert find(template) is known
    assert "thinking" in capabilities(None, template)


def test_other_templates_have_none() -> None:
    assert find("{{ messages }}") is None
    assert "thinking" not in capabilities(None, "{{ messages }}")


@pytest.mark.parametrize("known", FORMATS, ids=lambda known: known.name)
@pytest.mark.parametrize("fill", [" ", "<", "[", "a", "</", "\n"])
def test_no_character_is_looked_at_often(known: ThinkingFormat, fill: str) -> None:
    longest = max(map(len, (known.open, known.close, *known.answer)))
    for start in ("", known.open, known.open + known.close, known.open + known.close + known.answer[0]):
        parser = parser_of(known)
        looked = 0
        text = start + "x" + fill * 300 + fill.join(known.answer[1])
        for char in text:
            looked += parser.held + 1
            parser.add(char)
        assert looked <= len(text) * longest
