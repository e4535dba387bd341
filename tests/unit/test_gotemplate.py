"""Go templates beyond the recorded vectors: limits, the cache, the tree, odd input."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllama.errors import TemplateError
from vllama.prompts.gotemplate import TemplateValues, execute, parse
from vllama.prompts.gotemplate.execute import CACHE_SIZE, GoTemplate, collate
from vllama.prompts.gotemplate.nodes import Action, Field, If, Range, Text
from vllama.prompts.gotemplate.parser import MAX_CHARS, MAX_DEPTH
from vllama.prompts.gotemplate.printing import MAX_OUTPUT, sprintf
from vllama.prompts.messages import Message, Tool, ToolCall, ToolFunction

CHAT = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))


def render(text: str, *messages: Message, **values: object) -> str:
    return parse(text).execute(TemplateValues(messages=messages, **values))  # type: ignore[arg-type]


def test_turns_of_an_old_template_end_at_the_response() -> None:
    """Every turn of the user is one run; the last one stops where the model goes on."""
    text = "{{ if .System }}<s>{{ .System }}</s>{{ end }}<u>{{ .Prompt }}</u><a>{{ .Response }}</a>"
    system = Message("system", "be kind")
    assert render(text, system, *CHAT) == "<s>be kind</s><u>a</u><a>b</a><u>c</u><a>"


def test_response_before_an_else_is_cut_without_a_crash() -> None:
    """Ollama panics here: it drops the else list and then uses it."""
    text = "{{ .Prompt }}{{ if .Prompt }}: {{ .Response }} after{{ else }}none{{ end }} tail"
    assert render(text, Message("user", "a")) == "a: "


def test_neighbours_of_one_role_are_joined_but_tools_are_not() -> None:
    """Joined text has an empty line between; what tools answered stays apart."""
    system, joined = collate(
        (
            Message("system", "one"),
            Message("user", "a"),
            Message("user", "b"),
            Message("tool", "1"),
            Message("tool", "2"),
            Message("system", "two"),
        )
    )
    assert system == "one\n\ntwo"
    assert [(message.role, message.content) for message in joined] == [
        ("system", "one"),
        ("user", "a\n\nb"),
        ("tool", "1"),
        ("tool", "2"),
        ("system", "two"),
    ]


def test_joining_a_long_run_of_messages_costs_no_quadratic_time() -> None:
    """A hundred thousand neighbours become one message with all of their text."""
    _, joined = collate(tuple(Message("user", "x") for _ in range(100_000)))
    assert [len(message.content) for message in joined] == [300_000 - 2]


def test_prompt_and_suffix_fill_in_the_middle() -> None:
    """With both given nothing else is seen, not even messages."""
    text = "{{ if .Suffix }}<P>{{ .Prompt }}<S>{{ .Suffix }}<M>{{ else }}{{ .Prompt }}{{ end }}"
    assert render(text, *CHAT, prompt="head", suffix="tail") == "<P>head<S>tail<M>"
    assert parse(text).uses("Suffix")
    assert not parse(text).uses("Tools")


def test_tools_print_as_json_with_sorted_properties() -> None:
    """The model's order of properties is lost, <, > and & are escaped, numbers are floats."""
    tool = Tool(
        ToolFunction(
            "f",
            "a < b",
            {
                "type": "object",
                "properties": {"z": {"type": "integer", "enum": [1, 2.5]}, "a": {"type": ["string", "null"]}},
            },
        )
    )
    assert render("{{ range .Messages }}{{ end }}{{ .Tools }}", *CHAT, tools=(tool,)) == (
        '[{"type":"function","function":{"name":"f","description":"a \\u003c b","parameters":{"type":"object",'
        '"properties":{"a":{"type":["string","null"]},"z":{"type":"integer","enum":[1,2.5]}}}}}]'
    )


def test_nested_properties_keep_their_order() -> None:
    """Only the first level is a Go map; deeper ones are ordered."""
    schema = {"type": "object", "properties": {"z": {"type": "string"}, "a": {"type": "string"}}}
    tool = Tool(ToolFunction("f", "", {"type": "object", "properties": {"o": schema}}))
    text = "{{ $x := .Messages }}{{ range .Tools }}{{ json .Function.Parameters.Properties.o }}{{ end }}"
    assert render(text, *CHAT, tools=(tool,)) == (
        '{"type":"object","properties":{"z":{"type":"string"},"a":{"type":"string"}}}'
    )


def test_arguments_of_calls_are_sorted_and_numbers_are_floats() -> None:
    """A million is 1e+06 where a template prints it itself."""
    call = ToolCall("f", {"b": 1_000_000, "a": "x"})
    message = Message("assistant", tool_calls=(call,))
    text = (
        "{{ range .Messages }}{{ range .ToolCalls }}{{ .Function.Arguments }}"
        "{{ range $k, $v := .Function.Arguments }} {{ $k }}={{ $v }}{{ end }}{{ end }}{{ end }}"
    )
    assert render(text, message) == '{"a":"x","b":1000000} a=x b=1e+06'


def test_half_a_character_becomes_a_replacement_mark() -> None:
    """Go's strings are bytes; a prompt must be text again."""
    text = "{{ range .Messages }}{{ slice .Content 0 2 }}{{ end }}"
    assert render(text, Message("user", "hé")) == "h\ufffd"
    halves = "{{ range .Messages }}{{ slice .Content 0 1 }}{{ slice .Content 1 2 }}{{ end }}"
    assert render(halves, Message("user", "é")) == "é"


def test_error_texts_are_text() -> None:
    """An error may quote half a character; what leaves is still UTF-8."""
    with pytest.raises(TemplateError) as caught:
        parse("{{ range slice .Prompt 1 }}{{ end }}{{ .Response }}").execute(
            TemplateValues(messages=(Message("user", "é"),))
        )
    assert caught.value.text.endswith("range can't iterate over \ufffd")


@pytest.mark.parametrize(
    ("template", "args", "text"),
    [
        ("%#g|%#.3f|%#v", [1.0, 2.0, 1.5], "1.00000|2.000|1.5"),
        ("%+d|% d|%x|%O", [5, 5, -255, 8], "+5| 5|-ff|0o10"),
        ("%6.2f|%-6d|%06d", [3.14159, 7, -7], "  3.14|7     |-00007"),
        ("%[2]v %[1]v|%[9]v", [1, "b"], "b 1|%!v(BADINDEX)"),
        ("%[2]v %d", [1, "b", 3], "b 3"),
        ("%[1]v %d", [1, 2, 3], "1 2"),
        ("%d %s", ["x"], "%!d(string=x) %!s(MISSING)"),
        ("%", [], "%!(NOVERB)"),
        ("%T %T", [None, 1.5], "<nil> float64"),
    ],
)
def test_printf(template: str, args: list[object], text: str) -> None:
    """Go's verbs and flags, and what it writes for mistakes."""
    assert sprintf(template, args) == text


@pytest.mark.parametrize(
    "text",
    [
        "{{ range 1000000000 }}{{ end }}",
        "{{ range 10000 }}{{ range 10000 }}x{{ end }}{{ end }}",
        "{{ range 100000 }}{{ $y := json $.Messages }}{{ end }}",
        '{{ $x := "aaaaaaaaaaaaaaaa" }}{{ range 60 }}{{ $x = print $x $x }}{{ end }}',
        '{{ $x := "&&&&" }}{{ range 1000000 }}{{ $x = html $x }}{{ end }}',
        '{{ range 2000 }}{{ printf "%999999d" 1 }}{{ end }}',
        '{{ define "r" }}{{ template "r" . }}{{ template "r" . }}{{ end }}{{ template "r" . }}',
    ],
)
def test_no_template_runs_without_end(text: str) -> None:
    """Loops, growing texts and recursion all meet a limit."""
    template = GoTemplate("{{ $m := .Messages }}" + text)
    with pytest.raises(TemplateError, match=r"too many steps|longer than|template depth"):
        template.execute(TemplateValues(messages=(Message("user", "x" * 2000),)))


def test_old_templates_share_one_budget_over_all_turns() -> None:
    """Many turns of a slow template are as bounded as one."""
    template = GoTemplate("{{ range 100000 }}{{ end }}{{ .Prompt }}{{ .Response }}")
    turns = tuple(Message("user" if turn % 2 == 0 else "assistant", "x") for turn in range(200))
    with pytest.raises(TemplateError, match="too many steps"):
        template.execute(TemplateValues(messages=turns))


def test_one_long_printed_value_is_refused() -> None:
    """A format may not ask for more than an output may hold."""
    with pytest.raises(TemplateError, match="longer than"):
        sprintf("%1000000d" * (MAX_OUTPUT // 1_000_000 + 1), [1] * 100)


@pytest.mark.parametrize("opening", ["{{ if . }}", "{{ range . }}", "{{ with . }}"])
def test_blocks_nest_only_so_deep(opening: str) -> None:
    """A client cannot exhaust the stack with a template's nesting."""
    fine = opening * (MAX_DEPTH - 1) + "{{ end }}" * (MAX_DEPTH - 1)
    assert GoTemplate(fine).root.nodes
    with pytest.raises(TemplateError, match="nested"):
        GoTemplate(opening * 5_000 + "{{ end }}" * 5_000)


def test_parentheses_and_else_if_nest_only_so_deep() -> None:
    """The same for what else recurses."""
    with pytest.raises(TemplateError, match="max expression depth exceeded"):
        GoTemplate("{{ " + "(" * 10_000 + "1" + ")" * 10_000 + " }}")
    with pytest.raises(TemplateError, match="nested"):
        GoTemplate("{{ if . }}" + "{{ else if . }}" * 5_000 + "{{ end }}")


def test_variables_are_counted() -> None:
    """Each use of a variable looks through all that are in scope."""
    with pytest.raises(TemplateError, match="variables"):
        GoTemplate("{{ $x := 1 }}" * 2_000)


def test_a_huge_text_is_not_even_read() -> None:
    """There is a longest template."""
    with pytest.raises(TemplateError, match="longer than"):
        parse("x" * (MAX_CHARS + 1))


def test_parsed_templates_are_kept_and_the_oldest_go() -> None:
    """The same text gives the same object until enough others were used."""
    first = parse("cache {{ .Prompt }} first")
    assert parse("cache {{ .Prompt }} first") is first
    for number in range(CACHE_SIZE):
        parse(f"cache {{{{ .Prompt }}}} {number}")
    assert parse("cache {{ .Prompt }} first") is not first


def test_long_templates_are_not_kept() -> None:
    """What only a request brings along does not fill the memory."""
    text = "{{ .Prompt }}" + "x" * (execute._CACHED_CHARS + 1)
    assert parse(text) is not parse(text)


def test_threads_may_share_a_template() -> None:
    """Each execution has its own variables and output."""
    template = parse("{{ range $i, $m := .Messages }}{{ $x := $i }}{{ $m.Content }}{{ $x }};{{ end }}")
    expected = {name: "".join(f"{name}{i};" for i in range(50)) for name in "abcd"}
    outputs: dict[str, set[str]] = {name: set() for name in expected}

    def work(name: str) -> None:
        chat = tuple(Message("user" if i % 2 else "assistant", name) for i in range(50))
        for _ in range(20):
            outputs[name].add(template.execute(TemplateValues(messages=chat)))

    threads = [threading.Thread(target=work, args=(name,)) for name in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outputs == {name: {text} for name, text in expected.items()}


def test_the_tree_is_there_to_be_read() -> None:
    """Tags for thinking and tools are inferred from it elsewhere."""
    root = parse("a{{ range .Messages }}{{ if .Thinking }}<think>{{ .Thinking }}{{ end }}{{ end }}").root
    text, loop = root.nodes
    assert isinstance(text, Text)
    assert isinstance(loop, Range)
    branch = loop.body.nodes[0]
    assert isinstance(branch, If)
    action = branch.body.nodes[1]
    assert isinstance(action, Action)
    field = action.pipe.commands[0].args[0]
    assert isinstance(field, Field)
    assert field.ident == ("Thinking",)
    assert str(branch) == "{{if .Thinking}}<think>{{.Thinking}}{{end}}"


def test_a_template_without_messages_and_response_gets_a_response() -> None:
    """It is the place where the model goes on."""
    assert str(parse("{{ .Prompt }}!").root) == "{{.Prompt}}!{{.Response}}"
    assert parse("{{ .Prompt }}!").uses("Response")


def test_error_positions_count_lines_and_bytes() -> None:
    """The line starts at 1, the column is in bytes from 0."""
    with pytest.raises(TemplateError) as caught:
        parse("{{ .Response }}").execute_raw([])
    assert caught.value.text == (
        'template: :1:3: executing "" at <.Response>: can\'t evaluate field Response in type []interface {}'
    )
    with pytest.raises(TemplateError) as caught:
        parse("é\né {{ index .Messages 3 }}").execute(TemplateValues(messages=CHAT))
    assert caught.value.text == (
        'template: :2:6: executing "" at <index .Messages 3>: error calling index: reflect: slice index out of range'
    )
    assert caught.value.status == 400


PIECES = st.sampled_from(
    [
        *"{{ }} {{- -}} ( ) | , := = . $ $x .Messages .Content .Tools .Response .x nil true 0 1 -2 3.5 1e9".split(),
        *"if range with end else define template block break continue and or not eq len index slice".split(),
        *"print printf html js urlquery json call lt ge currentDate toTypeScriptType".split(),
        '"a"',
        '"%5.2f %v %s"',
        "`raw`",
        "'c'",
        "/* c */",
        "\n",
        "text",
        "é",
        "\ud800",
        "\x00",
        '"',
        "\\",
    ]
)


@settings(max_examples=400, deadline=None)
@given(st.lists(PIECES, max_size=40).map(" ".join) | st.text(max_size=60))
def test_no_text_breaks_the_parser_or_the_interpreter(text: str) -> None:
    """Whatever a client sends: a rendered text or a TemplateError."""
    try:
        template = GoTemplate(text)
    except TemplateError:
        return
    try:
        output = template.execute(TemplateValues(messages=CHAT))
    except TemplateError:
        return
    assert output == output.encode().decode()


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=12).map(" ".join))
def test_no_expression_breaks_the_interpreter(expression: str) -> None:
    """The same inside of one action, where more gets past the parser."""
    text = "{{ $x := .Messages }}{{ range .Messages }}{{ " + expression + " }}{{ end }}"
    try:
        output = GoTemplate(text).execute(TemplateValues(messages=CHAT, tools=(Tool(ToolFunction("f")),)))
    except TemplateError:
        return
    assert "\ud800" not in output


@settings(max_examples=300, deadline=None)
@given(
    st.text("%#0+- 123456789.*[]vTtsqxXcUdbfeEgGp!é", max_size=12),
    st.lists(st.none() | st.booleans() | st.integers(-300, 300) | st.floats() | st.text(max_size=5), max_size=3),
)
def test_no_format_breaks_printf(template: str, args: list[object]) -> None:
    """Go never fails in Printf, it writes what is wrong."""
    assert isinstance(sprintf(template, args), str)
