"""What can be wrong in a file: its single mistakes, as texts that stand in place of others."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

OPERATORS: dict[type[ast.AST], list[type[ast.AST]]] = {
    ast.Add: [ast.Sub],
    ast.Sub: [ast.Add],
    ast.Mult: [ast.Div, ast.Add],
    ast.Div: [ast.Mult],
    ast.FloorDiv: [ast.Mult],
    ast.Mod: [ast.FloorDiv],
    ast.Pow: [ast.Mult],
    ast.BitAnd: [ast.BitOr],
    ast.BitOr: [ast.BitAnd],
    ast.Lt: [ast.LtE, ast.Gt],
    ast.LtE: [ast.Lt, ast.GtE],
    ast.Gt: [ast.GtE, ast.Lt],
    ast.GtE: [ast.Gt, ast.LtE],
    ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq],
    ast.In: [ast.NotIn],
    ast.NotIn: [ast.In],
    ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is],
    ast.And: [ast.Or],
    ast.Or: [ast.And],
}
ATOMS = ast.Constant | ast.Name | ast.Attribute | ast.Call
ORDERED = ast.Sub | ast.Div | ast.MatMult | ast.Pow | ast.FloorDiv | ast.Mod
TWINS = {"mean": "sum", "max": "min", "amax": "amin", "argmax": "argmin", "any": "all", "floor": "ceil", "sin": "cos"}
TWINS |= {"zeros": "ones", "randn": "rand", "exp": "log", "maximum": "minimum", "nearest": "bilinear", "left": "right"}
TWINS |= {"sum": "mean", "first": "last", "append": "insert", "width": "height", "rows": "columns"}
TWINS |= {value: key for key, value in TWINS.items()}
# calls that can be left out without the code falling over, so that only a value tells
OPTIONAL = {"detach", "float", "double", "abs", "sqrt", "square", "exp", "log", "softmax", "log_softmax", "sigmoid"}
OPTIONAL |= {"tanh", "relu", "gelu", "clamp", "clamp_min", "clamp_max", "normalize", "t", "sort", "flip", "roll", "mul"}
OPTIONAL |= {
    "round",
    "floor",
    "ceil",
    "cumsum",
    "sorted",
    "reversed",
    "clone",
    "copy",
    "deepcopy",
    "eval",
    "strip",
    "set",
}
OPTIONAL |= {
    "lower",
    "sum",
    "all_gather",
    "requires_grad_",
    "lerp",
    "lerp_",
    "mul_",
    "add_",
    "div_",
    "sub",
    "add",
    "div",
}
SYMMETRIC = {"max", "min", "maximum", "minimum", "gcd", "isclose", "allclose", "logaddexp"}
# arguments that change speed, memory or a check of our own, never a result on one processor
HARMLESS = {"strict", "non_blocking", "memory_format", "inplace", "set_to_none", "persistent_workers", "pin_memory"}
HARMLESS |= {"device", "stacklevel", "unit", "unit_scale", "desc", "persistent", "help", "description"}


@dataclass(frozen=True)
class Mistake:
    """A piece of a file, by its bytes, and what stands there instead."""

    file: str
    lines: range
    start: int
    end: int
    old: str
    new: str
    function: range  # the lines of the innermost function or class around it
    at_import: bool  # in no function's body: computed as the file is imported

    def __str__(self) -> str:
        return f"{self.file}:{self.lines.start}  {' '.join(self.old.split())[:90]}  ->  {self.new[:90]}"


class Mistakes:
    """Finds the places of a file where a mistake can be made, and what can be wrong in each."""

    def __init__(self, file: str, source: str) -> None:
        self.file, self.source = file, source.encode()
        self.tree = ast.parse(source)
        self.starts = [0]
        for line in self.source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))

    def places(self) -> list[list[Mistake]]:
        """Returns, for each place, the mistakes that can be made there."""
        whole = range(1, len(self.starts) + 1)
        found = []
        for node, *where in self._nodes(self.tree, whole, at_import=True):
            made = [mistake for new in _wrong(node) if (mistake := self._mistake(node, new, *where))]
            if made:
                found.append(made)
        return found

    def _nodes(self, node: ast.AST, function: range, at_import: bool) -> Iterator[tuple[ast.AST, range, bool]]:
        """Walks what is computed: no annotation, message, docstring, import or refusal's text."""
        if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr | ast.Import | ast.ImportFrom):
            return
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            function = range(node.lineno, (node.end_lineno or node.lineno) + 1)
        yield node, function, at_import
        if isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Constant):
            return
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "keywords") and not isinstance(node, ast.Call):
                continue
            here = at_import and not (name == "body" and isinstance(node, ast.FunctionDef))
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and not (isinstance(child, ast.keyword) and child.arg in HARMLESS):
                    yield from self._nodes(child, function, here)

    def _mistake(self, node: ast.AST, new: ast.AST | str, function: range, at_import: bool) -> Mistake | None:
        where = new if isinstance(new, _At) else node
        line, end_line = getattr(where, "lineno", None), getattr(where, "end_lineno", None)
        if line is None or end_line is None:
            return None
        start = self.starts[line - 1] + where.col_offset  # type: ignore[attr-defined]
        end = self.starts[end_line - 1] + where.end_col_offset  # type: ignore[attr-defined]
        text = new if isinstance(new, str) else ast.unparse(new)
        text = f"({text})" if isinstance(new, ast.expr) and not isinstance(new, ATOMS) else text
        old = self.source[start:end].decode()
        return Mistake(self.file, range(line, end_line + 1), start, end, old, text, function, at_import)

    def apply(self, mistake: Mistake) -> bytes:
        return self.source[: mistake.start] + mistake.new.encode() + self.source[mistake.end :]

    def changes(self, mistake: Mistake) -> bool:
        """Tells whether the file still is Python, and another than before."""
        try:
            return ast.dump(ast.parse(self.apply(mistake))) != ast.dump(self.tree)
        except SyntaxError:
            return False


class _At(str):
    """A text that stands in another node's place."""


def _wrong(node: ast.AST) -> Iterator[ast.AST | str]:
    """Yields what may stand in a node's place by mistake."""
    match node:
        case ast.BinOp(left, op, right) if not (isinstance(op, ast.Div) and _text(node)):
            for other in OPERATORS.get(type(op), []):
                yield ast.BinOp(left, other(), right)
            if isinstance(op, ORDERED) and ast.dump(left) != ast.dump(right):
                yield ast.BinOp(right, op, left)
            if not _text(node):
                yield left
                yield right
        case ast.BoolOp(op, values):
            yield ast.BoolOp(OPERATORS[type(op)][0](), values)
            yield from values
        case ast.Compare(left, [op], [right]):
            for other in OPERATORS[type(op)]:
                yield ast.Compare(left, [other()], [right])
        case ast.UnaryOp(ast.USub(), ast.Constant(int(value))) if not isinstance(value, bool):
            yield ast.Constant(1 - value)
            yield ast.Constant(-1 - value)
        case ast.UnaryOp(ast.USub() | ast.Not(), operand):
            yield operand
        case ast.Constant(bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(int(value)):
            yield ast.Constant(value + 1)
            yield ast.Constant(value - 1)
        case ast.Constant(float(value)) if value == 0 or abs(value) > 1e-5:
            yield ast.Constant(value * 2 if value else 0.5)
            yield ast.Constant(value / 2 if value else -0.5)
        case ast.Constant(str(value)) if value in TWINS:
            yield ast.Constant(TWINS[value])
        case ast.Attribute(value, name, ctx) if name in TWINS and isinstance(ctx, ast.Load):
            yield ast.Attribute(value, TWINS[name], ctx)
        case ast.Name(("any" | "all" | "max" | "min") as name, ast.Load()):
            yield ast.Name(TWINS[name], ast.Load())
        case ast.IfExp(test, body, other):
            yield ast.IfExp(test, other, body)
            yield body
            yield other
        case ast.Call():
            yield from _wrong_call(node)
        case ast.Expr(ast.Call()) | ast.AugAssign():
            yield "pass"
            if isinstance(node, ast.AugAssign) and type(node.op) in OPERATORS:
                yield ast.AugAssign(node.target, OPERATORS[type(node.op)][0](), node.value)  # type: ignore[arg-type]
        case ast.If(test) | ast.While(test):
            yield from (_in_place(test, f"not ({ast.unparse(test)})"), _in_place(test, "False"))
        case ast.Break():
            yield "continue"
        case ast.Continue():
            yield "break"
        case ast.Slice(lower, upper, None) if lower or upper:
            yield _in_place(node, f":{ast.unparse(upper)}" if lower and upper else ":")
        case ast.comprehension(ifs=[test]):
            yield _in_place(test, "True")


def _in_place(node: ast.AST, text: str) -> _At:
    at = _At(text)
    for name in ("lineno", "end_lineno", "col_offset", "end_col_offset"):
        setattr(at, name, getattr(node, name))
    return at


def _text(node: ast.AST) -> bool:
    """Tells whether a text, a path or a list is built, where another operator only raises."""
    inner = (node.left, node.right) if isinstance(node, ast.BinOp) else ()
    text = isinstance(node, ast.JoinedStr | ast.List | ast.Tuple) or isinstance(getattr(node, "value", None), str)
    return text or any(_text(part) for part in inner)


def _wrong_call(call: ast.Call) -> Iterator[ast.AST]:
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    if name in OPTIONAL:
        receiver = call.func.value if isinstance(call.func, ast.Attribute) else None
        if isinstance(receiver, ast.Name) and receiver.id in ("F", "torch", "functional", "copy", "dist", "np", "math"):
            receiver = None
        if receiver is not None or call.args:
            yield receiver if receiver is not None else call.args[0]
    plain = name.islower() and name not in SYMMETRIC and not any(isinstance(x, ast.Starred) for x in call.args)
    if plain and len(call.args) > 1 and ast.dump(call.args[0]) != ast.dump(call.args[1]):
        yield ast.Call(call.func, [call.args[1], call.args[0], *call.args[2:]], call.keywords)
    for word in call.keywords:
        if word.arg and word.arg not in HARMLESS:
            yield ast.Call(call.func, call.args, [other for other in call.keywords if other is not word])
