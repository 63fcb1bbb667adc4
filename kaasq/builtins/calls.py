"""From a launch of a built-in to a checked Call: operands by name, views applied, attributes complete. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from kaasq.builtins.registry import builtin_names, find_builtin
from kaasq.builtins.signature import VIEWS, Builtin, Call, Mistake, Operand, Parameter
from kaasq.errors import BadArguments, ModuleRejected
from kaasq.model import Buffer, Constant, Launch, Scalar
from kaasq.setting_values import nearest

MESSAGE_LENGTH = 600  # of a mistake at most: it may quote an attribute of a thousand numbers
DIMENSIONS = 32  # of a view, as of a buffer
WHOLE_LIMIT = 2**63  # devices count in 64 bits


def resolve_call(launch: Launch, at: str, declared: Mapping[str, Buffer | Scalar]) -> Call:
    """The launch as a call. ``declared`` are the graph's buffers and scalars by name.

    Raises ModuleRejected if there is no such built-in here, BadArguments naming the argument for what does not fit.
    """
    builtin = find_builtin(launch.kernel)
    if builtin is None:
        known = builtin_names()
        near = nearest(launch.kernel[:64], known)
        meant = f" (did you mean {near!r}?)" if near else ""
        raise ModuleRejected(
            f"{at}: there is no built-in {launch.kernel[:64]!r} here{meant}; there are {', '.join(known)}",
            kernel=launch.kernel[:64],
            kernels=known,
        )
    try:
        attrs = dict(launch.attrs)
        views = attrs.pop(VIEWS, ())
        call = Call(builtin, _operands(builtin, launch, declared, views), _attributes(builtin, attrs))
        _distinct(call)
        builtin.check(call)
    except Mistake as mistake:
        place = _place(at, builtin, mistake.about)
        message = f"{place}: {builtin.usage}: {mistake.message:.{MESSAGE_LENGTH}}"
        raise BadArguments(message, launch=at, kernel=builtin.name, argument=mistake.about) from None
    except Exception as error:
        if "." not in builtin.name:
            raise
        # Somebody else's check, on arguments that it did not think of.
        raise ModuleRejected(
            f"{at}: the check of built-in {builtin.name!r} failed: {type(error).__name__}: "
            f"{error!s:.{MESSAGE_LENGTH}}; its package is to raise kaasq.builtins.Mistake for what does not fit",
            kernel=builtin.name,
        ) from error
    return call


def _operands(
    builtin: Builtin, launch: Launch, declared: Mapping[str, Buffer | Scalar], views: Any
) -> dict[str, Operand]:
    required = sum(each.default is None for each in builtin.parameters)
    if not required <= len(launch.args) <= len(builtin.parameters):
        most = len(builtin.parameters)
        wanted = str(required) if required == most else f"{required} to {most}"
        raise Mistake(f"takes {wanted} arguments, {len(launch.args)} were given")
    if not isinstance(views, tuple) or len(views) > len(launch.args):
        raise Mistake(f"{VIEWS} is a list with a shape or null for each argument", VIEWS)
    operands: dict[str, Operand] = {}
    for index, (parameter, arg) in enumerate(zip(builtin.parameters, launch.args, strict=False)):
        view = views[index] if index < len(views) else None
        operands[parameter.name] = _operand(parameter, arg, declared, view)
    return operands


def _operand(parameter: Parameter, arg: str | Constant, declared: Mapping[str, Buffer | Scalar], view: Any) -> Operand:
    name = parameter.name
    given = declared[arg] if isinstance(arg, str) else arg
    if parameter.access == "number":
        if isinstance(given, Buffer):
            raise Mistake(f"{name} is a number: a constant or a scalar, not buffer {given.name!r}", name)
        if given.dtype == "bytes":
            raise Mistake(f"{name} is a number, not raw bytes", name)
        return Operand(arg if isinstance(arg, str) else "", given.dtype, (), is_buffer=False)
    if not isinstance(given, Buffer):
        raise Mistake(f"{name} is a buffer, not a number", name)
    if given.const and parameter.access != "reads":
        raise Mistake(f"buffer {given.name!r} is const, and {name} is written; declare it without const", name)
    if given.dtype is None:
        raise Mistake(f"buffer {given.name!r} needs a dtype", name)
    if given.dtype not in parameter.dtypes:
        raise Mistake(f"buffer {given.name!r} is {given.dtype}; {name} may be {', '.join(parameter.dtypes)}", name)
    operand = Operand(given.name, given.dtype, given.shape or (), is_buffer=True)
    if given.shape is None:
        flat, rest = divmod(given.nbytes, operand.nbytes)
        if rest:
            raise Mistake(f"buffer {given.name!r} has {given.nbytes} bytes, which is no number of {given.dtype}", name)
        operand = operand._replace(shape=(flat,))
    if view is None:
        return operand
    if not isinstance(view, tuple) or not all(_is_whole(each) and each > 0 for each in view):
        raise Mistake(f"{VIEWS}: {name} is to be seen as {_shown(view)}, which is no shape", name)
    if len(view) > DIMENSIONS:
        raise Mistake(f"{VIEWS}: {name} is to be seen with {len(view)} axes; at most {DIMENSIONS} are possible", name)
    if math.prod(view) != math.prod(operand.shape):
        raise Mistake(f"buffer {given.name!r} of shape {operand.shape} cannot be seen as {view}", name)
    return operand._replace(shape=view)


def _attributes(builtin: Builtin, given: dict[str, Any]) -> dict[str, Any]:
    attrs: dict[str, Any] = {}
    for name, default in builtin.attributes.items():
        kind = default if isinstance(default, type) else type(default)
        if name not in given:
            if isinstance(default, type):
                raise Mistake(f"attribute {name!r} is missing", name)
            attrs[name] = default
            continue
        value = given.pop(name)
        if kind is float and _is_whole(value):
            value = float(value)
        if type(value) is not kind or (kind is int and not _is_whole(value)):
            raise Mistake(f"attribute {name!r} is to be {_kind(kind)}, given {_shown(value)}", name)
        if isinstance(value, tuple) and not all(map(_is_whole, value)):
            raise Mistake(f"attribute {name!r} is a list of whole numbers, given {_shown(value)}", name)
        attrs[name] = value
    if given:
        known = ", ".join((*builtin.attributes, VIEWS))
        raise Mistake(f"there is no attribute {next(iter(given))!r:.64}; there are {known}", next(iter(given))[:64])
    return attrs


def _distinct(call: Call) -> None:
    """What is written may be nothing else's memory: parallel threads would read what others wrote."""
    seen: dict[str, Parameter] = {}
    for parameter in call.builtin.parameters:
        operand = call.operands.get(parameter.name)
        if operand is None or not operand.is_buffer:
            continue
        earlier = seen.setdefault(operand.name, parameter)
        if earlier is not parameter and {"writes", "updates"} & {earlier.access, parameter.access}:
            raise Mistake(
                f"buffer {operand.name!r} is both {earlier.name} and {parameter.name}, one of which is written",
                parameter.name,
            )


def _is_whole(value: Any) -> bool:
    return type(value) is int and -WHOLE_LIMIT <= value < WHOLE_LIMIT


def _kind(kind: type) -> str:
    return {
        bool: "true or false",
        int: "a whole number of 64 bits",
        float: "a number",
        str: "a text",
        tuple: "a list",
    }.get(kind, kind.__name__)


def _shown(value: Any) -> str:
    """At most 60 characters of it. Python refuses to write out whole numbers of thousands of digits."""
    try:
        return f"{value!r:.60}"
    except ValueError:
        return "far too large a number"


def _place(at: str, builtin: Builtin, about: str) -> str:
    for index, parameter in enumerate(builtin.parameters):
        if parameter.name == about:
            return f"{at}.args[{index}]"
    return f"{at}.attrs.{about}" if about else at
