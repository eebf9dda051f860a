"""Running experiments as a user does, in a process of their own; or, for errors, in this one."""

import ast
import importlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
from absl import flags as absl_flags

from experiments.common import runner
from tests import compiler

METHODS = ("retrain", "finetune", "gradient_ascent", "ssd")
DEFAULT = f"configs/unlearn.py:digits,model=mlp,seeds=1,method={'+'.join(METHODS)}"
ROOT = Path(__file__).parents[2]
SMALL = (
    "--config.train.num_epochs=2",
    "--config.train.checkpoint_every=1",
    "--config.model.options.hidden=(32,)",
)


def command(workdir, *flags, config=DEFAULT, experiment="unlearn"):
    return [
        sys.executable,
        "-m",
        f"experiments.{experiment}",
        *([f"--config={config}"] if config else []),
        f"--workdir={workdir}",
        *flags,
    ]


def environment(tfds_dir, quick=True, **extra):
    """Of a fresh process without the eight devices of the tests.

    Args:
      quick: whether it compiles quickly rather than well, as most small runs had better; `False`
        keeps the compiler that this process has.
    """
    env = {k: v for k, v in os.environ.items() if k != "UNLEARNJAX_DATA_DIR"}
    flags = (compiler.QUICK if quick else env.get("XLA_FLAGS", ""), extra.pop("XLA_FLAGS", ""))
    return {
        **env,
        "XLA_FLAGS": " ".join(flags).strip(),
        "TFDS_DATA_DIR": str(tfds_dir),
        # Where this process keeps its own, if it does: for the next run, too.
        "UNLEARNJAX_COMPILATION_CACHE": str(
            jax.config.jax_compilation_cache_dir or tfds_dir / "compiled"
        ),
        "COLUMNS": "200",
        "JAX_TRACEBACK_IN_LOCATIONS_LIMIT": "0",  # as here, see conftest
        **extra,
    }


def start(command, tfds_dir, **extra):
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(tfds_dir, **extra),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(command, tfds_dir, **extra):
    process = start(command, tfds_dir, **extra)
    process.stdout_text, process.stderr_text = process.communicate(timeout=600)
    return process


def make_config(text, *flags):
    """The config of `--config=TEXT` with flags like `--config.train.num_epochs=3`."""
    file, _, arg = text.partition(":")
    module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
    config = module.get_config(arg)
    for path, _, value in (f.removeprefix("--config.").partition("=") for f in flags):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            pass  # text
        config.update_from_flattened_dict({path: value})
    return config


def execute(workdir, tfds_dir, *flags, config=DEFAULT, experiment="unlearn"):
    """The experiment in this process; errors are raised."""
    module = importlib.import_module(f"experiments.{experiment}")
    absl_flags.FLAGS.mark_as_parsed()
    runner.execute(module.story, experiment, make_config(config, *flags), workdir, str(tfds_dir))


def error_lines(process):
    """What a user reads of a failure, without the device report and the progress bar."""
    return [line for line in process.stderr_text.splitlines() if line.startswith("error:")]


def free_port() -> int:
    """For the coordinator of several processes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]
