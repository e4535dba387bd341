"""JSON schemas as GBNF: what the grammars accept, what is refused, and that no schema can blow up."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama.errors import RequestError
from vllama.prompts.gbnf import integers, literal
from vllama.prompts.patterns import PatternError, pattern_grammar, text_grammar
from vllama.prompts.rules import MAX_CHOICES, choice_rule, regex_rule
from vllama.prompts.structured import MAX_GRAMMAR, json_grammar, schema_grammar

Matcher = Callable[[str, int], frozenset[int]]
"""Takes a text and a position; gives every position where a match may end."""


class Grammar:
    """A small reader of GBNF, for these tests: it follows all alternatives at once."""

    def __init__(self, text: str) -> None:
        self.rules: dict[str, Matcher] = {}
        for line in text.strip().split("\n"):
            name, _, body = line.partition(" ::= ")
            assert re.fullmatch("[a-zA-Z0-9-]+", name), name
            assert name not in self.rules, name
            self.text, self.at = body, 0
            self.rules[name] = self.alternatives()
            assert self.at == len(body), (name, body[self.at :])

    def accepts(self, text: str) -> bool:
        return len(text) in self.rules["root"](text, 0)

    def space(self) -> None:
        while self.text.startswith((" ", "\t"), self.at):
            self.at += 1

    def alternatives(self) -> Matcher:
        branches = [self.sequence()]
        while self.text.startswith("|", self.at):
            self.at += 1
            branches.append(self.sequence())
        return lambda text, at: frozenset().union(*(branch(text, at) for branch in branches))

    def sequence(self) -> Matcher:
        parts: list[Matcher] = []
        self.space()
        while self.at < len(self.text) and self.text[self.at] not in "|)":
            parts.append(self.repetition(self.atom()))
            self.space()

        def match(text: str, at: int) -> frozenset[int]:
            ends = frozenset([at])
            for part in parts:
                ends = frozenset().union(*(part(text, end) for end in ends))
            return ends

        return match

    def repetition(self, atom: Matcher) -> Matcher:
        found = re.compile(r"[*+?]|\{(\d+)(,?)(\d*)\}").match(self.text, self.at)
        if not found:
            return atom
        self.at = found.end()
        low, high = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(found[0], (0, 0))
        if found[1]:
            low, high = int(found[1]), int(found[3]) if found[3] else None if found[2] else int(found[1])

        def match(text: str, at: int) -> frozenset[int]:
            ends, new, count = set(), {at}, 0
            while new:
                if count >= low:
                    new -= ends
                    ends |= new
                if count == high:
                    break
                new = set().union(*(atom(text, end) for end in new))
                count += 1
                if count > low + len(text) + 1:
                    break
            return frozenset(ends)

        return match

    def atom(self) -> Matcher:
        char = self.text[self.at]
        if char == "(":
            self.at += 1
            inner = self.alternatives()
            assert self.text[self.at] == ")"
            self.at += 1
            return inner
        if char == '"':
            return self.literal()
        if char == "[":
            return self.char_class()
        name = re.compile("[a-zA-Z0-9-]+").match(self.text, self.at)
        assert name, self.text[self.at :]
        self.at = name.end()
        return lambda text, at: self.rules[name[0]](text, at)

    def char(self) -> str:
        found = re.compile(r"\\x(..)|\\u(....)|\\U(.{8})|\\(.)|(.)").match(self.text, self.at)
        assert found
        self.at = found.end()
        code = found[1] or found[2] or found[3]
        if code:
            return chr(int(code, 16))
        if found[4]:
            return {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "[": "[", "]": "]"}[found[4]]
        return found[5]

    def literal(self) -> Matcher:
        self.at += 1
        chars = ""
        while self.text[self.at] != '"':
            chars += self.char()
        self.at += 1
        return lambda text, at: frozenset([at + len(chars)]) if text.startswith(chars, at) else frozenset()

    def char_class(self) -> Matcher:
        self.at += 1
        negated = self.text[self.at] == "^"
        self.at += negated
        ranges = []
        while self.text[self.at] != "]":
            first = last = self.char()
            if self.text[self.at] == "-" and self.text[self.at + 1] != "]":
                self.at += 1
                last = self.char()
            ranges.append((first, last))
        self.at += 1

        def match(text: str, at: int) -> frozenset[int]:
            inside = at < len(text) and any(low <= text[at] <= high for low, high in ranges)
            return frozenset([at + 1]) if at < len(text) and inside != negated else frozenset()

        return match


def accepts(schema: Any, text: str) -> bool:
    return Grammar(schema_grammar(schema)).accepts(text)


def compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


PERSON = {
    "title": "Person",
    "type": "object",
    "properties": {
        "nick": {"type": "string"},
        "name": {"type": "string", "minLength": 1, "maxLength": 5},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "tags": {"type": "array", "items": {"enum": ["a", 'b"c']}, "maxItems": 2},
    },
    "required": ["name"],
}
TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"v": {"type": "number"}, "kids": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
            "required": ["v"],
        }
    },
}
SHAPE = {
    "anyOf": [{"$ref": "#/definitions/a~1b"}, {"type": "null"}],
    "definitions": {"a/b": {"type": "object", "properties": {"k": {"const": "x"}}, "required": ["k"]}},
}
EXTRA = {
    "type": "object",
    "properties": {"ab": {"type": "null"}, "ac": True},
    "additionalProperties": {"type": "integer"},
}


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (True, ["1", "{}", "null", '"x"', '[1,{"a":[]}]', "-0.5e+3"], ["", "01", "nul", "[1,]", "{'a':1}", "1 2"]),
        ({"foo": 1}, ["1", "{}"], ["x"]),
        ({"type": "object"}, ["{}", '{"a":1}', '{ "a": {"b":[]},\n  "c":2 }'], ["[]", "1", '{"a"}', "{,}", '{"a":1,}']),
        (
            PERSON,
            [
                '{"name":"Ann"}',
                '{"nick":"","name":"Ann"}',
                '{"nick":"x","name":"Ann","age":130,"tags":["a","b\\"c"]}',
                '{\n    "name": "Ann", "tags": []\n}',
                '{"name":"\\u00e9\\n😀ab"}',
            ],
            [
                "{}",
                '{"nick":"x"}',
                '{"name":""}',
                '{"name":"toolong"}',
                '{"name":"Ann","nick":"x"}',
                '{"name":"Ann","age":131}',
                '{"name":"Ann","age":-1}',
                '{"name":"Ann","age":07}',
                '{"name":"Ann","tags":["a","a","a"]}',
                '{"name":"Ann","tags":["c"]}',
                '{"name":"Ann","more":1}',
                '{"name":"Ann",}',
                '{,"name":"Ann"}',
                '{"name":"\\ud800"}',
            ],
        ),
        (TREE, ['{"v":1}', '{"v":1,"kids":[{"v":2.5,"kids":[]},{"v":-1}]}'], ["{}", '{"v":1,"kids":[{}]}']),
        (SHAPE, ['{"k":"x"}', "null"], ["{}", '{"k":"y"}', "1"]),
        (
            EXTRA,
            ["{}", '{"ab":null}', '{"ab":null,"ac":"q","x":1,"a":2,"abc":3}', '{"x":1}', '{"ac":1,"ad":0}', '{"":1}'],
            ['{"ab":1}', '{"x":"q"}', '{"x":1,"ab":null}', '{"ab":null,"ab":2}', '{"\\u0061b":2}'],
        ),
        ({"type": "object", "additionalProperties": {"type": "boolean"}}, ["{}", '{"a":true,"b":false}'], ['{"a":1}']),
        ({"required": ["z"]}, ['{"z":1}', '{"z":[]}', '{"z":1,"y":2}'], ["{}", '{"y":1}']),
        ({"properties": {"a": False, "b": {}}}, ["{}", '{"b":1}'], ['{"a":1}']),
        ({"type": "object", "properties": {}, "additionalProperties": False}, ["{}", "{ }"], ['{"a":1}']),
        ({"enum": ["a", 1, None, {"b": [1.5]}]}, ['"a"', "1", "null", '{"b":[1.5]}'], ['"b"', "2", "true"]),
        ({"enum": ["a", 1, 2.0, None], "type": ["integer", "null"]}, ["1", "2.0", "null"], ['"a"']),
        ({"const": 'q"\\\n'}, ['"q\\"\\\\\\n"'], ['"q"']),
        ({"type": ["string", "null"], "maxLength": 2}, ["null", '""', '"ab"'], ['"abc"', "1"]),
        ({"type": "boolean"}, ["true", "false"], ["True", "null"]),
        ({"type": "array", "minItems": 2, "items": {"type": "integer"}}, ["[1,2]", "[1, 2, 3]"], ["[1]", "[]", "[1,2"]),
        ({"type": "array", "minItems": 1, "maxItems": 1}, ["[[]]"], ["[]", "[1,2]"]),
        ({"type": "array", "maxItems": 0}, ["[]", "[ ]"], ["[1]"]),
        ({"prefixItems": [{"type": "null"}, {"const": 1}]}, ["[null,1]"], ["[null]", "[]", "[null,1,1]", "[1,null]"]),
        (
            {"prefixItems": [{"type": "null"}, {"const": 1}], "items": {"const": 2}, "minItems": 1, "maxItems": 4},
            ["[null]", "[null,1]", "[null,1,2]", "[null, 1, 2, 2]"],
            ["[]", "[1]", "[null,2]", "[null,1,2,2,2]"],
        ),
        ({"items": [{"const": 1}, {"const": 2}], "minItems": 0}, ["[]", "[1]", "[1,2]"], ["[2]", "[1,2,3]"]),
        ({"anyOf": [{"type": "string"}, False, {"type": "integer"}], "title": "x"}, ["1", '"x"'], ["null"]),
        (
            {"type": "object", "properties": {"a": {}, "b": {}}, "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
            ['{"a":1}', '{"b":1}', '{"a":1,"b":2}'],
            ["{}"],
        ),
        (
            {
                "allOf": [
                    {"properties": {"a": {"minimum": 3}}, "required": ["a"]},
                    {"$ref": "#/$defs/x"},
                ],
                "$defs": {"x": {"properties": {"a": {"type": "integer"}, "b": {"type": "null"}}}},
            },
            ['{"a":3}', '{"a":10,"b":null}'],
            ['{"a":2}', "{}", '{"b":null}'],
        ),
        ({"$ref": "#/$defs/s", "maxLength": 1, "$defs": {"s": {"type": "string"}}}, ['"a"'], ['"ab"', "1"]),
        ({"type": "number", "minimum": 0}, ["0", "1.5", "2e9"], ["-1", "-0.5"]),
        ({"type": "integer", "exclusiveMinimum": -2, "exclusiveMaximum": 1.5}, ["-1", "0", "1"], ["-2", "2", "-0"]),
        ({"type": "integer", "minimum": 5, "exclusiveMinimum": True}, ["6"], ["5"]),
        ({"type": "string", "format": "date"}, ['"2026-02-28"'], ['"2026-13-01"', '"26-1-1"']),
        ({"format": "uuid"}, ['"123e4567-e89b-12d3-a456-426614174000"'], ['"x"']),
        ({"type": "string", "format": "date-time"}, ['"2026-02-28T10:00:00.5Z"'], ['"2026-02-28"']),
        ({"type": "string", "format": "email"}, ['"anything"'], ["1"]),
        ({"type": "string", "pattern": "^a+$"}, ['"aa"'], ['""', '"ab"']),
    ],
)  # fmt: skip
def test_a_schema_accepts_its_documents_only(schema: Any, good: list[str], bad: list[str]) -> None:
    grammar = Grammar(schema_grammar(schema))
    assert [text for text in good if not grammar.accepts(text)] == []
    assert [text for text in bad if grammar.accepts(text)] == []


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "blob"}, 'format: unknown type "blob" (at #/type)'),
        ({"properties": {"a/b": {"type": 5}}}, "format: unknown type 5 (at #/properties/a~1b/type)"),
        ({"items": {"not": {}}}, "format: not is not supported (at #/items/not)"),
        ({"if": {}, "then": {}}, "format: if is not supported (at #/if)"),
        ({"patternProperties": {"a": {}}}, "format: patternProperties is not supported (at #/patternProperties)"),
        ({"$ref": "http://x/y"}, "format: only references within the schema (#/…) are supported (at #/$ref)"),
        ({"$ref": "#/$defs/no"}, "format: #/$defs/no does not exist (at #/$ref)"),
        ({"$ref": "#"}, "format: # refers to itself and nothing else (at #/$ref)"),
        (
            {"anyOf": [{"type": "null"}, {"$ref": "#"}]},
            "format: # refers to itself and nothing else (at #/anyOf/1/$ref)",
        ),
        ({"allOf": [{"$ref": "#"}]}, "format: # refers to itself and nothing else (at #/allOf/0/$ref)"),
        ({"anyOf": []}, "format: nothing is allowed (at #/anyOf)"),
        ({"anyOf": {}}, "format: a list is expected (at #/anyOf)"),
        ({"enum": []}, "format: no value is allowed (at #/enum)"),
        ({"enum": ["a"], "type": "null"}, "format: no value is allowed (at #/enum)"),
        ({"items": False, "minItems": 1}, "format: more items are required than are described (at #/minItems)"),
        ({"items": 5}, "format: a schema must be an object (at #/items)"),
        ({"additionalProperties": False, "required": ["a"]}, "format: a is required and not allowed (at #/required)"),
        ({"properties": {"a": False}, "required": ["a"]}, "format: false allows nothing (at #/properties/a)"),
        ({"properties": []}, "format: properties must be an object (at #/properties)"),
        ({"type": "string", "maxLength": 2001}, "format: maxLength must not be above 2000 (at #/maxLength)"),
        ({"type": "string", "minLength": -1}, "format: minLength must be a whole number (at #/minLength)"),
        ({"type": "string", "minLength": 2, "maxLength": 1}, "format: maxLength is below minLength (at #/maxLength)"),
        ({"type": "array", "minItems": 2, "maxItems": 1}, "format: maxItems is below minItems (at #/maxItems)"),
        ({"type": "integer", "minimum": 2, "maximum": 1.5}, "format: no whole number is between the bounds (at #)"),
        ({"type": "integer", "minimum": 1e300}, "format: minimum must be a number below 10^18 (at #/minimum)"),
        (
            {"type": "string", "pattern": "a(?=b)"},
            'format: the pattern "a(?=b)" is not supported: look-around and named groups',
        ),
        ({"pattern": "a", "maxLength": 3}, "format: pattern together with minLength or maxLength is not supported"),
        ({"allOf": [{"type": "string"}, {"type": "null"}]}, "format: no type satisfies all parts (at #/allOf/1/type)"),
        ({"allOf": [{"const": 1}, {"const": 2}]}, "format: const twice, with different values (at #/allOf/1/const)"),
        (
            {"allOf": [{"properties": {"a": {}}, "additionalProperties": False}, {"properties": {"b": {}}}]},
            "format: a part with additionalProperties: false forbids another part's properties (at #/allOf/1)",
        ),
        ({"const": "\ud800"}, "format: a value that JSON cannot carry (at #)"),
        ({"const": float("nan")}, "format: a value that JSON cannot carry (at #)"),
    ],
)
def test_what_cannot_be_done_is_refused_with_its_place(schema: Any, text: str) -> None:
    with pytest.raises(RequestError) as caught:
        schema_grammar(schema)
    assert caught.value.text.startswith(text)
    assert caught.value.status == 400


def test_a_rule_that_begins_with_itself_over_others_is_refused() -> None:
    schema = {
        "$ref": "#/$defs/a",
        "$defs": {
            "a": {"anyOf": [{"properties": {"x": {"$ref": "#/$defs/b"}}}, {"$ref": "#/$defs/b"}]},
            "b": {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}]},
        },
    }
    with pytest.raises(RequestError, match="refers to itself"):
        schema_grammar(schema)


def large(count: int) -> dict[str, Any]:
    properties = {f"property{i}": {"type": ["string", "null"]} for i in range(count)}
    return {"properties": properties, "required": [f"property{count - 1}"]}


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        large(1001),
        {"prefixItems": [{}] * 1001},
        nested(5000),
        {"enum": ["x" * 1000 + str(i) for i in range(1000)]},
        {"properties": {f"p{i}": {"type": "string", "maxLength": 2000} for i in range(100)}},
        {"pattern": "((a{1000}){1000}){1000}"},
        {"pattern": "(" * 5000 + ")" * 5000},
        {"properties": {"a" * 5000: {}}, "additionalProperties": True},
        {"type": [["string"]] * 20_000},
        {"anyOf": [{"anyOf": [{"anyOf": [{"type": "null"}] * 30}] * 30}] * 30},
        {
            "$ref": "#/$defs/0",
            "$defs": {str(i): {"allOf": [{"$ref": f"#/$defs/{i + 1}"}] * 2} for i in range(40)} | {"40": {}},
        },
    ],
    ids=["members", "tuple", "deep", "long", "repeats", "pattern", "groups", "key", "types", "wide", "doubling"],
)
def test_no_schema_can_blow_up(schema: Any) -> None:
    with pytest.raises(RequestError):
        schema_grammar(schema)


def test_a_large_schema_stays_small() -> None:
    assert len(schema_grammar(large(1000))) < MAX_GRAMMAR // 2
    assert accepts(large(50), compact({"property3": "x", "property10": None, "property49": "y"}))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**15), 10**15)
    | st.floats(allow_nan=False, allow_infinity=False, min_value=-1e15, max_value=1e15)
    | st.text(st.characters(blacklist_characters="\x7f", blacklist_categories=["Cs"]), max_size=6),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text('ab"\\é', max_size=3), children, max_size=3)
    ),
    max_leaves=6,
)


@given(json_values, st.sampled_from([None, 1, 4]))
def test_any_json_is_accepted(value: Any, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=indent is not None, indent=indent)
    if len(text) < 200:
        assert ANY.accepts(text)


@given(st.dictionaries(st.text("ab", max_size=3), json_values, max_size=3))
def test_the_json_grammar_accepts_objects(value: dict[str, Any]) -> None:
    assert JSON.accepts(json.dumps(value))
    assert not JSON.accepts(json.dumps([value]))


ANY = Grammar(schema_grammar({}))
JSON = Grammar(json_grammar())


@pytest.mark.parametrize(
    ("schema", "empty", "full"),
    [
        ({"properties": {"n": {"type": "integer"}}}, "{%s}", '{%s"n":1}'),
        ({"additionalProperties": {"type": "integer"}}, "{%s}", '{%s"n":1}'),
        ({"items": {"type": "integer"}, "type": "array"}, "[%s]", "[%s1]"),
        ({"prefixItems": [{"type": "integer"}], "minItems": 0, "type": "array"}, "[%s]", "[%s1]"),
        ({"type": "object"}, "{%s}", '{%s"n":1}'),
        ({}, "[%s]", "[%s1]"),
    ],
)
def test_blanks_after_an_opening_bracket_do_not_decide_that_nothing_follows(schema: Any, empty: str, full: str) -> None:
    grammar = Grammar(schema_grammar({"type": "object", **schema} if "%s}" in empty else schema))
    for blanks in ("", " ", "\n", "\n  ", "\n\n", "  ", " \n"):
        assert grammar.accepts(empty % blanks) == grammar.accepts(full % blanks)


@given(
    st.lists(st.tuples(st.sampled_from("abcdefgh"), st.booleans()), unique_by=lambda pair: pair[0], max_size=6),
    st.data(),
)
def test_optional_properties_may_be_left_out_and_required_ones_not(
    keys: list[tuple[str, bool]], data: st.DataObject
) -> None:
    required = [key for key, needed in keys if needed]
    schema = {"type": "object", "properties": {key: {"const": 1} for key, _ in keys}, "required": required}
    chosen = [key for key, _ in keys if data.draw(st.booleans())]
    document = compact(dict.fromkeys(chosen, 1))
    assert accepts({**schema, "additionalProperties": False}, document) == set(required).issubset(chosen)


bounds = st.none() | st.integers(-1200, 1200) | st.integers(-(10**12), 10**12)


@given(bounds, bounds, st.integers(-1300, 1300) | st.integers(-(10**12), 10**12))
def test_whole_numbers_keep_their_bounds(low: int | None, high: int | None, number: int) -> None:
    if low is not None and high is not None and low > high:
        low, high = high, low
    grammar = Grammar(f"root ::= {integers(low, high)}")
    inside = (low is None or low <= number) and (high is None or number <= high)
    assert grammar.accepts(str(number)) == inside
    for edge in (low, high):
        assert edge is None or grammar.accepts(str(edge))
    assert not grammar.accepts("0" + str(abs(number)))


PATTERNS = [
    "^a$", "^a*b+c?$", "^(?:ab|c)*$", "^[a-c]{2,3}$", "^[^a-c]$", r"^\d{3}-\w+$", r"^\D\W?$", "b", "^b", "b$", "^a.c$",
    r"^[\]\-a]$", "^[-a]$", "^(a|b|)$", r"^\.\*\\$", r'^"[^"]*"$', r"^\x41\u00e9$", "^a{2}$", "^a{2,}$", "^a+?b$",
    r"^[\w.]+@[\w.]+$", r"^\s\S$", r"^[\s,]+$", r"^\/$", "^[!-~]$", r"^[\t ]\n$", "",
]  # fmt: skip


@given(st.sampled_from(PATTERNS), st.data())
def test_patterns_accept_what_the_expression_accepts(pattern: str, data: st.DataObject) -> None:
    text = data.draw(
        # ECMAScript's \s has the no-break space, the ASCII one of Python that is asked below has not.
        st.from_regex(pattern, alphabet=st.characters(codec="utf-8", exclude_characters="\x7f\xa0"))
        | st.text('abc1-. \n"\\', max_size=5)
    )
    grammar = compiled(pattern)
    # That $ also matches before a last line break is Python's own idea.
    expected = re.search(re.sub(r"\$$", r"\\Z", pattern), text, re.ASCII) is not None
    accepted = grammar.accepts(json.dumps(text, ensure_ascii=False))
    assert not accepted or expected
    if expected and text.isprintable() and text.isascii() and "\\" not in text and '"' not in text:
        assert accepted


@cache
def compiled(pattern: str) -> Grammar:
    return Grammar(schema_grammar({"type": "string", "pattern": pattern}))


@pytest.mark.parametrize(
    "pattern",
    ["(", ")", "a)", "[", "[]", "[b-a]", "a**", "*", "{1}", "a{", "a{2,1}",
     "a{1,9999}", "\\", r"\b", r"\1", r"\pL", r"\u12",
     r"\ud800", "a|b$", "^a|b", "a^b", "a$b", "(?<n>a)", "(?!a)", "a++", r"[\b-\q]"],
)  # fmt: skip
def test_other_patterns_are_refused(pattern: str) -> None:
    with pytest.raises(PatternError):
        pattern_grammar(pattern)


@given(st.text(st.characters(blacklist_categories=["Cs"]), max_size=8))
def test_literals_match_themselves(text: str) -> None:
    grammar = Grammar(f"root ::= {literal(text)}")
    assert grammar.accepts(text)
    assert not grammar.accepts(text + "x")


WHOLE = [
    "a", "a*b+c?", "(?:ab|c)*", "^[a-c]{2,3}$", "[^a-c]", r"\d{3}-\w+", r"\D\W?", "a.c", r"[\]\-a]", "(a|b|)", "yes|no",
    r"\.\*\\", '"[^"]*"', r"\x41\u00e9", r"[\w.]+@[\w.]+", r"\s\S", r"[\s,]+", r"[^\s]+", "[!-~]", r"[\t ]\n", "",
]  # fmt: skip


@given(st.sampled_from(WHOLE), st.data())
def test_a_regex_for_a_text_accepts_what_it_matches_as_a_whole(pattern: str, data: st.DataObject) -> None:
    text = data.draw(
        # The ASCII \s of Python has neither the no-break space nor lacks the vertical tab.
        st.from_regex(pattern, alphabet=st.characters(codec="utf-8", exclude_characters="\x0b\xa0"), fullmatch=True)
        | st.text('abc1-. \n"\\', max_size=5)
    )
    bare = pattern.removeprefix("^").removesuffix("$") if pattern.startswith("^") else pattern
    expected = re.fullmatch(bare, text, re.ASCII) is not None
    assert Grammar(text_grammar(pattern)).accepts(text) == expected


@given(st.lists(st.text(), min_size=1, max_size=5), st.text(max_size=5))
def test_a_choice_accepts_its_texts_only(choices: list[str], other: str) -> None:
    grammar = Grammar(choice_rule(choices))
    assert all(grammar.accepts(choice) for choice in choices)
    assert grammar.accepts(other) == (other in choices)


@pytest.mark.parametrize("choices", [[], ["a"] * (MAX_CHOICES + 1), ["a" * 70_000]])
def test_a_choice_is_bounded(choices: list[str]) -> None:
    with pytest.raises(RequestError, match="structured_outputs"):
        choice_rule(choices)


@pytest.mark.parametrize("pattern", ["(", "a{1,9999}", r"(?!a)b", "a" * 9000, "(((a{99}){99}){99})"])
def test_a_regex_that_cannot_be_used_is_told(pattern: str) -> None:
    with pytest.raises(RequestError, match="structured_outputs: the regex"):
        regex_rule(pattern)
