"""Places in a source file where a sign, a factor or an axis can be changed, found by syntax.

Formulas are meant: what is in checks and their messages, in annotations, decorators, defaults of
arguments and docstrings is left alone.
"""

import ast
import copy
import zlib
from dataclasses import dataclass

KINDS = ("sign", "factor", "axis")
_AXIS_KEYWORDS = {"dim", "axis", "start_dim", "end_dim", "dim0", "dim1"}
# Axes among the arguments of a tensor's method; those of a torch function are one further back.
_FIRST_IS_AXIS = {
    "sum", "mean", "softmax", "log_softmax", "logsumexp", "amax", "amin", "max", "min", "argmax",
    "argmin", "cumsum", "unsqueeze", "squeeze", "gather", "scatter", "scatter_", "scatter_add",
    "scatter_add_", "scatter_reduce", "index_select", "index_add", "index_add_", "index_copy_",
    "select", "narrow", "unbind", "argsort", "sort", "flip", "size", "any", "all", "prod", "std",
    "var", "cat", "stack",
}  # fmt: skip
_FIRST_TWO_ARE_AXES = {"flatten", "transpose", "movedim"}
_SWAPPED = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}
_NOT_NUMBERS = (ast.List, ast.Tuple, ast.Dict, ast.Set, ast.ListComp, ast.JoinedStr)
_SHAPING = {"view", "reshape", "expand", "repeat", "size"}
_FLIPPED = {"descending", "largest"}
# Functions of values; of the latter twice the values give the same, or the same but for scale.
_OF_VALUES = {
    "softmax", "log_softmax", "logsumexp", "sigmoid", "logsigmoid", "tanh", "exp", "softplus",
    "segment_softmax", "segment_log_softmax", "segment_logsumexp", "segment_sum", "segment_mean",
    "segment_max", "segment_weighted_sum",
}  # fmt: skip
_WITHOUT_SCALE = {"segment_rank", "segment_topk", "segment_order", "normalize", "argmax", "topk"}
# Their arguments are counts and sizes, which shapes check, or texts.
_NO_FORMULAS = {
    "range", "isinstance", "positive_widths", "ValueError", "TypeError", "warn", "field", "Linear",
    "Conv1d", "Conv2d", "LayerNorm", "Dropout", "enumerate", "zip",
}  # fmt: skip


@dataclass(frozen=True)
class Change:
    """One change of one node.

    Attributes:
        kind: ``sign``, ``factor`` or ``axis``.
        line: where.
        function: in which function or method.
        before: the changed expression as it was.
        after: and as it becomes.
        rank: 0 for formulas; more for what other things show anyway.
        tree: the whole file with the change.
    """

    kind: str
    line: int
    function: str
    before: str
    after: str
    rank: int
    tree: ast.Module

    def __str__(self):
        return f"{self.line}: {self.kind}: {self.before}  ->  {self.after}"


def changes(source):
    """Return every change, in the order of the file."""
    found = []
    for number in range(len(list(ast.walk(ast.parse(source))))):
        found += _changes_of(source, number)
    return sorted(found, key=lambda c: (c.line, KINDS.index(c.kind), c.before))


def chosen(found):
    """Return one change of each kind: of those of the lowest rank the same one every time."""
    picked = []
    for kind in KINDS:
        ours = [c for c in found if c.kind == kind]
        if ours:
            lowest = min(c.rank for c in ours)
            best = [c for c in ours if c.rank == lowest]
            picked.append(min(best, key=lambda c: zlib.crc32(f"{c.function} {c.before}".encode())))
    return picked


def _changes_of(source, number):
    """Return the changes of the node with this number."""
    tree = ast.parse(source)
    nodes = list(ast.walk(tree))
    parents = {child: node for node in nodes for child in ast.iter_child_nodes(node)}
    node = nodes[number]
    place = _Place(node, parents)
    if place.outside_formulas:
        return []
    results = []
    for kind, rank, new in _replacements(node, place):
        copied = copy.deepcopy(tree)
        twin = list(ast.walk(copied))[number]
        changed = _Replace(twin, new).visit(copied)
        ast.fix_missing_locations(changed)
        before, after = (ast.unparse(n).splitlines()[0] for n in (node, new))
        results.append(
            Change(kind, node.lineno, place.function, before, after, rank + place.rank, changed)
        )
    return results


class _Replace(ast.NodeTransformer):
    def __init__(self, old, new):
        self.old, self.new = old, new

    def visit(self, node):
        if node is self.old:
            return ast.copy_location(self.new, node)
        return self.generic_visit(node)


class _Place:
    """Where a node is."""

    def __init__(self, node, parents):
        self.node, self.parents = node, parents
        self.above = []
        below, above = node, parents.get(node)
        self.outside_formulas = False
        while above is not None:
            self.above.append(above)
            self.outside_formulas |= _leads_outside(below, above)
            below, above = above, parents.get(above)
        names = [a.name for a in self.above if isinstance(a, ast.FunctionDef)]
        self.function = names[0] if names else ""
        in_subscript = any(isinstance(a, ast.Subscript) for a in self.above)
        self.rank = int("__init__" in names or not names) + 2 * in_subscript


def _leads_outside(below, above):
    """Whether the child ``below`` of ``above`` is no formula."""
    if isinstance(above, ast.Raise | ast.Assert | ast.JoinedStr | ast.arguments | ast.arg):
        return True
    if isinstance(above, ast.FunctionDef | ast.ClassDef) and below in above.decorator_list:
        return True
    if isinstance(above, ast.FunctionDef) and below is above.returns:
        return True
    if isinstance(above, ast.AnnAssign) and below is above.annotation:
        return True
    if isinstance(above, ast.If) and below is above.test:
        return all(isinstance(step, ast.Raise) for step in above.body)
    return isinstance(above, ast.Call) and below is not above.func and _name(above) in _NO_FORMULAS


def _name(call):
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _number(node):
    """Return the number that a literal stands for, with its sign, or None."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _number(node.operand)
        return None if inner is None else -inner
    wanted = isinstance(node, ast.Constant) and type(node.value) in (int, float)
    return node.value if wanted else None


def _replacements(node, place):
    """Yield (kind, rank, new node) for one node; the new nodes may share parts with the old."""
    parent = place.above[0] if place.above else None
    if _is_axis(node, parent):
        yield "axis", 2 * isinstance(parent, ast.Subscript), _literal(_other_axis(_number(node)))
    elif _is_factor(node, parent):
        yield "factor", 1, _literal(2 * node.value)
    elif isinstance(node, ast.BinOp):
        yield from _of_operation(node)
    elif isinstance(node, ast.Call):
        yield from _of_values(node)
    elif isinstance(node, ast.Attribute):
        yield from _of_attribute(node, parent)
    else:
        yield from _of_others(node, parent)


def _of_others(node, parent):
    """Yield changes of ``-x``, ``x += y`` and ``largest=True``."""
    if isinstance(node, ast.AugAssign):
        if type(node.op) in _SWAPPED and not isinstance(node.value, _NOT_NUMBERS):
            new = ast.AugAssign(node.target, _SWAPPED[type(node.op)](), node.value)
            yield _kind(node.op), 0, new
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        shaping = isinstance(parent, ast.Call) and _name(parent) in _SHAPING
        yield "sign", 2 * shaping, node.operand
    elif isinstance(node, ast.keyword) and node.arg in _FLIPPED and _is_constant(node.value):
        yield "sign", 0, ast.keyword(node.arg, ast.Constant(not node.value.value))


def _is_constant(node):
    return isinstance(node, ast.Constant)


def _kind(operator):
    return "sign" if isinstance(operator, ast.Add | ast.Sub) else "factor"


def _of_operation(node):
    """Yield changes of two numbers' sum, difference, product, quotient or matrix product."""
    if isinstance(node.op, ast.MatMult):
        yield "sign", 1, ast.UnaryOp(ast.USub(), node)
        yield "factor", 1, ast.BinOp(ast.Constant(2), ast.Mult(), node)
        return
    sides = (node.left, node.right)
    texts = any(isinstance(s, ast.Constant) and isinstance(s.value, str) for s in sides)
    lists = any(isinstance(s, _NOT_NUMBERS) for s in sides)
    if type(node.op) not in _SWAPPED or texts or lists:
        return
    rank = 2 * any(map(_is_extent, sides))
    yield _kind(node.op), rank, ast.BinOp(node.left, _SWAPPED[type(node.op)](), node.right)
    if _kind(node.op) == "factor":
        yield "sign", rank + 1, ast.UnaryOp(ast.USub(), node)


def _of_attribute(node, parent):
    """Yield changes of a transposition and of a negation."""
    if node.attr in ("T", "mT") and isinstance(node.ctx, ast.Load):
        yield "axis", 0, node.value
    if node.attr == "neg" and isinstance(parent, ast.Call):
        yield "sign", 0, ast.Attribute(node.value, "clone", ast.Load())


def _of_values(call):
    """Yield changes of what a function of values is given."""
    name, function = _name(call), call.func
    if name not in _OF_VALUES | _WITHOUT_SCALE:
        return
    method = isinstance(function, ast.Attribute) and not (
        isinstance(function.value, ast.Name) and function.value.id in ("torch", "F")
    )
    if not method and not call.args:
        return
    values = function.value if method else call.args[0]
    changed = {"sign": ast.UnaryOp(ast.USub(), values)}
    if name not in _WITHOUT_SCALE:
        changed["factor"] = ast.BinOp(ast.Constant(2), ast.Mult(), values)
    for kind, new in changed.items():
        if method:
            twin = ast.Call(ast.Attribute(new, name, ast.Load()), call.args, call.keywords)
        else:
            twin = ast.Call(function, [new, *call.args[1:]], call.keywords)
        yield kind, 1, twin


def _is_extent(node):
    """Whether a part of a computation is a number of rows, columns or axes."""
    attributes = (part for part in ast.walk(node) if isinstance(part, ast.Attribute))
    return any(part.attr in ("shape", "ndim", "size") for part in attributes)


def _literal(number):
    """Return the node of a number; Python has no negative literals."""
    return ast.UnaryOp(ast.USub(), ast.Constant(-number)) if number < 0 else ast.Constant(number)


def _other_axis(axis):
    return {0: 1, -1: -2, -2: -1}.get(axis, axis - 1)


def _is_axis(node, parent):
    """Whether a number is the axis of a call or of a shape."""
    if type(_number(node)) is not int:
        return False
    if isinstance(parent, ast.keyword):
        return parent.arg in _AXIS_KEYWORDS
    if isinstance(parent, ast.Subscript):
        return node is parent.slice and getattr(parent.value, "attr", "") == "shape"
    if not isinstance(parent, ast.Call) or not isinstance(parent.func, ast.Attribute):
        return False
    name = parent.func.attr
    count = 2 if name in _FIRST_TWO_ARE_AXES else int(name in _FIRST_IS_AXIS)
    of_module = isinstance(parent.func.value, ast.Name) and parent.func.value.id in ("torch", "F")
    return node in parent.args and parent.args.index(node) - of_module in range(count)


def _is_factor(node, parent):
    """Whether a number is part of a computation rather than an index, a size or a branch."""
    if not isinstance(node, ast.Constant) or _number(node) in (None, 0):
        return False
    if isinstance(parent, ast.Compare):
        return not any(map(_is_extent, (parent.left, *parent.comparators)))
    if isinstance(parent, ast.BinOp):
        return not any(isinstance(side, _NOT_NUMBERS) for side in (parent.left, parent.right))
    if isinstance(parent, ast.Call):
        return _name(parent) in ("full", "new_full", "full_like", "fill_", "masked_fill", "pow")
    if isinstance(parent, ast.keyword):
        return parent.arg in ("min", "max", "alpha", "beta", "eps")
    return isinstance(parent, ast.UnaryOp | ast.Assign | ast.AnnAssign)
