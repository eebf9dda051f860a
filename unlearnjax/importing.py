"""Objects of the user's own code by their import path: models, unlearners and data."""

import importlib
import inspect
from collections.abc import Callable
from typing import Any


def is_path(text: str) -> bool:
    """Whether `text` is 'module:name', and not, say, a name with a version.

    Examples:
      >>> is_path("my_data:wine"), is_path("mnist:3.0.1")
      (True, False)
    """
    module, _, name = text.partition(":")
    return name.isidentifier() and all(part.isidentifier() for part in module.split("."))


def imported(path: str) -> Any:
    """The object that 'module:name' names.

    Raises:
      ValueError: if there is no such module, or nothing of that name in it.

    Examples:
      >>> imported("math:pi") > 3
      True
    """
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{path!r} cannot be imported: {error}") from error


def defaults(
    parameters: dict[str, inspect.Parameter], given: tuple[str, ...], what: str
) -> dict[str, Any]:
    """The default of every parameter that is not `given` anyway.

    Raises:
      ValueError: that names `what`, for a parameter without one.
    """
    own = {name: p.default for name, p in parameters.items() if name not in given}
    for name, default in own.items():
        if default is inspect.Parameter.empty:
            raise ValueError(f"argument {name!r} of {what} must have a default")
    return own


def parameters(constructor: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """By name, without those that stand for any number of arguments."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {
        name: p for name, p in inspect.signature(constructor).parameters.items() if p.kind in named
    }
