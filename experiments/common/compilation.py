"""The persistent cache of compiled programs: a second launch compiles nothing again."""

import hashlib
import os
import platform
from pathlib import Path

import jax


def default_directory() -> str:
    """`$UNLEARNJAX_COMPILATION_CACHE`, else `unlearnjax/xla` in the user's cache directory.

    Empty, which is no cache of ours, where `JAX_COMPILATION_CACHE_DIR` already names one.
    """
    if "UNLEARNJAX_COMPILATION_CACHE" in os.environ:
        return os.environ["UNLEARNJAX_COMPILATION_CACHE"]
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return ""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return str(Path(home) / "unlearnjax" / "xla")


def enable_cache(directory: str) -> None:
    """Keeps compiled programs below `directory`, apart for every kind of machine.

    Programs for CPUs use the instructions of the machine that compiled them, and home directories
    are shared between machines. jax's own key has its version, the program and the kind of
    accelerator.
    """
    jax.config.update("jax_compilation_cache_dir", str(Path(directory) / machine()))
    # Ours are many and small; the default leaves out what compiles in under a second.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def machine() -> str:
    """A name for the processor and its instructions."""
    known = cpu_lines("model name", "flags", "Features")
    text = "\n".join(known) or platform.processor()
    return f"{platform.machine()}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def cpu_lines(*names: str) -> list[str]:
    """What Linux says of the processor under these names, each line once; elsewhere nothing."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    return sorted({line for line in lines if line.startswith(names)})
