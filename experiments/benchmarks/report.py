"""The records as a Markdown table, and a plot of ratios and of scaling curves."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from matplotlib.figure import Figure

from experiments.benchmarks import suites
from unlearnjax.report import plots, table

COUNTED = ("images", "models")  # of which records have so many per second


def document(header: Mapping, records: Sequence[Mapping]) -> str:
    """What `docs/performance.md` takes up: the machine in a paragraph, and the tables.

    Args:
      header: `environment`, `ceilings` and `datasheet` of the run.
    """
    tables = markdown(records, header["ceilings"], header["datasheet"])
    return "\n\n".join(part for part in (machine(header), tables) if part)


def machine(header: Mapping) -> str:
    """One paragraph: what was computed on, and what that can do at most."""
    of, peaks = header["environment"], header["datasheet"]
    parts = [
        f"{of['num_devices']} x {of['device']} ({of['backend']}), {of['cpu_count']} cores of "
        f"{of['cpu']}; jax {of['jax']}, PyTorch {of['torch']}."
    ]
    for name, value in header["ceilings"].items():
        if name == "bytes_per_second":
            parts.append(f"Copy: {value / 1e9:.3g} GB/s.")
            continue
        dtype = name.removesuffix("flops_per_second").removesuffix("_") or "float32"
        sheet = f" ({peaks[dtype] / 1e12:.4g} by the datasheet)" if dtype in peaks else ""
        parts.append(f"Matrix product in {dtype}: {value / 1e12:.3g} TFLOP/s{sheet}.")
    return " ".join(parts)


def markdown(
    records: Sequence[Mapping],
    ceilings: Mapping[str, float],
    datasheet: Mapping[str, float] = MappingProxyType({}),
) -> str:
    """A table of the cases, one of the scaling curves, one of drifts, one of what is missing.

    Args:
      ceilings: see `ceilings.measure`.
      datasheet: FLOP/s by type, see `ceilings.datasheet`.
    """
    missing = [r for r in records if "missing" in r]
    timed = [r for r in records if r["benchmark"] != "scaling" and "seconds" in r]
    curves = [r for r in records if r["benchmark"] == "scaling" and "seconds" in r]
    drifts = [r for r in records if "seconds" not in r and "missing" not in r]
    parts = [_columns([_cells(r, ceilings, datasheet) for r in timed])]
    parts.append(_columns([_curve(r) for r in curves]))
    parts.append(_columns([_drift(r) for r in drifts]))
    parts.append(_columns([{"not measured": r["case"], "why": r["missing"]} for r in missing]))
    return "\n".join(table.markdown(part) for part in parts if part)


def exponent(record: Mapping) -> float:
    """Of the power law between the last two points: 1 is linear."""
    sizes = [float(n) for n in record["seconds"]][-2:]
    times = list(record["seconds"].values())[-2:]
    return float(np.diff(np.log(times))[0] / np.diff(np.log(sizes))[0])


def missed(records: Sequence[Mapping]) -> list[str]:
    """Targets, goals and limits that were not met."""
    lines = []
    for r in records:
        seconds = r.get("seconds", {}).get(r.get("reference"))
        goal = suites.goal(r["benchmark"], r["case"])
        if goal is not None and seconds is not None and seconds > goal:
            lines.append(f"{r['benchmark']}, {r['case']}: {_time(seconds)}, aimed at {goal:g} s")
        for name, ratio in r.get("ratio", {}).items():
            goal = suites.target(r["benchmark"], r["case"], name)
            if goal is not None and ratio < goal:
                lines.append(
                    f"{r['benchmark']}, {r['case']}: {name} {ratio:.2f}x, aimed at {goal}x"
                )
        for (benchmark, field), limit in suites.LIMITS.items():
            if benchmark == r["benchmark"] and field in r:
                value, what = r[field][r["reference"]], field.replace("_", " ")
                if value > limit:
                    lines.append(f"{benchmark}, {r['case']}: {what} {value:.3g}, at most {limit:g}")
    return lines


def figure(records: Sequence[Mapping]) -> Figure:
    """Left: times as slow as ours, of every alternative. Right: scaling curves, log-log."""
    bars = [
        (f"{r['benchmark']}: {r['case']}\n{name}", ratio, name.startswith("torch"))
        for r in records
        if r["benchmark"] != "scaling"
        for name, ratio in r.get("ratio", {}).items()
        if not name.startswith("ours")
    ]
    curves = [r for r in records if r["benchmark"] == "scaling" and "seconds" in r]
    result = Figure(figsize=(13, max(4, 0.3 * len(bars) + 1)), layout="constrained")
    left, right = result.subplots(1, 2)
    colors = [plots.COLORS[0] if torch else plots.ORACLE_COLOR for *_, torch in bars]
    left.barh(range(len(bars)), [ratio for _, ratio, _ in bars], color=colors, height=0.7)
    left.set_yticks(range(len(bars)), [text for text, *_ in bars], fontsize=6)
    left.set_ylim(len(bars) - 0.5, -0.5)
    left.axvline(1, color="black", linewidth=1)
    left.set_xscale("log")
    left.set_xlabel("times as slow as ours (blue: PyTorch)")
    for i, r in enumerate(curves):
        sizes = [float(n) for n in r["seconds"]]
        marker = "osv^D<>"[i // len(plots.COLORS)]
        color = plots.COLORS[i % len(plots.COLORS)]
        right.loglog(
            sizes, list(r["seconds"].values()), color=color, marker=marker, label=r["case"]
        )
    right.set_xlabel("size of what the curve varies")
    right.set_ylabel("seconds")
    if curves:
        right.legend(fontsize=7)
    else:
        right.set_axis_off()
    return result


def _columns(rows: Sequence[Mapping[str, str]]) -> list[tuple[str, list[str]]]:
    columns = [(name, [row[name] for row in rows]) for name in (rows[0] if rows else ())]
    return [(name, cells) for name, cells in columns if any(cells)]


def _cells(
    record: Mapping, ceilings: Mapping[str, float], datasheet: Mapping[str, float]
) -> dict[str, str]:
    first, dtype = record["reference"], record["dtype"]
    prefix = "" if dtype == "float32" else f"{dtype}_"

    def share(column, most):
        value = record[column].get(first)
        return f"{100 * value / most:.0f} %" if value and most else ""

    known = first in record["compile_seconds"]
    goal = suites.goal(record["benchmark"], record["case"])
    late = "" if goal is None or record["seconds"][first] <= goal else ", missed"
    aim = "" if goal is None else f" (aim {goal:g} s{late})"
    others = [_ratio(record, name, ratio) for name, ratio in record["ratio"].items()]
    others += [f"{name}: failed ({reason})" for name, reason in record["failed"].items()]
    return {
        "benchmark": record["benchmark"],
        "case": record["case"],
        "ours": _time(record["seconds"][first]) + aim,
        "rate": ", ".join(
            f"{record[f'{what}_per_second'][first]:.4g} {what}/s"
            for what in COUNTED
            if f"{what}_per_second" in record
        ),
        "compile": _time(record["compile_seconds"][first]) if known else "",
        "of datasheet": share("flops_per_second", datasheet.get(dtype)),
        "of matmul": share("flops_per_second", ceilings.get(f"{prefix}flops_per_second")),
        "of copy": share("bytes_per_second", ceilings.get("bytes_per_second")),
        "peak": f"{record['peak_bytes'][first] / 1e6:.3g} MB" if known else "",
        "others, times as slow": ", ".join(others),
    }


def _ratio(record: Mapping, name: str, ratio: float) -> str:
    goal = suites.target(record["benchmark"], record["case"], name)
    aim = "" if goal is None else f" (aim {goal:g}{'' if ratio >= goal else ', missed'})"
    share = record["sampled"].get(name)
    scaled = "" if share is None else f" (of {100 * share:.3g} %, scaled)"
    return f"{name}: {ratio:.2g}{scaled}{aim}"


def _curve(record: Mapping) -> dict[str, str]:
    points = ", ".join(f"{n}: {_time(s)}" for n, s in record["seconds"].items())
    return {"curve": record["case"], "by size": points, "exponent": f"{exponent(record):.2f}"}


def _drift(record: Mapping) -> dict[str, str]:
    points = [(k, v) for k, v in record.items() if k not in ("benchmark", "case")]
    errors = ", ".join(f"{k}: {v:.1e}" for k, v in points)
    return {"drift of the closed form": record["case"], "error after requests": errors}


def _time(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{1e6 * seconds:.3g} µs"
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
