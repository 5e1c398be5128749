"""Conditions on variables: a small, safe language with Python's syntax and none of its power.

Names, literals, comparisons, `and`/`or`/`not`, arithmetic, `in`, `len(...)` and `x if c else y`. Everything else is
refused when the expression is read, so a machine that was checked cannot meet an error of syntax in a call. Nothing is
ever handed to the interpreter's own evaluator.
"""

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

from fastagent.afsm.errors import DefinitionError

_MAX_LENGTH = 500
_MAX_DEPTH = 20
_MAX_TEXT = 10_000

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "len": len,
    "lower": lambda text: str(text).lower(),
    "int": int,
    "str": str,
}


class Expression:
    """A condition, read once.

    Raises:
        DefinitionError: the text is no expression of this language.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        if len(text) > _MAX_LENGTH:
            raise DefinitionError(f"an expression has {_MAX_LENGTH} characters at most")
        try:
            tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise DefinitionError(f"{text!r:.60} is no expression: {error}") from error
        self.names: frozenset[str] = frozenset(_check(tree))
        self._tree = tree

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"

    def value(self, names: Mapping[str, Any]) -> Any:
        """Return the value; an unknown name is None. What cannot be computed (None + 1) is None, too."""
        try:
            return _value(self._tree, names)
        except (TypeError, ValueError, ArithmeticError, LookupError):
            return None

    def holds(self, names: Mapping[str, Any]) -> bool:
        """Whether the value counts as true."""
        return bool(self.value(names))


def _check(node: ast.AST, depth: int = 0) -> set[str]:
    """Return the names in a tree of which every part is allowed."""
    if depth > _MAX_DEPTH:
        raise DefinitionError("the expression is nested too deeply")
    allowed = (
        ast.BoolOp | ast.UnaryOp | ast.BinOp | ast.Compare | ast.IfExp | ast.Name | ast.Constant | ast.List | ast.Tuple
    )
    if isinstance(node, ast.Call):
        known = isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS
        if not known or node.keywords or len(node.args) != 1:
            raise DefinitionError(f"only {', '.join(_FUNCTIONS)} may be called, with one argument")
        return _check(node.args[0], depth + 1)
    if not isinstance(node, allowed):
        raise DefinitionError(f"{type(node).__name__} is not allowed in an expression")
    if isinstance(node, ast.Name):
        return {node.id}
    if isinstance(node, ast.Constant):
        if not isinstance(node.value, str | int | float | bool | None):
            raise DefinitionError(f"{type(node.value).__name__} is not allowed in an expression")
        return set()
    if isinstance(node, ast.BinOp) and type(node.op) not in _BINARY:
        raise DefinitionError(f"the operator {type(node.op).__name__} is not allowed")
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert):
        raise DefinitionError("the operator ~ is not allowed")
    names: set[str] = set()
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            names |= _check(child, depth + 1)
    return names


def _value(node: ast.AST, names: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            return names.get(node.id)
        case ast.List() | ast.Tuple():
            return [_value(one, names) for one in node.elts]
        case ast.BoolOp():
            result: Any = None
            for one in node.values:
                result = _value(one, names)
                if bool(result) is isinstance(node.op, ast.Or):
                    return result
            return result
        case ast.UnaryOp():
            operand = _value(node.operand, names)
            if isinstance(node.op, ast.Not):
                return not operand
            return -operand if isinstance(node.op, ast.USub) else +operand
        case ast.BinOp():
            return _computed(node, _value(node.left, names), _value(node.right, names))
        case ast.Compare():
            left = _value(node.left, names)
            for compare, right_node in zip(node.ops, node.comparators, strict=True):
                right = _value(right_node, names)
                if not _COMPARE[type(compare)](left, right):
                    return False
                left = right
            return True
        case ast.IfExp():
            return _value(node.body if _value(node.test, names) else node.orelse, names)
        case ast.Call(func=ast.Name(id=name)):
            return _FUNCTIONS[name](_value(node.args[0], names))
    raise TypeError(type(node).__name__)  # _check has refused everything else


def _computed(node: ast.BinOp, left: Any, right: Any) -> Any:
    """Compute; texts may be joined, but not multiplied or formatted into large ones."""
    if isinstance(left, str | list) and not (isinstance(node.op, ast.Add) and isinstance(right, str | list)):
        raise TypeError("texts can only be joined")
    if isinstance(right, str | list) and not isinstance(left, str | list):
        raise TypeError("texts can only be joined")
    result = _BINARY[type(node.op)](left, right)
    if isinstance(result, str | list) and len(result) > _MAX_TEXT:
        raise ValueError("too long")
    if isinstance(result, int) and result.bit_length() > 256:
        raise ValueError("too large")
    return result
