"""Prints values as Go's fmt package does: Print, Println and Printf with their verbs and error marks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from vllama.errors import TemplateError
from vllama.prompts.gotemplate.floats import format_float, with_point
from vllama.prompts.gotemplate.quoting import quote, to_bytes
from vllama.prompts.gotemplate.values import (
    Byte,
    Map,
    NilPointer,
    Slice,
    Struct,
    Value,
    named_type,
    pointed,
    type_name,
    unheld,
)

MAX_OUTPUT = 1 << 25
"""The most characters that one execution, or one printed value, may have."""

_MAX_WIDTH: Final = 1_000_000


def too_long() -> TemplateError:
    """What is raised when an output passes MAX_OUTPUT."""
    return TemplateError(f"template: output is longer than {MAX_OUTPUT} characters")


def sprint(args: Sequence[Value]) -> str:
    """fmt.Sprint: a blank between two operands when neither is a string."""
    printer = _Printer()
    before_is_string = True
    for arg in args:
        is_string = isinstance(arg, str)
        if not is_string and not before_is_string:
            printer.write(" ")
        printer.argument(arg, "v")
        before_is_string = is_string
    return printer.text()


def sprintln(args: Sequence[Value]) -> str:
    """fmt.Sprintln."""
    printer = _Printer()
    for number, arg in enumerate(args):
        if number:
            printer.write(" ")
        printer.argument(arg, "v")
    printer.write("\n")
    return printer.text()


def sprintf(template: str, args: Sequence[Value]) -> str:
    """fmt.Sprintf; mistakes show up in the text (`%!d(string=Ada)`), as in Go."""
    printer = _Printer()
    printer.format(template, args)
    return printer.text()


@dataclass(slots=True)
class _Flags:
    plus: bool = False
    minus: bool = False
    sharp: bool = False
    space: bool = False
    zero: bool = False
    plus_v: bool = False
    sharp_v: bool = False
    width: int | None = None
    precision: int | None = None


class _Printer:
    """Collects one printed text."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._length = 0
        self._flags = _Flags()
        self._reporting = False

    def text(self) -> str:
        return "".join(self._parts)

    def write(self, text: str) -> None:
        self._length += len(text)
        if self._length > MAX_OUTPUT:
            raise too_long()
        self._parts.append(text)

    def _pad(self, text: str) -> None:
        flags = self._flags
        if flags.width is not None and len(text) < flags.width:
            if flags.minus:
                text = text.ljust(flags.width)
            else:
                text = text.rjust(flags.width, "0" if flags.zero else " ")
        self.write(text)

    # Values

    def argument(self, arg: Value, verb: str) -> None:
        """One operand of Print or of a verb."""
        arg = unheld(arg)
        if verb == "v" and type(arg) is str and not self._flags.sharp_v:
            self._string(arg, "v")
        elif arg is None:
            if verb in "Tv":
                self._pad("<nil>")
            else:
                self._bad_verb(arg, verb)
        elif verb == "T":
            self._string(type_name(arg), "s")
        elif verb == "p":
            self._bad_verb(arg, verb) if not isinstance(arg, list | dict | Struct) else self._address(arg)
        elif not self._method(arg, verb):
            self._value(arg, verb, 0)

    def _method(self, value: Value, verb: str) -> bool:
        """Prints by the type's own String method where it has one that the verb asks for."""
        owner = named_type(value)
        if self._reporting or self._flags.sharp_v or owner is None or owner.string is None:
            return False
        if verb not in "vsxXq":
            return False
        self._string(owner.string(value), verb)
        return True

    def _value(self, value: Value, verb: str, depth: int) -> None:
        value = unheld(value)
        if value is None:
            self.write("interface {}(nil)" if self._flags.sharp_v else "<nil>")
        elif depth > 0 and self._method(value, verb):
            pass
        elif isinstance(value, bool):
            self._bool(value, verb)
        elif isinstance(value, int):
            self._integer(value, verb)
        elif isinstance(value, float):
            self._float(value, verb)
        elif isinstance(value, complex):
            self._complex(value, verb)
        elif isinstance(value, str):
            self._string(value, verb)
        elif isinstance(value, dict):
            self._map(value, verb, depth)
        elif isinstance(value, list):
            self._slice(value, verb, depth)
        elif isinstance(value, bytes):
            if verb in "sqxX":
                self._bytes(value, verb)
            elif len(value) > MAX_OUTPUT // 2:
                raise too_long()
            else:
                self._slice([Byte(byte) for byte in value], verb, depth)
        elif isinstance(value, NilPointer):
            self._pad("<nil>" if verb == "v" else "%!" + verb + f"({type_name(value)}=<nil>)")
        elif value.type.target is not None and depth > 0:
            self._address(value)
        else:
            if value.type.target is not None:
                self.write("&")
                depth += 1
            self._struct(pointed(value), verb, depth)

    def _address(self, value: Value) -> None:
        # Go prints where the thing lies in memory, another number each time: the place means nothing.
        self._pad(f"0x{0xC000000000 + id(value) % 0x1000000:x}")

    def _map(self, value: dict[str, Value], verb: str, depth: int) -> None:
        sharp_v = self._flags.sharp_v
        if sharp_v and isinstance(value, Map) and value.is_nil:
            self.write(type_name(value) + "(nil)")
            return
        self.write(type_name(value) + "{" if sharp_v else "map[")
        for number, key in enumerate(sorted(value)):
            if number:
                self.write(", " if sharp_v else " ")
            self._value(key, verb, depth + 1)
            self.write(":")
            self._value(value[key], verb, depth + 1)
        self.write("}" if sharp_v else "]")

    def _slice(self, value: list[Value], verb: str, depth: int) -> None:
        sharp_v = self._flags.sharp_v
        if sharp_v and isinstance(value, Slice) and value.is_nil:
            self.write(type_name(value) + "(nil)")
            return
        self.write(type_name(value) + "{" if sharp_v else "[")
        for number, item in enumerate(value):
            if number:
                self.write(", " if sharp_v else " ")
            self._value(item, verb, depth + 1)
        self.write("}" if sharp_v else "]")

    def _struct(self, value: Struct, verb: str, depth: int) -> None:
        flags = self._flags
        if flags.sharp_v:
            self.write(value.type.name)
        self.write("{")
        for number, name in enumerate(value.type.fields):
            if number:
                self.write(", " if flags.sharp_v else " ")
            if flags.plus_v or flags.sharp_v:
                self.write(name + ":")
            self._value(value.fields[name], verb, depth + 1)
        self.write("}")

    def _bad_verb(self, value: Value, verb: str) -> None:
        self._reporting = True
        self.write("%!" + verb + "(")
        if value is None:
            self.write("<nil>")
        else:
            self.write(type_name(value) + "=")
            self.argument(value, "v")
        self.write(")")
        self._reporting = False

    # Scalars

    def _bool(self, value: bool, verb: str) -> None:
        if verb in "tv":
            self._pad("true" if value else "false")
        else:
            self._bad_verb(value, verb)

    def _integer(self, value: int, verb: str) -> None:
        flags = self._flags
        if verb == "v" and flags.sharp_v and isinstance(value, Byte):
            self._pad(f"{value:#x}")
        elif verb in "vd":
            self._digits(value, 10, verb)
        elif verb in "boOxX":
            self._digits(value, {"b": 2, "o": 8, "O": 8, "x": 16, "X": 16}[verb], verb)
        elif verb == "c":
            self._pad(_character(value))
        elif verb == "q":
            self._pad(quote(_character(value), "'", ascii_only=flags.plus))
        elif verb == "U":
            self._unicode(value)
        else:
            self._bad_verb(value, verb)

    def _pad_plain(self, text: str) -> None:
        zero, self._flags.zero = self._flags.zero, False
        self._pad(text)
        self._flags.zero = zero

    def _unicode(self, value: int) -> None:
        text = f"U+{value & 0xFFFFFFFFFFFFFFFF:0{max(4, self._flags.precision or 4)}X}"
        if self._flags.sharp and 0 <= value <= 0x10FFFF and chr(value).isprintable():
            text += f" '{chr(value)}'"
        self._pad_plain(text)

    def _digits(self, value: int, base: int, verb: str) -> None:
        flags = self._flags
        size = abs(value)
        digits = {2: f"{size:b}", 8: f"{size:o}", 10: str(size), 16: f"{size:x}"}[base]
        if flags.precision is not None:
            if flags.precision == 0 and value == 0:
                self._pad_plain("")
                return
            digits = digits.rjust(flags.precision, "0")
        elif flags.zero and not flags.minus and flags.width is not None:
            signed = value < 0 or flags.plus or flags.space
            digits = digits.rjust(flags.width - signed, "0")
        if flags.sharp:
            prefix = {2: "0b", 8: "" if digits[0] == "0" else "0", 16: "0x"}.get(base, "")
            digits = prefix + digits
        if verb == "O":
            digits = "0o" + digits
        sign = "-" if value < 0 else "+" if flags.plus else " " if flags.space else ""
        text = sign + digits
        self._pad_plain(text.upper() if verb == "X" else text)

    def _float(self, value: float, verb: str) -> None:
        if verb == "v":
            self._number(value, "g", None)
        elif verb in "bgGxX":
            self._number(value, verb, None)
        elif verb in "feEF":
            self._number(value, verb.replace("F", "f"), 6)
        else:
            self._bad_verb(value, verb)

    def _number(self, value: float, verb: str, precision: int | None) -> None:
        flags = self._flags
        if flags.precision is not None:
            precision = flags.precision
        text = format_float(value, verb, precision)
        if text[0] not in "+-":
            text = "+" + text
        if flags.space and text[0] == "+" and not flags.plus:
            text = " " + text[1:]
        finite = not (math.isinf(value) or math.isnan(value))
        if flags.sharp and verb != "b" and finite:
            text = with_point(text, verb, precision)
        if flags.plus or text[0] != "+":
            if flags.zero and not flags.minus and flags.width is not None and len(text) < flags.width and finite:
                text = text[0] + text[1:].rjust(flags.width - 1, "0")
        else:
            text = text[1:]
        if finite:
            self._pad(text)
        else:
            self._pad_plain(text)

    def _complex(self, value: complex, verb: str) -> None:
        if verb not in "vbgGxXfFeE":
            self._bad_verb(value, verb)
            return
        plus = self._flags.plus
        self.write("(")
        self._float(value.real, verb)
        self._flags.plus = True
        self._float(value.imag, verb)
        self.write("i)")
        self._flags.plus = plus

    def _string(self, value: str, verb: str) -> None:
        flags = self._flags
        if verb == "v" and flags.sharp_v:
            self._quoted(value)
        elif verb in "vs":
            self._pad(value if flags.precision is None else value[: flags.precision])
        elif verb == "q":
            self._quoted(value)
        elif verb in "xX":
            self._bytes(to_bytes(value), verb)
        else:
            self._bad_verb(value, verb)

    def _quoted(self, value: str) -> None:
        flags = self._flags
        if flags.precision is not None:
            value = value[: flags.precision]
        if flags.sharp and "`" not in value and all(c == "\t" or c.isprintable() for c in value):
            self._pad("`" + value + "`")
        else:
            self._pad(quote(value, ascii_only=flags.plus))

    def _bytes(self, data: bytes, verb: str) -> None:
        flags = self._flags
        if verb == "s":
            self._pad(data.decode("utf-8", "surrogateescape")[: flags.precision])
            return
        if verb == "q":
            self._quoted(data.decode("utf-8", "surrogateescape"))
            return
        data = data[: flags.precision]
        prefix = "0x" if flags.sharp else ""
        if flags.space:
            text = " ".join(f"{prefix}{byte:02x}" for byte in data)
        else:
            text = prefix + data.hex() if data else ""
        self._pad(text.upper() if verb == "X" else text)

    # Printf

    def format(self, template: str, args: Sequence[Value]) -> None:
        end, pos, number, reordered = len(template), 0, 0, False
        while pos < end:
            percent = template.find("%", pos)
            if percent < 0:
                percent = end
            if percent > pos:
                self.write(template[pos:percent])
            if percent >= end:
                break
            directive = _Directive(template, percent + 1, number, args)
            flags = self._flags = directive.flags
            pos, number = directive.pos, directive.number
            reordered = reordered or directive.reordered
            for mistake in directive.mistakes:
                self.write(mistake)
            verb = directive.verb
            if not verb:
                self.write("%!(NOVERB)")
                break
            if verb == "%":
                self.write("%")
            elif not directive.good:
                self.write(f"%!{verb}(BADINDEX)")
            elif number >= len(args):
                self.write(f"%!{verb}(MISSING)")
            else:
                if verb == "v":
                    flags.sharp_v, flags.sharp = flags.sharp, False
                    flags.plus_v, flags.plus = flags.plus, False
                self.argument(args[number], verb)
                number += 1
        self._flags = _Flags()
        if not reordered and number < len(args):
            self.write("%!(EXTRA ")
            for position, arg in enumerate(args[number:]):
                if position:
                    self.write(", ")
                if arg is None:
                    self.write("<nil>")
                else:
                    self.write(type_name(arg) + "=")
                    self.argument(arg, "v")
            self.write(")")


class _Directive:
    """One `%...verb` of a format: flags, width, precision, argument numbers."""

    def __init__(self, template: str, pos: int, number: int, args: Sequence[Value]) -> None:
        self._template, self._args = template, args
        self.pos, self.number = pos, number
        self.flags = _Flags()
        self.mistakes: list[str] = []
        self.good = True
        self.reordered = False
        self.verb = ""
        self._read()

    def _peek(self) -> str:
        return self._template[self.pos : self.pos + 1]

    def _read(self) -> None:
        flags = self.flags
        names = {"#": "sharp", "0": "zero", "+": "plus", "-": "minus", " ": "space"}
        while self._peek() in names:
            setattr(flags, names[self._peek()], True)
            self.pos += 1
        if flags.minus:
            flags.zero = False
        after_index = self._argument_number()
        if self._peek() == "*":
            self.pos += 1
            flags.width = self._star("%!(BADWIDTH)")
            if flags.width is not None and flags.width < 0:
                flags.width, flags.minus, flags.zero = -flags.width, True, False
            after_index = False
        else:
            flags.width = self._digits()
            if after_index and flags.width is not None:
                self.good = False
        if self._peek() == ".":
            self.pos += 1
            if after_index:
                self.good = False
            after_index = self._argument_number()
            if self._peek() == "*":
                self.pos += 1
                flags.precision = self._star("%!(BADPREC)", negative=False)
                after_index = False
            else:
                flags.precision = self._digits() or 0
        if not after_index:
            self._argument_number()
        self.verb = self._peek()
        self.pos += 1

    def _digits(self) -> int | None:
        start = self.pos
        while self._peek() and self._peek() in "0123456789":
            self.pos += 1
        text = self._template[start : self.pos].lstrip("0")
        if start == self.pos:
            return None
        return int(text or "0") if len(text) < 8 and int(text or "0") <= _MAX_WIDTH else None

    def _star(self, mistake: str, *, negative: bool = True) -> int | None:
        value = unheld(self._args[self.number]) if self.number < len(self._args) else None
        if self.number < len(self._args):
            self.number += 1
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _MAX_WIDTH:
            if value >= 0 or negative:
                return int(value)
            if not negative:
                self.mistakes.append(mistake)
                return None
        self.mistakes.append(mistake)
        return None

    def _argument_number(self) -> bool:
        if self._peek() != "[":
            return False
        self.reordered = True
        close = self._template.find("]", self.pos)
        if close < 0:
            self.good = False
            self.pos += 1
            return False
        digits = self._template[self.pos + 1 : close]
        self.pos = close + 1
        if digits.isascii() and digits.isdecimal() and len(digits) < 8 and 1 <= int(digits) <= len(self._args):
            self.number = int(digits) - 1
            return True
        self.good = False
        return True


def _character(value: int) -> str:
    if 0 <= value <= 0x10FFFF and not 0xD800 <= value < 0xE000:
        return chr(value)
    return "\ufffd"
