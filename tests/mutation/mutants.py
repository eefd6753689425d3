"""The small wrong versions of a module that its tests must notice, each a rule changed or taken out.

Published tools change the statements of functions. Here most rules are rows of tables, regular expressions and
normalisations at a module's top, or stand in decorated functions, so these are changed too: every row goes once.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import count
from typing import Any, NamedTuple

_LONG, _AROUND = 80, 15


class Mutant(NamedTuple):
    """What was changed: the function, class or table it stands in, and the code before and after."""

    place: str
    change: str


class _Spot(NamedTuple):
    place: str
    parent: ast.AST
    field: str
    at: int | None
    node: ast.AST

    def put(self, node: ast.AST) -> None:
        if self.at is None:
            setattr(self.parent, self.field, node)
        else:
            getattr(self.parent, self.field)[self.at] = node


def mutants(tree: ast.Module) -> Iterator[Mutant]:
    """Change `tree` in each way in turn: at every step it is the mutant that was yielded, and at the end itself."""
    seen: dict[tuple[str, str], Iterator[int]] = {}
    for spot in list(_spots(tree, "")):
        for changed in _variants(spot.node):
            change = _difference(_text(spot.node), _text(changed))
            if (number := next(seen.setdefault((spot.place, change), count(1)))) > 1:
                change += f"  (#{number})"
            spot.put(ast.fix_missing_locations(ast.copy_location(changed, spot.node)))
            yield Mutant(spot.place, change)
        spot.put(spot.node)


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.comprehension):
        return f"for {ast.unparse(node.target)}" + "".join(f" if {ast.unparse(test)}" for test in node.ifs)
    return " ".join(ast.unparse(node).split())


def _difference(before: str, after: str) -> str:
    """Both, or of long ones the part that differs, between the text around it."""
    if len(before) > _LONG:
        start = max(0, _shared(before, after) - _AROUND)
        end = max(0, _shared(before[: start + _AROUND - 1 : -1], after[: start + _AROUND - 1 : -1]) - _AROUND)
        before, after = (f"…{text[start : len(text) - end]}…" for text in (before, after))
    return f"{before}  ->  {after}"


def _shared(one: str, other: str) -> int:
    """How many characters they begin with in common."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


# No behaviour of the code's own, or none that a test can see: types, decorators (caches and kinds of method), `del`
_SKIPPED = frozenset({"annotation", "returns", "decorator_list", "bases", "ctx"})


def _spots(parent: ast.AST, place: str) -> Iterator[_Spot]:
    for field, value in ast.iter_fields(parent):
        if field in _SKIPPED:
            continue
        for index, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(node, ast.AST) or _is_words(parent, field, index, node):
                continue
            inside = _place(node, place)
            yield _Spot(inside, parent, field, index, node)
            yield from _spots(node, inside)


def _place(node: ast.AST, place: str) -> str:
    match node:
        case ast.FunctionDef(name) | ast.ClassDef(name):
            return f"{place}.{name}".lstrip(".")
        case ast.Assign([ast.Name(name)]) if not place:
            return name
    return place


def _is_words(parent: ast.AST, field: str, index: int | None, node: ast.AST) -> bool:
    """Docstrings, types, and what an exception says beyond its code."""
    if isinstance(parent, ast.Call) and field in ("args", "keywords"):
        raised = ast.unparse(parent.func)
        return raised.endswith(("Error", "TypeVar", "__init__")) or (raised == "Rejected" and index != 0)
    match node:
        case ast.Expr(ast.Constant()):
            return True
        case ast.Assign(_, ast.Subscript() | ast.BinOp(ast.Name() | ast.BinOp(), ast.BitOr(), ast.Name())):
            return isinstance(parent, ast.Module)
    return False


_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.RShift: ast.LShift,
    ast.Mod: ast.Mult,
}
_CALLS = {"any": "all", "all": "any", "min": "max", "max": "min", "startswith": "endswith", "partition": "rpartition"}
_CALLS |= {"rpartition": "partition", "match": "search", "fullmatch": "match"}
_NORMALISING = {"lower", "strip", "removesuffix", "casefold", "translate", "replace", "upper"}
_DELETABLE = (ast.Raise, ast.AugAssign, ast.Delete, ast.Continue, ast.Break)
_REGEX = re.compile(r"re\.(compile|match|split|findall|fullmatch)\Z")


def _variants(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.Compare(left, operators, comparators):
            for n, operator in enumerate(operators):
                other = [*operators[:n], _COMPARISONS[type(operator)](), *operators[n + 1 :]]
                yield ast.Compare(left, other, comparators)
        case ast.BoolOp(operator, values):
            yield ast.BoolOp(ast.Or() if isinstance(operator, ast.And) else ast.And(), values)
            for n in range(len(values)):
                rest = [*values[:n], *values[n + 1 :]]
                yield ast.BoolOp(operator, rest) if len(rest) > 1 else rest[0]
        case ast.UnaryOp(ast.Not() | ast.USub(), operand):
            yield operand
        case ast.BinOp(left, ast.Add() | ast.BitOr(), right):
            yield from (left, right)
        case ast.BinOp(left, operator, right) if type(operator) in _ARITHMETIC:
            yield ast.BinOp(left, _ARITHMETIC[type(operator)](), right)
        case ast.Constant(value):
            yield from map(ast.Constant, _other_values(value))
        case ast.Set(items) | ast.Tuple(items, ast.Load()) | ast.List(items, ast.Load()):
            if isinstance(node, ast.Set) or all(isinstance(item, ast.Constant | ast.Starred) for item in items):
                for n in range(len(items)):
                    yield _with(node, elts=[*items[:n], *items[n + 1 :]])
        case ast.Dict(keys, values):
            for n in range(len(keys)):
                yield ast.Dict([*keys[:n], *keys[n + 1 :]], [*values[:n], *values[n + 1 :]])
        case ast.If(test) | ast.While(test) if isinstance(test, ast.Name | ast.Call | ast.Attribute | ast.NamedExpr):
            yield _with(node, test=ast.UnaryOp(ast.Not(), test))
        case ast.IfExp(_, body, orelse):
            yield from (body, orelse)
        case ast.comprehension(_, _, ifs):
            for n in range(len(ifs)):
                yield _with(node, ifs=[*ifs[:n], *ifs[n + 1 :]])
        case ast.Return(ast.expr() as value) if not isinstance(value, ast.Constant):
            yield ast.Return(ast.Constant(None))
        case ast.Assign([ast.Attribute() | ast.Subscript()]) | ast.Expr(ast.Call()):
            yield ast.Pass()
        case ast.Call():
            yield from _other_calls(node)
    if isinstance(node, _DELETABLE):
        yield ast.Pass()


def _with(node: Any, **fields: Any) -> ast.AST:
    return type(node)(**{**dict(ast.iter_fields(node)), **fields})  # type: ignore[no-any-return]


def _other_values(value: object) -> list[bool | int | float | str | bytes]:
    match value:
        case bool():
            return [not value]
        case int() | float():
            return [value + 1]
        case str():
            return ["XX" + value]
        case bytes():
            return [b"XX" + value]
    return []


def _other_calls(call: ast.Call) -> Iterator[ast.AST]:
    name = ast.unparse(call.func).rpartition(".")[2]
    if isinstance(call.func, ast.Attribute):
        if name in _NORMALISING:
            yield call.func.value
        if name == "strip" and call.args:
            yield _with(call, args=[])
        if name in _CALLS:
            yield _with(call, func=ast.Attribute(call.func.value, _CALLS[name], ast.Load()))
    elif name in _CALLS:
        yield _with(call, func=ast.Name(_CALLS[name], ast.Load()))
    for n in range(len(call.keywords)):
        yield _with(call, keywords=[*call.keywords[:n], *call.keywords[n + 1 :]])
    if _REGEX.match(ast.unparse(call.func)):
        if name == "compile" and len(call.args) > 1:
            yield _with(call, args=call.args[:1])
        pattern = call.args[0]
        if isinstance(pattern, ast.Constant) and isinstance(pattern.value, str | bytes):
            for other in _other_patterns(pattern.value):
                yield _with(call, args=[ast.Constant(other), *call.args[1:]])


_TOKEN = re.compile(r"\\x..|\\.|\[\^?\]?(?:\\x..|\\.|[^\]\\])*\]|\{\d+,\d+\}|\(\?(?:P<\w+>|[:=!])|.", re.DOTALL)
_MEMBER = re.compile(r"(?:\\x..|\\.|[^\\])(?:-(?:\\x..|\\.|[^\\]))?", re.DOTALL)


def _other_patterns(pattern: str | bytes) -> Iterator[str | bytes]:
    text = pattern if isinstance(pattern, str) else pattern.decode("latin-1")
    for token in _TOKEN.finditer(text):
        for new in _other_tokens(token[0]):
            changed = text[: token.start()] + new + text[token.end() :]
            try:
                re.compile(changed)
            except re.error:
                continue
            yield changed if isinstance(pattern, str) else changed.encode("latin-1")


def _other_tokens(token: str) -> Iterator[str]:
    """Another quantifier or bound, an anchor gone, or a member of a class gone."""
    if token in ("*", "+", "?"):
        yield {"*": "+", "+": "*", "?": ""}[token]
    elif token in ("\\Z", "\\A"):
        yield ""
    elif token[0] == "{" != token:
        low, high = map(int, token[1:-1].split(","))
        yield f"{{{low + 1},{high}}}"
        yield f"{{{low},{high + 1}}}"
    elif token[0] == "[" != token:
        start = 2 if token[1] == "^" else 1
        members = [token[start:-1]] if len(token) == start + 2 else _MEMBER.findall(token[start:-1])
        for n in range(len(members) if len(members) > 1 else 0):
            yield token[:start] + "".join(members[:n] + members[n + 1 :]) + "]"
        if start == 2:
            yield "[" + token[2:]
