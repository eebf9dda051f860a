"""What a user reads of a failure: one line, and an exit status that is not 0."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import jax
from absl import flags

from unlearnjax import checks

KEPT = "what is saved is kept, and the same command goes on from it"


def of_config(error: Exception, argv: list[str]) -> str:
    """What is wrong with a flag, an override or a config file, in one line."""
    files = [arg.partition("=")[2] for arg in argv if arg.startswith("--config=")]
    file = files[-1].partition(":")[0] if files else ""
    if isinstance(error, KeyError | AttributeError) and "get_config" not in str(error):
        while error.args and isinstance(error.args[0], Exception):
            error = error.args[0]
        return f"the config has no field {error.args[0]}"  # an override of one that is not there
    if isinstance(error, flags.Error | ValueError | TypeError | OSError):
        # config_flags puts the whole traceback of get_config into its message; its last line is the
        # error itself.
        line = str(error).strip().split("\n")[-1].strip().removeprefix("ValueError: ")
        return line + (_near_config(line) if "No such file" in line else "")
    if isinstance(error, AttributeError):
        return f"config {file} has no function get_config"
    return f"config {file} cannot be read as Python: {type(error).__name__}: {error}"


def _near_config(line: str) -> str:
    """What the config file that is not there may have been meant to be."""
    known = sorted(str(path) for path in Path("configs").glob("[!_]*.py"))
    given = line.rpartition(": ")[2].strip("'")
    return checks.near([given], known, cutoff=0.5) or f"; there are {', '.join(known)}"


def in_one_line(call: Callable[[], None], traceback: bool = False) -> None:
    """Calls it; errors of the input, of memory and of files end the process with one line.

    With `traceback` they are raised as they are.
    """
    try:
        call()
    except (jax.errors.JaxRuntimeError, TimeoutError, MemoryError, OSError) as error:
        if traceback:
            raise
        memory = isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
        if jax.process_count() > 1:
            _leave(error, "this process ran out of memory" if memory else None)
        if memory or isinstance(error, OSError):
            what = f"out of memory: {error}" if memory else str(error)
            fail(f"{(what.splitlines() or [type(error).__name__])[0]}; {KEPT}")
        raise
    except (ValueError, FloatingPointError) as error:
        if traceback:
            raise
        fail(str(error))


def _leave(error: Exception, what: str | None) -> NoReturn:
    """Ends this process after another one of the run is gone, or the others after this one."""
    if what is None:
        written = isinstance(error, OSError) and not isinstance(error, TimeoutError)
        what = "this process failed" if written else "another process of this run was lost"
    line = (str(error).splitlines() or [""])[0]
    sys.stderr.write(
        f"\nerror: {what} ({type(error).__name__}: {line}); {KEPT}, on any number of processes\n"
    )
    sys.stderr.flush()
    os._exit(1)  # leaving by the usual way would wait for the lost one


def fail(message: str) -> NoReturn:
    """Ends the process with one line; messages of third parties can have many."""
    sys.exit("error: " + " ".join(message.split()))
