"""What every experiment shares: flags, seeds, devices, progress, resume, result files.

An experiment is a function `story(config, run)` that `python -m experiments.NAME` launches.
"""

import contextlib
import errno
import importlib.util
import json
import os
import platform
import shutil
import sys
import time
import zlib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jax
import numpy as np
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

import unlearnjax
from experiments.common import compilation, errors, ranges
from experiments.common import workdir as workdir_lib
from unlearnjax import parallel
from unlearnjax.report import html, table

SCHEMA = 1
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO)
_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scikit-learn")

_CONFIG = config_flags.DEFINE_config_file("config", None, "configs/NAME.py or configs/NAME.py:ARG.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where results go; default runs/EXPERIMENT.")
_DATA_DIR = flags.DEFINE_string(
    "data_dir",
    os.environ.get("UNLEARNJAX_DATA_DIR"),
    "Directory of prepared tfds data sets; default $UNLEARNJAX_DATA_DIR, else tfds' own.",
)
_CACHE = flags.DEFINE_string(
    "compilation_cache",
    compilation.default_directory(),
    "Where compiled programs are kept between launches; empty: nowhere.",
)
_TRACEBACK = flags.DEFINE_bool("traceback", False, "Show the traceback of an error in the input.")
_COORDINATOR = flags.DEFINE_string("coordinator_address", None, "host:port of process 0.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Processes of a multi-host run.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Number of this process, from 0.")
_MULTIHOST = flags.DEFINE_bool("multihost", False, "Find the other processes by the cluster's own.")


class Run:
    """A run of an experiment in its work directory.

    Attributes:
      name: of the experiment.
      workdir: where everything is written; a later launch with the same config goes on from it.
      config: of the experiment, as its file in `workdir` has it.
      data_dir: of prepared data sets, or `None`.
      progress: the bar; `advance` moves it.
    """

    def __init__(
        self,
        name: str,
        config: ConfigDict,
        workdir: Path,
        data_dir: str | None,
        parent: "Run | None" = None,
    ):
        self.name, self.workdir, self.data_dir = name, workdir, data_dir
        self.config = json.loads(config.to_json_best_effort())
        # A run within another is alone there already.
        self._lock = workdir_lib.claim(workdir, self.config, alone=parent is None)
        self._finished = {row.stem for row in (workdir / "rows").glob("*.json")}
        self._compiling: list[str] = []
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[compiling]}"),
            speed_estimate_period=120,
            console=Console(stderr=True),
            disable=not parallel.is_main_process(),
        )
        self._bar = None

    def sub(self, name: str, config: ConfigDict) -> "Run":
        """A run of its own, with its own config, in the directory `name` of this one."""
        return Run(self.name, config, self.workdir / name, self.data_dir, parent=self)

    def close(self) -> None:
        """Ends the progress, and the claim to the work directory."""
        self.progress.stop()
        if self._lock is not None:
            self._lock.close()

    def start(self, total: int) -> None:
        """Shows the bar with `total` units of work."""
        self.progress.start()
        self._bar = self.progress.add_task(self.name, total=total, compiling="")

    def extend(self, amount: int) -> None:
        """`amount` more units of work turned out to be needed."""
        total = self.progress.tasks[self._bar].total + amount
        self.progress.update(self._bar, total=total)

    def advance(self, description: str, amount: int = 1, *, resumed: bool = False) -> None:
        """`amount` more units are done, `resumed` by an earlier launch; `description` comes now."""
        text = f"{description:<28}"
        if resumed:  # the time left is estimated from what this launch did
            done = self.progress.tasks[self._bar].completed + amount
            self.progress.reset(self._bar, completed=done, description=text)
        else:
            self.progress.update(self._bar, advance=amount, description=text)

    @contextlib.contextmanager
    def compiling(self, name: str):
        """Says beside the bar that programs of `name` are being compiled, in any thread."""
        self._compiling.append(name)
        self._show_compiling()
        try:
            yield
        finally:
            self._compiling.remove(name)
            self._show_compiling()

    def _show_compiling(self) -> None:
        text = f"compiling {', '.join(self._compiling)}" if self._compiling else ""
        self.progress.update(self._bar, compiling=text)

    def has_row(self, name: str) -> bool:
        """Whether an earlier launch finished the row."""
        return name in self._finished

    def row(
        self, name: str, compute: Callable[[], tuple[dict, dict[str, np.ndarray]]]
    ) -> tuple[dict, dict[str, np.ndarray]]:
        """The row `name`, from disk if an earlier launch computed it, else computed and kept.

        Args:
          name: unique within the run.
          compute: returns the row (numbers by column) and arrays to be kept beside it.
        """
        folder = self.workdir / "rows"
        path, arrays_path = folder / f"{name}.json", folder / f"{name}.npz"
        if not self.has_row(name):
            row, arrays = compute()
            if parallel.is_main_process():
                folder.mkdir(exist_ok=True)
                # The row is written last, so that its presence means that all of it is there.
                partial = folder / f"{name}.partial.npz"
                np.savez_compressed(partial, **arrays)
                os.replace(partial, arrays_path)
                table.write_json(path, row)
            return row, arrays
        try:
            row = json.loads(path.read_text())
            with np.load(arrays_path) as stored:
                arrays = dict(stored)
        except Exception as error:
            raise ValueError(
                f"{path} or its .npz is damaged; delete both to compute it again"
            ) from error
        return table.with_nan(row), arrays

    def events(self, name: str, curves: dict[str, np.ndarray]) -> None:
        """TensorBoard events: each curve by epoch. Written once per `name`."""
        # Not its SummaryWriter: that one writes in a thread, and waits forever if the disk is full.
        from tensorboardX import event_file_writer, proto, summary

        folder = self.workdir / "tensorboard" / name
        if folder.exists() or not parallel.is_main_process():
            return
        partial = folder.with_name(f"{name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        with contextlib.closing(event_file_writer.EventsWriter(str(partial / "events"))) as writer:
            for tag, values in curves.items():
                for epoch, value in enumerate(np.asarray(values)):
                    point = summary.scalar(tag, float(value))
                    event = proto.event_pb2.Event(step=epoch + 1, summary=point)
                    event.wall_time = time.time()
                    writer.write_event(event)
        os.replace(partial, folder)

    def write_results(
        self, rows: list[dict], summary: list[dict], page: str, extra: dict[str, Any]
    ) -> None:
        """`results.json`, `results.csv`, `report.html`."""
        if not parallel.is_main_process():
            return
        results = {
            "schema": SCHEMA,
            "experiment": self.name,
            "config": self.config,
            "environment": environment(),
            **extra,
            "summary": summary,
            "rows": rows,
        }
        table.write_json(self.workdir / "results.json", results)
        table.write_csv(self.workdir / "results.csv", rows)
        html.write(self.workdir / "report.html", page)

    def write_figures(self, figures: dict[str, bytes]) -> None:
        """`plots/NAME.png` for every figure."""
        if not parallel.is_main_process():
            return
        (self.workdir / "plots").mkdir(exist_ok=True)
        for name, figure in figures.items():
            (self.workdir / "plots" / f"{name}.png").write_bytes(figure)


def folder(forget: str) -> str:
    """A forget set's text as part of a file name: `class-3` of `class:3`; no two share one."""
    return quote(forget, safe="+").replace("-", "%2D").replace("%3A", "-")


def key(seed: int, *names: str | int) -> jax.Array:
    """A random key of its own for every purpose: `key(0, 'original', 2)`."""
    result = jax.random.key(seed)
    for name in names:
        number = zlib.crc32(name.encode()) if isinstance(name, str) else name
        result = jax.random.fold_in(result, number)
    return result


def environment() -> dict[str, Any]:
    """Versions and devices, for the results file."""
    return {
        "unlearnjax": unlearnjax.__version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in _LIBRARIES},
        "device": jax.devices()[0].device_kind,
        "backend": jax.default_backend(),
        "num_devices": jax.device_count(),
        "num_processes": jax.process_count(),
        "cpu_count": os.cpu_count(),
    }


def cpu() -> str:
    """The processor's name, as far as the system tells."""
    names = compilation.cpu_lines("model name")
    return names[0].partition(": ")[2] if names else platform.processor()


def device_report() -> str:
    """One line: what the run computes on."""
    env = environment()
    return (
        f"unlearnjax {env['unlearnjax']}, jax {env['jax']} on {env['num_devices']} x "
        f"{env['device']} ({env['backend']}), {env['num_processes']} process(es)"
    )


def execute(
    story: Callable[[ConfigDict, Run], None],
    name: str,
    config: ConfigDict,
    workdir: Path,
    data_dir: str | None,
) -> None:
    """Runs an experiment, on all devices.

    Raises:
      ValueError: for a config that it cannot run, before anything is computed or written.
      OSError: if something cannot be written; what was written before is kept.
    """
    _validate_fields(config, name)
    ranges.validate(config)
    run = Run(name, config, workdir, data_dir)
    many = jax.device_count() > 1
    try:
        print(device_report(), file=sys.stderr)
        with jax.set_mesh(parallel.mesh()) if many else contextlib.nullcontext():
            story(config, run)
    except OSError as error:
        if error.filename is None and error.errno in _FULL:  # of writing to an open file
            raise OSError(f"{workdir} cannot be written: {error.strerror}") from error
        raise
    finally:
        with contextlib.suppress(OSError):
            workdir_lib.withdraw(workdir)
        run.close()


def _validate_fields(config: ConfigDict, name: str) -> None:
    """Raises `ValueError` for a config of another experiment, or none of ours."""
    if importlib.util.find_spec(f"configs.{name}") is None:  # it makes its configs itself
        return
    known = importlib.import_module(f"configs.{name}").get_config()
    missing = [field for field in known if field not in config]
    if missing:
        raise ValueError(
            f"the config is not one of experiments.{name}: it has no field {', '.join(missing[:5])}"
        )


def launch(
    story: Callable[[ConfigDict, Run], None],
    name: str,
    load: Callable[[], ConfigDict] | None = None,
) -> None:
    """Runs an experiment from the command line: parses flags, reports errors in one line.

    The config is that of `--config`, or what `load` makes of flags of the experiment's own.

    Errors of the input (`ValueError`), non-finite losses (`FloatingPointError`), full disks and the
    like (`OSError`) and interrupts end with a non-zero exit; everything saved is left as it was.
    """

    def main(argv):
        if len(argv) > 1:
            raise ValueError(f"unexpected argument {argv[1]!r}; options start with --")
        config = _CONFIG.value if load is None else load()
        if config is None:
            raise ValueError(f"--config is missing, e.g. --config=configs/{name}.py")
        if _MULTIHOST.value or _COORDINATOR.value is not None:
            parallel.initialize(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
        if _CACHE.value:
            compilation.enable_cache(_CACHE.value)
        logging.set_verbosity(logging.ERROR)  # orbax reports every file
        workdir = Path(_WORKDIR.value or Path("runs") / name).absolute()
        execute(story, name, config, workdir, _DATA_DIR.value)

    for flag in flags.FLAGS.flags_by_module_dict()[__name__]:  # what --help shows
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    try:
        app.run(
            lambda argv: errors.in_one_line(lambda: main(argv), _TRACEBACK.value),
            flags_parser=_parse,
        )
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on from here")


def _parse(argv: list[str]) -> list[str]:
    try:
        rest = flags.FLAGS(argv)
        getattr(_CONFIG.value, "name", None)  # a file that could not be read raises only now
        return rest
    except Exception as error:
        errors.fail(errors.of_config(error, argv))
