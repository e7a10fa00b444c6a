"""Breaking code on purpose: a piece of it, found in its syntax tree, is replaced by another one.

A piece is Python of its own: statements that stand next to each other, one expression, or one keyword argument
(``"name=value"``). Layout and comments do not matter. Two things make a piece short: if its last line opens a block
(``"if ready:"``), its body may be anything, and so may an ``else``; both go over into what replaces it. A piece must be
there exactly once, so that a mutation whose piece is gone, or stands in a second place by now, fails where it is built.
"""

import ast
import re
from functools import cache
from textwrap import dedent


class NotThere(AssertionError):
    """The piece is not in the code exactly once."""


def mutated(sources, old, new):
    """Return these sources, by name, with the piece `old` replaced by `new`: the one that has it, as a syntax tree.

    Raises `NotThere`.
    """
    there = _statements(old)
    if not there:
        raise NotThere("an empty piece")
    swap, names = _Swap(there, _statements(new)), set().union(*map(_names, there))
    changed = {}
    for name, source in sources.items():
        if names <= _words(source):
            tree, found = ast.parse(source), swap.found
            swap.visit(tree)
            if swap.found > found:
                changed[name] = ast.fix_missing_locations(tree)
    if swap.found != 1:
        raise NotThere(f"this piece of the code is there {swap.found} times, not once:\n{dedent(old).strip()}")
    return sources | changed


@cache
def _words(source):
    return {*re.findall(r"\w+", source)}


def _names(piece):
    """Return the names that a piece is made of: where one of them is not, the piece is not either."""
    fields = ((node, field) for node in ast.walk(piece) for field in ("id", "attr", "arg", "name"))
    return {name for node, field in fields if isinstance(name := getattr(node, field, None), str)}


def _statements(piece):
    text = dedent(piece).strip("\n")
    return ast.parse(f"{text} ..." if text.rstrip().endswith(":") else text).body


class _Swap(ast.NodeTransformer):
    """Replaces a run of statements; or an expression by an expression, or a keyword argument by another one."""

    def __init__(self, old, new):
        self.old, self.new, self.found = old, new, 0
        self.expression = self.keyword = self.kind = None
        match old, new:
            case [ast.Expr(value)], [ast.Expr()] if not _open(old[0]):
                self.expression, self.kind = ast.dump(value), type(value)
            case [ast.Assign([ast.Name(name)], value)], [ast.Assign([ast.Name()])]:
                self.keyword = ast.dump(ast.keyword(name, value))

    def generic_visit(self, node):
        super().generic_visit(node)
        for name, statements in ast.iter_fields(node):
            if isinstance(statements, list) and statements and isinstance(statements[0], ast.stmt):
                setattr(node, name, self._swapped(statements) or [ast.Pass()])
        return node

    def visit(self, node):
        node = super().visit(node)
        if type(node) is self.kind and self.expression == ast.dump(node):
            self.found += 1
            return self.new[0].value
        if self.keyword and isinstance(node, ast.keyword) and self.keyword == ast.dump(node):
            self.found += 1
            return ast.keyword(node.arg, self.new[0].value)
        return node

    def _swapped(self, statements):
        if self.expression:
            return statements
        size, kept = len(self.old), []
        while statements:
            holes = []
            run = statements[:size]
            if len(run) == size and all(_same(old, node, holes) for old, node in zip(self.old, run, strict=True)):
                self.found += 1
                kept += _Filled(holes).filled(self.new)
                statements = statements[size:]
            else:
                kept.append(statements[0])
                statements = statements[1:]
        return kept


class _Filled(ast.NodeTransformer):
    """Fills the open bodies of what is put in place of a piece with what was found in the piece's own."""

    def __init__(self, holes):
        self.holes = iter(holes)

    def filled(self, statements):
        return [self.visit(each) for each in ast.parse(ast.unparse(ast.Module(statements, []))).body]

    def generic_visit(self, node):
        if _open(node):
            body, otherwise = next(self.holes)
            node.body = body
            if otherwise:
                node.orelse = otherwise
            return node
        return super().generic_visit(node)


def _open(node):
    match getattr(node, "body", None):
        case [ast.Expr(ast.Constant(value))] if value is ...:
            return True
    return False


def _same(old, node, holes):
    """Whether a node is what the piece says; what stands in its open bodies goes to `holes`."""
    if type(old) is not type(node):
        return False
    if isinstance(old, list):
        return len(old) == len(node) and all(_same(a, b, holes) for a, b in zip(old, node, strict=True))
    if not isinstance(old, ast.AST):
        return old == node
    names = list(old._fields)
    if _open(old):
        names = [name for name in names if name not in ("body", "orelse")]
        holes.append((node.body, getattr(node, "orelse", None)))
    return all(_same(getattr(old, name, None), getattr(node, name, None), holes) for name in names)
