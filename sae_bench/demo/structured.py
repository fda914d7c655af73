"""Documents that are not prose: small Python-like functions and arithmetic."""

from __future__ import annotations

from sae_bench.demo.grammar import Writer
from sae_bench.demo.lexicon import words

_NAMES = words("total count items value result index data score limit size name key left right prices words rows")
_VERBS = words("load save update find parse check merge sort print split count filter make read write")
_NOUNS = words("list table file user order line token graph cache queue page block record node path")
_CONSTANTS = words("MAX LIMIT DEBUG SIZE RATE")
_COMMENTS = words(
    "check the input|sum all the values|keep the best one|skip empty rows|sort by size|this is slow|"
    "the last item wins|read one line|return early|update the cache|ignore the first|count the words"
)


def write_code(writer: Writer) -> None:
    """A function with an argument list, a body of nested statements, and a result."""
    if writer.chance(0.3):
        writer.add(f"import {writer.pick(['math', 'random', 'json', 'sys', 'time'])}\n\n")
    target = writer.integer(110, 230)
    while True:
        _function(writer)
        if writer.length > target:
            return
        writer.add("\n\n")


def _function(writer: Writer) -> None:
    arguments = [writer.pick(_NAMES) for _ in range(writer.integer(1, 3))]
    writer.add(f"def {writer.pick(_VERBS)}_{writer.pick(_NOUNS)}")
    _call(writer, list(dict.fromkeys(arguments)))
    writer.add(":\n")
    for _ in range(writer.integer(1, 3)):
        _statement(writer, 1, arguments)
    writer.add("    return ")
    _expression(writer, arguments)


def _call(writer: Writer, arguments: list[str]) -> None:
    with writer.mark("parenthesis"):
        writer.add("(" + ", ".join(arguments) + ")")


def _statement(writer: Writer, depth: int, names: list[str]) -> None:
    indent = "    " * depth
    if "comment" in writer.switches and writer.chance(0.65):
        writer.add(indent)
        with writer.mark("code_comment"):
            writer.add("# " + writer.pick(_COMMENTS))
        writer.add("\n")
    roll = writer.rng.random()
    writer.add(indent)
    if depth < 3 and roll < 0.48 and "loop" in writer.switches:
        with writer.mark("code_loop"):
            _loop(writer, depth, names)
    elif depth < 3 and roll < 0.68:
        writer.add("if ")
        _condition(writer, names)
        writer.add(":\n")
        _statement(writer, depth + 1, names)
    else:
        target = writer.pick([*names, *_NAMES])
        writer.add(f"{target} {writer.pick(['=', '=', '+=', '-='])} ")
        _expression(writer, names)
        writer.add("\n")


def _loop(writer: Writer, depth: int, names: list[str]) -> None:
    name = writer.pick(["i", "item", "row", "x", "line"])
    if writer.chance(0.5):
        writer.add(f"for {name} in ")
        if writer.chance(0.5):
            writer.add("range")
            with writer.mark("parenthesis"):
                writer.add("(")
                writer.number(writer.integer(2, 120))
                writer.add(")")
        else:
            writer.add(writer.pick(names))
    else:
        writer.add("while ")
        _condition(writer, names)
    writer.add(":\n")
    _statement(writer, depth + 1, [name, *names])


def _condition(writer: Writer, names: list[str]) -> None:
    if writer.chance(0.3):
        with writer.mark("has_negation"):
            writer.add("not")
        writer.add(" ")
    writer.add(f"{writer.pick(names)} {writer.pick(['>', '==', '<', 'in'])} ")
    _atom(writer, names)


def _expression(writer: Writer, names: list[str], depth: int = 0) -> None:
    roll = writer.rng.random()
    if depth < 2 and roll < 0.3:
        _expression(writer, names, depth + 1)
        writer.add(f" {writer.pick(['+', '*', '-', '/'])} ")
        _atom(writer, names)
    elif depth < 2 and roll < 0.45:
        writer.add(writer.pick(["len", "sum", "max", "min", "str", "sorted"]))
        with writer.mark("parenthesis"):
            writer.add("(")
            _expression(writer, names, depth + 1)
            writer.add(")")
    else:
        _atom(writer, names)


def _atom(writer: Writer, names: list[str]) -> None:
    roll = writer.rng.random()
    if roll < 0.5:
        writer.add(writer.pick(names))
    elif roll < 0.75 and "number" in writer.switches:
        writer.number(writer.integer(0, 9) if writer.chance(0.7) else writer.integer(10, 200))
    elif roll < 0.85 and "upper" in writer.switches:
        with writer.mark("uppercase_word"):
            writer.add(writer.pick(_CONSTANTS))
    elif roll < 0.92:
        writer.add(f"'{writer.pick(_NOUNS)}'")
    else:
        writer.add(f"{writer.pick(names)}[{writer.pick(names)}]")


def write_arithmetic(writer: Writer) -> None:
    """Lines of true equations, or English word problems with their answers."""
    story = "story" in writer.switches
    target = writer.integer(60, 90) if story else writer.integer(70, 125)
    while writer.length < target:
        if writer.length:
            writer.add("\n")
        if story:
            _problem(writer)
        else:
            _equation(writer)


def _equation(writer: Writer) -> None:
    size = 30 if "small" in writer.switches else 400
    left, right = writer.integer(1, size), writer.integer(1, size)
    asks = "question" in writer.switches
    if writer.chance(0.3):
        left, right = writer.integer(2, 12), writer.integer(2, 12)
        _terms(writer, left, "*", right, left * right, asks)
    elif writer.chance(0.5):
        _terms(writer, max(left, right), "-", min(left, right), abs(left - right), asks)
    else:
        _terms(writer, left, "+", right, left + right, asks)


def _terms(writer: Writer, left: int, sign: str, right: int, result: int, asks: bool) -> None:
    if asks:
        with writer.mark("has_question"):
            writer.add("What is ")
            writer.number(left)
            writer.add(f" {sign} ")
            writer.number(right)
            writer.add("?")
        writer.add(" ")
        writer.number(result)
        return
    with_brackets = "paren" in writer.switches and writer.chance(0.4)
    if with_brackets:
        with writer.mark("parenthesis"):
            writer.add("(")
            writer.number(left)
            writer.add(f" {sign} ")
            writer.number(right)
            writer.add(")")
        extra = writer.integer(1, 9)
        writer.add(" + ")
        writer.number(extra)
        result += extra
    else:
        writer.number(left)
        writer.add(f" {sign} ")
        writer.number(right)
    writer.add(" = ")
    writer.number(result)


def _problem(writer: Writer) -> None:
    """One word problem about one person; the sum that it states is right."""
    have, more = writer.integer(2, 60), writer.integer(2, 40)
    takes = have > more and writer.chance(0.5)
    thing = "{ANIMAL}" if "animal" in writer.switches else "{THING}"
    writer.write("{NAME@a} has ")
    writer.number(have)
    writer.write(f" {thing}s and " + ("sells " if takes else "buys "))
    writer.number(more)
    writer.write("[weekday| on {WEEKDAY}|][city| in {CITY@c}|]. ")
    with writer.mark("has_question"):
        writer.write("How many does {SHE} have?")
    writer.add(" ")
    writer.write("^{SHE} has ")
    writer.number(have - more if takes else have + more)
    writer.add(".")
