"""Chat templates, which come from strangers' files, run without powers and within budgets.

Jinja's sandbox keeps a template from private attributes and from changing what it is given. That leaves the machine's
time and memory: nested loops over long ranges, macros that call themselves twice, text that is doubled again and
again, widths of a billion. So every loop, call and filter here counts what it goes through, every piece of text is
measured before it is made, and what no chat template needs is not there.
"""

import contextlib
import contextvars
import datetime
import functools
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

STEPS = 2_000_000
"""What one rendering may do: turns of loops and calls, each by what is inside, and elements that filters see."""
TEXT = 16 * 2**20
"""Characters of a piece of text; a context of a million tokens has fewer."""
WORK = 16 * TEXT
"""Characters that filters and methods may go through in one rendering."""
NODES = 8
"""Nodes of a template's tree that are worth a step."""
CALL = 10
"""Steps that a call is worth."""
NUMBER = 10**18
INDENT = 16
FILTERS = """
    abs attr count d default dictsort first float groupby int items join last length list map max min reject rejectattr
    reverse select selectattr sort tojson unique
"""
TEXT_FILTERS = """
    capitalize e escape indent lower replace safe string title trim truncate upper urlencode wordcount
"""
"""Those that turn whatever they are given into text first."""
METHODS = """
    capitalize casefold count endswith find get index isalnum isalpha isdecimal isdigit islower isnumeric isspace
    istitle isupper items join keys lower lstrip partition removeprefix removesuffix replace rfind rindex rpartition
    rsplit rstrip split splitlines startswith strip swapcase title upper values
"""
"""What may be called on text, lists and mappings."""
BEGIN, END = "\U0010fff0", "\U0010fff1"
"""Private-use characters around what {% generation %} encloses; see `Generation`."""


class Refusal(jinja2.TemplateError):
    """Raised by a template through `raise_exception`."""


class Budget:
    """What one rendering may still use."""

    def __init__(self) -> None:
        self.steps, self.work = STEPS, WORK

    def spend(self, steps: int, work: int) -> None:
        """Takes off what is about to be done. Raises SecurityError where too little is left."""
        self.steps -= steps
        self.work -= work
        if self.steps < 0 or self.work < 0:
            raise SecurityError("it does more than any chat template needs; is it in an endless loop?")


BUDGET: contextvars.ContextVar[Budget] = contextvars.ContextVar("BUDGET")


def render(template: jinja2.Template, values: Mapping[str, Any]) -> str:
    """What the template writes, with a budget of its own. Raises jinja2's errors and whatever a template can raise."""
    token = BUDGET.set(Budget())
    try:
        return template.render(values)
    finally:
        BUDGET.reset(token)


def size(value: Any) -> int:
    """Elements or characters; 1 where a value has none."""
    with contextlib.suppress(TypeError):
        return len(value)
    return 1


def charge(value: Any) -> None:
    """Pays for going through `value`."""
    if isinstance(value, str):
        BUDGET.get().spend(1, len(value))
    else:
        BUDGET.get().spend(1 + size(value), 0)


def charge_deeply(value: Any) -> Any:
    """Pays for everything inside `value`, however often the same is in it, and returns it."""
    charge(value)
    inside = (*value, *value.values()) if isinstance(value, dict) else value
    for element in inside if isinstance(inside, list | tuple) else ():
        if not isinstance(element, Plain):
            charge_deeply(element)
    return value


Plain = bool | int | float | None | jinja2.Undefined | datetime.date


def text_of(value: Any) -> str:
    """The value as text. SecurityError for what is neither text, number nor a collection of them."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list | tuple | dict | Plain):
        raise SecurityError(f"a {type(value).__name__} cannot be written")
    return str(value if isinstance(value, Plain) else charge_deeply(value))


def measured(parts: Iterable[Any]) -> str:
    """The parts as one text. SecurityError when it is too long."""
    texts, total = [], 0
    for part in parts:
        texts.append(text_of(part))
        total += len(texts[-1])
        if total > TEXT:
            raise SecurityError(f"it writes more than {TEXT:,} characters")
    return "".join(texts)


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja without powers and within a Budget."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})
    concat = staticmethod(measured)

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        """An operator of a template. Raises SecurityError for numbers and texts that would be too large."""
        if all(isinstance(side, int | float) for side in (left, right)):
            if operator == "**" or max(abs(left), abs(right)) > NUMBER:
                raise SecurityError(f"{operator!r} of such numbers is not allowed")
        elif operator != "+" or size(left) + size(right) > TEXT:
            raise SecurityError(f"{operator!r} of these values is not allowed")
        charge(left)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: jinja2.runtime.Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """As Jinja's, whose odd names leave every keyword to the template."""
        # The arguments are those that the template wrote for a function of its choice: only it knows their names.
        owner = getattr(__obj, "__self__", None)
        BUDGET.get().spend(CALL, 0)
        if isinstance(owner, str | list | tuple | dict | int | float):
            if __obj.__name__ not in METHODS.split():
                raise SecurityError(f"the method {__obj.__name__!r} is not allowed")
            charge(owner)
            if isinstance(owner, str):
                bound(owner, __obj.__name__, args)
        return super().call(__context, __obj, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> None:
        """No way around `METHODS`: Jinja would put a function of its own in place of `format`."""

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """The tree, with all that can take long led through filters that count."""
        tree = super()._parse(source, name, filename)
        blocks: list[Any] = [*tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock))]
        comparisons: list[Any] = [*tree.find_all((nodes.Operand, nodes.Compare))]
        questions: list[Any] = [*tree.find_all((nodes.Test, nodes.Getitem))]
        for block in blocks:
            weight = nodes.Const(1 + sum(1 for _ in block.find_all(nodes.Node)) // NODES)
            block.body.insert(0, nodes.Output([filtered(nodes.Const(""), "turn", weight)], lineno=block.lineno))
        for loop in tree.find_all(nodes.For):
            loop.iter = filtered(loop.iter, "counted")
        for compared in comparisons:
            compared.expr = filtered(compared.expr, "seen")
        for asked in questions:
            asked.node = filtered(asked.node, "seen")
        for parent in [tree, *tree.find_all(nodes.Node)]:
            exchange(parent, measure)
        return tree


def measure(node: Any) -> Any:
    """The node, led through a filter if it is `~` or makes a collection: two names in a list are twice as much."""
    if isinstance(node, nodes.Concat):
        return filtered(nodes.List(node.nodes, lineno=node.lineno), "measured")
    if isinstance(node, nodes.List | nodes.Dict) or (isinstance(node, nodes.Tuple) and node.ctx == "load"):
        return filtered(node, "paid")
    return node


def filtered(node: Any, name: str, *args: nodes.Expr) -> nodes.Filter:
    """The node, led through a filter."""
    return nodes.Filter(node, name, list(args), [], None, None, lineno=node.lineno)


def exchange(parent: nodes.Node, change: Callable[[Any], Any]) -> None:
    """Puts `change` of each child in its place."""
    for field, value in parent.iter_fields():
        if isinstance(value, nodes.Node):
            setattr(parent, field, change(value))
        elif isinstance(value, list):
            value[:] = [change(child) for child in value]


def bound(text: str, method: str, args: tuple[Any, ...]) -> None:
    """SecurityError when `text.method(*args)` would be too long."""
    if method == "replace" and len(args) >= 2 and isinstance(args[0], str) and isinstance(args[1], str):
        if len(text) + text.count(args[0]) * len(args[1]) > TEXT:
            raise SecurityError(f"it writes more than {TEXT:,} characters")
    elif method == "join" and args:
        charge_deeply(args[0])
        if size(args[0]) * len(text) > TEXT:
            raise SecurityError(f"it writes more than {TEXT:,} characters")


# --------------------------------------------------------------------------------------------------------------
# Filters and functions


def paid(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that pays for what it goes through; generators become lists, so that their elements are paid for."""
    skipped = 1 if hasattr(function, "jinja_pass_arg") else 0
    textual = name in TEXT_FILTERS.split()

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        # One proxy for all filters, whose keywords differ: each keeps its own signature and refuses what it lacks.
        values = [text_of(value) if textual and i == 0 else value for i, value in enumerate(args[skipped:])]
        for value in values:
            charge(value)
        made = function(*args[:skipped], *values, **kwargs)
        return elements(made) if isinstance(made, Iterator) else made

    return wrapper


def elements(values: Iterable[Any]) -> list[Any]:
    """A list of the values, each paid for."""
    found = []
    for value in values:
        charge(None)
        found.append(value)
    return found


def turn(nothing: str, weight: int) -> str:
    """Pays for one turn of a loop, or one call of a macro."""
    BUDGET.get().spend(weight, 0)
    return nothing


def seen(value: Any) -> Any:
    """Pays for a comparison, a test or a slice of text."""
    if isinstance(value, str):
        BUDGET.get().spend(0, len(value))
    return value


def count_turns(values: Any) -> Any:
    """What a loop goes through."""
    if hasattr(values, "__len__"):
        BUDGET.get().spend(len(values), 0)
        return values
    return elements(values) if isinstance(values, Iterable) else values


def join(values: Any, separator: Any = "", attribute: Any = None) -> str:
    """Jinja's filter; every text is measured before they are put together."""
    if attribute is not None:
        raise SecurityError("join(attribute=…) is not allowed")
    parts = [text_of(value) for value in elements(values)]
    return measured(itertools.islice((piece for part in parts for piece in (text_of(separator), part)), 1, None))


def replace(text: str, old: Any, new: Any, count: Any = -1) -> str:
    """Jinja's filter; measured before anything is replaced."""
    before, after = text_of(old), text_of(new)
    bound(text, "replace", (before, after))
    return text.replace(before, after, -1 if count is None else int(count))


def indent(text: str, width: Any = 4, first: bool = False, blank: bool = False) -> str:
    """Jinja's filter, with at most `INDENT` spaces."""
    space = width if isinstance(width, str) else " " * width if 0 <= width <= INDENT else None
    if space is None:
        raise SecurityError(f"indent({width}) is not allowed")
    lines = (text + "\n").splitlines()
    spaces = (space if (i or first) and (line or blank) else "" for i, line in enumerate(lines))
    return join([before + line for before, line in zip(spaces, lines, strict=True)], "\n")


def tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """As in transformers: without Jinja's escapes for HTML."""
    if isinstance(indent, str) or (indent is not None and not 0 <= indent <= INDENT):
        raise SecurityError(f"tojson(indent={indent!r:.20}) is not allowed")
    if separators is not None and sum(map(len, separators)) > INDENT:
        raise SecurityError("tojson with such separators is not allowed")
    charge_deeply(value)
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    charge(text)
    return text


def refuse(message: Any) -> NoReturn:
    """`raise_exception` of templates: what they do with a conversation that they do not support."""
    raise Refusal(text_of(message))


def bounded_range(*args: int) -> range:
    """`range` of templates, paid for as a whole before its first number."""
    found = range(*args)
    BUDGET.get().spend(len(found), 0)
    return found


def collected(**fields: Any) -> Any:
    """`dict` of templates: the keywords are the keys that the template wants, so they are data and not options."""
    # not `dict` itself: the type would bring `dict.update` and `dict.fromkeys`, which `METHODS` does not see
    return charge_deeply(fields)


class Generation(Extension):
    """{% generation %} … {% endgeneration %}: what the assistant wrote, by the word of the template itself.

    The enclosed text is written between BEGIN and END, which `Chat` takes out again.
    """

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        """The tag as a call of `enclosed` around what stands between it and its end."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("enclosed"), [], [], body, lineno=line)

    def enclosed(self, caller: Callable[[], str]) -> str:
        """What was written inside, between its marks."""
        return measured((BEGIN, caller(), END))


def sandbox() -> Sandbox:
    """The environment of chat templates, with what transformers gives them."""
    made = Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        optimized=False,
        finalize=text_of,
        extensions=[loopcontrols, Generation],
    )
    own: dict[str, Any] = {"tojson": tojson, "join": join, "replace": replace, "indent": indent, "string": str}
    names = [*FILTERS.split(), *TEXT_FILTERS.split()]
    made.filters = {name: paid(name, own.get(name) or made.filters[name]) for name in names}
    made.filters.update(counted=count_turns, measured=measured, paid=charge_deeply, turn=turn, seen=seen)
    made.globals = {
        "range": bounded_range,
        "dict": collected,
        "namespace": made.globals["namespace"],
        "raise_exception": refuse,
    }
    return made
