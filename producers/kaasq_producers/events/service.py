"""A service: functions that are steps of a chain, each called with the events that it is about."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from kaasq.errors import BadRequest
from kaasq.event_patterns import binding_keys
from kaasq.names import check_word, is_word
from kaasq_producers.events.retrying import Retries
from kaasq_producers.storing import checked_timeout

CONCURRENCY = 8
MOST_CONCURRENCY = 1000
STEP_TIMEOUT_S = 3600.0
"""Nobody waits for what a step publishes, so it may wait for workers longer than a client would."""


class Handler:
    """A function ``(event, step)`` that is called with each event that matches; as callable as it was.

    ``name`` is part of the name of its durable subscription and of the ids of what it publishes.
    """

    def __init__(
        self, function: Callable[..., Any], patterns: tuple[str, ...], name: str | None, retries: Retries | None = None
    ) -> None:
        """``retries`` None: those of the service that runs it.

        Raises BadRequest for patterns that match nothing, a name that is none, or retries that are none.
        """
        binding_keys(patterns, "-")  # here, where the mistake is, and not where it is served
        self.function = function
        self.patterns = patterns
        self.name = check_word(function.__name__.strip("_") if name is None else name, "handler")
        self.module = module_word(getattr(function, "__module__", None) or "")
        self.retries = None if retries is None else _checked(retries)
        self.is_async = inspect.iscoroutinefunction(function)
        self.__doc__ = function.__doc__
        self.__wrapped__ = function

    def __call__(self, *args: Any, **named: Any) -> Any:
        return self.function(*args, **named)

    def __repr__(self) -> str:
        return f"<Handler {self.name!r} of {', '.join(self.patterns)}>"


def on(
    *patterns: str, name: str | None = None, retries: Retries | None = None
) -> Callable[[Callable[..., Any]], Handler]:
    """Make a function a step: ``@kaasq.on("images.resize.completed")``, to be run by ``kaasq.serve``.

    It is called as ``function(event, step)``, on a thread, or on the loop if it is ``async``. What it publishes with
    ``step.submit`` is confirmed before the event is acked. An event comes at least once; then the same requests are
    published again, under the same ids, and run once. ``name`` (default: the function's) names its subscription.
    ``retries``: what happens when it raises (default: what its service says). Raises BadRequest.
    """
    _check_said(patterns)

    def decorate(function: Callable[..., Any]) -> Handler:
        return Handler(function, patterns, name, retries)

    return decorate


def _check_said(patterns: tuple[object, ...]) -> None:
    """Here, for without its parentheses the decorator is called with the function, which then nobody calls."""
    if not patterns or callable(patterns[0]):
        raise BadRequest("say which events the function is for: @kaasq.on('images.resize.completed')", at="on")


class Service:
    """Handlers that are run together. Each has a durable subscription of its own, ``<service>-<handler>``.

    Without a ``name`` that is ``<module>-<handler>``, after the module in which the function stands, so that functions
    of one name in two programs do not take each other's events.

    ``concurrency``: events that each handler has at a time. ``retries``: what happens when one raises that has none of
    its own; after the last attempt the event becomes a dead letter with the reason. ``timeout``: of requests whose step
    names none, in seconds.
    """

    def __init__(
        self,
        name: str = "",
        handlers: Iterable[Handler] = (),
        *,
        concurrency: int = CONCURRENCY,
        retries: Retries = Retries(),  # noqa: B008  # frozen
        timeout: float = STEP_TIMEOUT_S,
    ) -> None:
        """Raises BadRequest."""
        self.name = name and check_word(name, "service")
        if not 1 <= concurrency <= MOST_CONCURRENCY:
            raise BadRequest(f"expected 1 to {MOST_CONCURRENCY} events at a time, given {concurrency!r}", at="service")
        self.concurrency = concurrency
        self.retries = _checked(retries)
        self.timeout_s = checked_timeout(timeout)
        self._handlers: dict[str, Handler] = {}
        for each in handlers:
            self.add(each)

    def on(
        self, *patterns: str, name: str | None = None, retries: Retries | None = None
    ) -> Callable[[Callable[..., Any]], Handler]:
        """As ``kaasq.on``, for a function of this service."""
        _check_said(patterns)

        def decorate(function: Callable[..., Any]) -> Handler:
            return self.add(Handler(function, patterns, name, retries))

        return decorate

    def add(self, handler: Handler) -> Handler:
        """Run that one, too. Raises BadRequest if there is one of the same name."""
        if self._handlers.setdefault(self.subscription(handler), handler) is not handler:
            raise BadRequest(f"there are two handlers {handler.name!r}: give one another name", at="service")
        return handler

    def subscription(self, handler: Handler) -> str:
        """The name of a handler's subscription. Raises BadRequest if it would be none."""
        if self.name:
            return check_word(f"{self.name}-{handler.name}", "subscription")
        name = f"{handler.module}-{handler.name}"
        if not handler.module or not is_word(name):
            raise BadRequest(
                f"a module's name and a function's make no subscription here ({name[:80]!r}; at most 64 characters): "
                f"give the service a name, kaasq.Service('images')",
                at="service",
            )
        return name

    def __iter__(self) -> Iterator[Handler]:
        return iter(self._handlers.values())

    def __len__(self) -> int:
        return len(self._handlers)

    def __repr__(self) -> str:
        return f"<Service {self.name!r}: {', '.join(each.name for each in self) or 'no handlers'}>"


def module_word(module: str) -> str:
    """A module's name as the part of a subscription's name: ``pipeline-steps`` of ``pipeline.steps``.

    A script has that of its file, for all of them are called ``__main__``.
    """
    if module == "__main__":
        script = sys.modules[module]
        spec, file = getattr(script, "__spec__", None), getattr(script, "__file__", None)
        module = spec.name.removesuffix(".__main__") if spec is not None else Path(file).stem if file else "main"
    return re.sub(r"[^a-z0-9_]+", "-", module.lower()).strip("-_")


def _checked(retries: Retries) -> Retries:
    if not isinstance(retries, Retries):
        raise BadRequest(f"expected kaasq.Retries, given {retries!r:.60}", at="retries")
    return retries


def service_of(what: Service | Handler | Iterable[Handler]) -> Service:
    """What somebody wants to serve, as a service with something to do. Raises BadRequest."""
    if isinstance(what, Handler):
        what = [what]
    if not isinstance(what, Service):
        handlers = list(what)
        for each in handlers:
            if not isinstance(each, Handler):
                raise BadRequest(
                    f"expected a kaasq.Service or functions made steps by @kaasq.on, given a {type(each).__name__}",
                    at="serve",
                )
        what = Service(handlers=handlers)
    if not len(what):
        raise BadRequest("the service has no handlers: @service.on('images.resize.completed') makes one", at="serve")
    return what
