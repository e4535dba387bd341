"""Jinja chat templates: what templates of model files need, and that no template can run away."""

from __future__ import annotations

import json
import re
from typing import Any

import jinja2
import pytest
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from vllama.errors import TemplateError
from vllama.prompts.jinja import MAX_TEMPLATE, JinjaTemplate
from vllama.prompts.messages import Message, Think, Tool, ToolCall, ToolFunction

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou help.<|im_end|>\\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
ALTERNATING = """{{ bos_token }}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Roles must alternate, got <' ~ message.role ~ '>') }}
    {%- endif %}
    {%- if message.role == 'user' %}
[INST] {{ message.content | trim }} [/INST]
    {%- else %}
{% generation %} {{ message.content | trim }}{{ eos_token }}{% endgeneration %}
    {%- endif %}
{%- endfor %}"""
TOOLS = """{%- macro call(c) %}<call>{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}
{%- endmacro %}
{%- set ns = namespace(last=-1, names=[]) %}
{%- for tool in tools or [] %}
{{ tool | tojson(indent=2) }}
{%- set ns.names = ns.names + [tool.function.name] %}
{%- endfor %}
names: {{ ns.names | join(', ') }}
{%- for m in messages[::-1] %}
    {%- set i = messages | length - 1 - loop.index0 %}
    {%- if m.role == 'user' and ns.last < 0 %}{% set ns.last = i %}{% break %}{% endif %}
{%- endfor %}
{%- for m in messages %}
<{{ m.role }}>
    {%- if m.reasoning_content is defined %}<think>{{ m.reasoning_content }}</think>{% endif %}
{{- m.content }}
    {%- for c in m.tool_calls or [] %}{{ call(c) }}{% endfor %}
    {%- if m.role == 'tool' %}({{ m.name }}/{{ m.tool_call_id }}){% endif %}
{%- endfor %}
{%- if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}
{{- '|%s|%5.2f' % (reasoning_effort | default('none'), 1.5) }}
{%- set parts = 'a</think>b'.split('</think>') %}{{ parts[-1].lstrip('\\n') }}{{ {'x': [1, None]} }}"""

CHAT = [Message("user", "Hi <b>& you"), Message("assistant", " Hello "), Message("user", "Bye")]
TOOL = Tool(
    ToolFunction("get", "Gets <it>", {"type": "object", "required": ["z"], "properties": {"z": {"type": "string"}}})
)
TOOL_CHAT = [
    Message("user", "Weather?"),
    Message("assistant", "", thinking="hm", tool_calls=(ToolCall("get", {"z": "é<", "a": 1.5}, id="call_1"),)),
    Message("tool", "18 C", tool_name="get", tool_call_id="call_1"),
]


def reference(text: str, **variables: Any) -> str:
    """The same template in Jinja's own sandbox, set up as Hugging Face does."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    return environment.from_string(re.sub(r"{% (end)?generation %}", "", text)).render(**variables)


def as_dicts(messages: list[Message]) -> list[dict[str, Any]]:
    result = []
    for message in messages:
        entry: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.thinking:
            entry["reasoning_content"] = message.thinking
        if message.tool_calls:
            entry["tool_calls"] = [
                {"type": "function", "id": c.id, "function": {"name": c.name, "arguments": c.arguments}}
                for c in message.tool_calls
            ]
        if message.tool_name:
            entry |= {"name": message.tool_name, "tool_call_id": message.tool_call_id}
        result.append(entry)
    return result


@pytest.mark.parametrize("text", [CHATML, ALTERNATING, TOOLS])
@pytest.mark.parametrize("messages", [CHAT, TOOL_CHAT[:1]])
def test_renders_as_jinjas_own_sandbox_does(text: str, messages: list[Message]) -> None:
    expected = reference(
        text, messages=as_dicts(messages), tools=None, bos_token="<s>", eos_token="</s>", add_generation_prompt=True
    )
    assert JinjaTemplate(text).render(messages, (), bos="<s>", eos="</s>") == expected


def test_tools_and_tool_calls_are_openais_json() -> None:
    tools = [
        {
            "type": "function",
            "function": {"name": "get", "description": "Gets <it>", "parameters": TOOL.function.parameters},
        }
    ]
    expected = reference(
        TOOLS, messages=as_dicts(TOOL_CHAT), tools=tools, enable_thinking=True, reasoning_effort="high"
    )
    assert JinjaTemplate(TOOLS).render(TOOL_CHAT, [TOOL], think=Think(True, "high")) == expected
    assert '"arguments": {"z": "é<", "a": 1.5}' in expected
    assert "<think>hm</think>" in expected


@pytest.mark.parametrize(
    ("think", "text"),
    [
        (None, "unset/unset"),
        (Think(False), "False/unset"),
        (Think(True), "True/unset"),
        (Think(True, "low"), "True/low"),
    ],
)
def test_think_becomes_enable_thinking_and_reasoning_effort(think: Think | None, text: str) -> None:
    template = JinjaTemplate("{{ enable_thinking | default('unset') }}/{{ reasoning_effort | default('unset') }}")
    assert template.render([], think=think) == text


def test_no_generation_prompt() -> None:
    assert JinjaTemplate(CHATML).render(CHAT[:1], add_generation_prompt=False).endswith("<|im_end|>\n")


def test_the_date_is_there() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", JinjaTemplate("{{ strftime_now('%Y-%m-%d') }}").render([]))


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ("{{ 'a' ~ 1 ~ none ~ [1] }}", "a1None[1]"),
        ("{% for x in [3,1,2]|sort %}{{ x }}{% if not loop.last %},{% endif %}{% else %}none{% endfor %}", "1,2,3"),
        ("{% for x in (range(4)|select('odd')) %}{{ loop.length }}{{ x }} {% endfor %}", "21 23 "),
        ("{% for n in [[1,[2]]] recursive %}{{ n if n is number else loop(n) }}{% endfor %}", "12"),
        ("{% for k, v in {'b':1,'a':2}.items() %}{{ k }}{{ v }}{% endfor %}", "b1a2"),
        ("{{ messages is iterable }}{{ missing is defined }}{{ missing }}{{ {}.x is undefined }}", None),
        ("{{ 'a,b'.split(',')|last }}{{ 'x'.ljust(3) }}|{{ 'ab'[1:] }}{{ [1,2,3][:-1] }}", "bx  |b[1, 2]"),
        ("{{ [{'r':'a'},{'r':'b'}]|selectattr('r','equalto','b')|map(attribute='r')|join('-') }}", "b"),
        (
            "{{ 'b' in ['a','b'] }}{{ 'b' in 'abc' }}{{ 1 < 2 < 3 }}{{ (1,2) == (1,2) }}{{ {(1,): 2}[(1,)] }}",
            "TrueTrueTrueTrue2",
        ),
        ("{{ 'x\ny'|indent(2) }}|{{ 'aXa'|replace('X','-') }}|{{ ' q '.strip() }}|{{ '3'|int + 1 }}", "x\n  y|a-a|q|4"),
        ("{{ '\\u2028<é>'|tojson }}{{ {'z':1,'a':[]}|tojson }}", '"\u2028<é>"{"z": 1, "a": []}'),
        ("{{ '%s-%d' % ('a', 3) }}{{ '%(k)s'|format(k=1) }}{{ 2 ** 3 }}{{ 'ab' * 2 }}{{ 7 % 4 }}", "a-318abab3"),
        ("{{ 'a'|upper }}{{ [1,2]|sum }}{{ 1.256|round(2) }}{{ '12x'|int(5) }}{{ '0x1f'|int(0, 16) }}", "A31.26531"),
        ("{% set x %}a{{ 1 }}{% endset %}{{ x }}{% filter upper %}b{% endfilter %}", "a1B"),
        (
            "{% macro m(a, b=2) %}{{ a }}{{ b }}{{ caller() if caller }}{% endmacro %}"
            "{{ m(1) }}{% call m(3) %}c{% endcall %}",
            "1232c",
        ),
        (
            "{% for i in range(9) %}"
            "{% if i == 1 %}{% continue %}{% elif i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
            "02",
        ),
        ("{{ messages[0]['content'] if messages }}{{ {'items': 5}['items'] }}{{ {'a': 1}.get('b', 2) }}", "52"),
        ("{{ cycler('a','b').next() }}{{ dict(a=1)|tojson }}{{ 'a' is string }}{{ '&<'|e }}", 'a{"a": 1}True&amp;&lt;'),
    ],
)
def test_the_language_is_jinja(text: str, output: str | None) -> None:
    got = JinjaTemplate(text).render([])
    assert got == reference(text, messages=[]) if output is None else got == output


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ raise_exception('Only <user> & \"system\"') }}", 'Only <user> & "system"'),
        ("{{ a.b.c }}", "'a' is undefined"),
        ("{% for %}", "template line 1: "),
        ("{{ 'x' | nosuch }}", "template line 1: No filter named 'nosuch'"),
        ("{{ 1 / 0 }}", "the template failed: division by zero"),
        ("{% include 'x' %}", "the template failed: no loader"),
        ("{% for x in none %}{% endfor %}", "the template failed: 'NoneType' object is not iterable"),
        ("{{ ''.__class__ }}{{ ''.__class__.__mro__ }}", "access to attribute '__class__' of 'str' object is unsafe."),
        ("{{ '{0}'.format(1) }}", "access to attribute 'format' of 'str' object is unsafe."),
        ("{{ messages.append(1) }}", "access to attribute 'append' of 'list' object is unsafe."),
        ("{{ (5).to_bytes(99999999) }}", "access to attribute 'to_bytes' of 'int' object is unsafe."),
        ("{{ cycler.__init__.__globals__ }}", "access to attribute '__init__' of 'type' object is unsafe."),
        ("{{ ''|attr('__class__') }}", "template line 1: No filter named 'attr'"),
        ("x" * (MAX_TEMPLATE + 1), "the template is longer than"),
    ],
)
def test_failures_are_template_errors_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        JinjaTemplate(text).render([])
    assert caught.value.text.startswith(message)
    assert caught.value.status == 400


DOUBLE = (
    "{% set ns = namespace(x='0123456789') %}{% for i in range(60) %}{% set ns.x = STEP %}{% endfor %}{{ ns.x|length }}"
)
NEST = (
    "{% set ns = namespace(x=[1], y=[1]) %}"
    "{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}"
)


@pytest.mark.parametrize(
    "text",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) recursive %}{{ loop(range(99999)) }}{% endfor %}",
        "{{ range(99999)" + "|map('upper')|map('lower')" * 8 + "|list|length }}",
        "{{ range(10 ** 9) }}",
        "{{ 'a' * 10 ** 9 }}",
        "{{ [1] * 10 ** 9 }}",
        "{{ 10 ** 99999999 }}",
        "{{ 'a'.ljust(10 ** 9) }}",
        "{{ 'a'.center(999999999) }}",
        "{{ 'a'|center(999999999) }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '%*d' % (999999999, 1) }}",
        "{{ '%999999999d'|format(1) }}",
        "{{ 'a\nb\nc'|indent('x' * 8000000, true) }}",
        "{{ ['a'] | tojson(indent=999999999) }}",
        "{{ ([('a' * 1000000)] * 100000)|join }}",
        "{{ ''.join([('a' * 1000000)] * 100000) }}",
        "{% for i in range(100) %}{{ 'a' * 1000000 }}{% endfor %}",
        "{% macro m() %}{% for i in range(100) %}{{ 'a' * 1000000 }}{% endfor %}{% endmacro %}{% set x = m() %}",
        "{% macro m() %}" + "a" * 100_000 + "{% endmacro %}{% for i in range(999) %}{{ m() }}{% endfor %}",
        "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
        "{% block a %}{{ self.a() }}{% endblock %}",
        DOUBLE.replace("STEP", "ns.x ~ ns.x"),
        DOUBLE.replace("STEP", "ns.x + ns.x"),
        DOUBLE.replace("STEP", "ns.x.replace('0', ns.x)"),
        DOUBLE.replace("STEP", "ns.x|replace('0', ns.x)"),
        DOUBLE.replace("STEP", "'%s%s' % (ns.x, ns.x)"),
        DOUBLE.replace("STEP", "[ns.x, ns.x]|join"),
        DOUBLE.replace("'0123456789'", "3").replace("STEP", "ns.x * ns.x"),
        NEST + "{{ ns.x }}",
        NEST + "{{ ns.x ~ '' }}",
        NEST + "{{ ns.x|tojson }}",
        NEST + "{{ ns.x|string }}",
        NEST + "{{ ns.x == ns.y }}",
        NEST + "{{ ns.x is eq ns.y }}",
        NEST + "{{ ns.y in [ns.x] }}",
        NEST + "{{ [ns.x, ns.y]|sort }}",
        NEST + "{{ [ns.x].index(ns.y) }}",
        NEST.replace("[", "(").replace("]", ",)") + "{{ {ns.x: 1} }}",
        NEST + "{% for i in [1] %}{{ loop.changed(ns.x) }}{% endfor %}",
        "{{ [[1]]|sum(start=[]) }}",
        "{% set x = 'a' * 8000000 %}{% for i in range(99999) %}{% set y = x[1:] %}{% endfor %}",
        "{% set x = 'a' * 8000000 %}{% for i in range(99999) %}{% set y = 'b' in x %}{% endfor %}",
        "{% set x = 'a' * 8000000 %}{% for i in range(99999) %}{% set y = x.upper() %}{% endfor %}",
        "{% set x = 'a' * 8000000 %}{% for i in range(99999) %}{% set y = x|upper %}{% endfor %}",
        "{{ strftime_now('%c' * 100000) }}",
        "(" * 5000 + "{{ " + "(" * 5000 + ")" * 5000 + " }}",
        "{% if x %}" * 3000 + "{% endif %}" * 3000,
        "{{ " + "-" * 20000 + "1 }}",
    ],
)
def test_no_template_can_run_away(text: str) -> None:
    with pytest.raises(TemplateError):
        JinjaTemplate(text).render([])


def test_long_chats_are_within_the_budget() -> None:
    chat = [Message("user" if i % 2 == 0 else "assistant", f"text {i} " * 200) for i in range(2000)]
    for text in (CHATML, ALTERNATING, TOOLS):
        assert len(JinjaTemplate(text).render(chat)) > 2_000_000


def test_one_rendering_leaves_nothing_for_the_next() -> None:
    template = JinjaTemplate("{% for a in range(20) %}{% for b in range(20000) %}{% endfor %}{% endfor %}done")
    assert [template.render([]) for _ in range(3)] == ["done"] * 3


def test_compiled_templates_are_shared_by_text(monkeypatch: pytest.MonkeyPatch) -> None:
    first = JinjaTemplate("{{ 'only here' }}")
    monkeypatch.setattr(jinja2.Environment, "compile", lambda *_: pytest.fail("compiled again"))
    assert JinjaTemplate("{{ 'only here' }}").render([]) == first.render([]) == "only here"
