"""Results of finished runs, read back."""

import json
import os
from pathlib import Path
from typing import Any

from unlearnjax.report import table


def load_results(*runs: str | os.PathLike, part: str = "rows") -> Any:
    """Rows of one or several runs, one after another, each with the column 'run'.

    Args:
      runs: work directories of finished runs, or `results.json` files.
      part: 'rows' (one per method and seed) or 'summary' (one per method).

    Returns:
      A `pandas.DataFrame` where pandas is installed, else a list of dicts. What was not finite is
      NaN.

    Raises:
      ValueError: if there are no such results.

    Examples:
      >>> import json, pathlib, tempfile
      >>> run = pathlib.Path(tempfile.mkdtemp()) / "ssd"
      >>> run.mkdir()
      >>> results = {"rows": [{"method": "ssd", "seed": 0, "mia": 0.5}]}
      >>> _ = (run / "results.json").write_text(json.dumps(results))
      >>> frame = load_results(run)
      >>> len(frame)
      1
    """
    if part not in ("rows", "summary"):
        raise ValueError(f"part must be 'rows' or 'summary', got {part!r}")
    if not runs:
        raise ValueError("runs must be at least one, got none")
    rows = []
    for name, path in zip(run_names(runs), runs, strict=True):
        for row in read(path).get(part) or []:
            rows.append({"run": name, **table.with_nan(row)})
    try:
        import pandas
    except ImportError:
        return rows
    return pandas.DataFrame(rows)


def read(run: str | os.PathLike) -> dict[str, Any]:
    """`results.json` of a work directory, or that file.

    Raises:
      ValueError: if it is not there, or no results.
    """
    path = Path(run)
    path = path / "results.json" if path.is_dir() else path
    try:
        results = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ValueError(f"{run} is no finished run: {path} is missing") from error
    except (json.JSONDecodeError, OSError) as error:
        raise ValueError(f"{path} cannot be read as results: {error}") from error
    if not isinstance(results, dict) or not {"rows", "summary"} & set(results):
        raise ValueError(f"{path} holds no results of a run")
    return results


def run_names(runs: tuple[str | os.PathLike, ...]) -> list[str]:
    """A short name for each: its directory's, or as much of the path as tells them apart."""
    parts = [Path(run).absolute() for run in runs]
    parts = [path.parent if path.name == "results.json" else path for path in parts]
    for length in range(1, max(len(path.parts) for path in parts) + 1):
        names = ["/".join(path.with_suffix("").parts[-length:]) for path in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({i + 1})" for i, name in enumerate(names)]  # the same one twice
