"""The records as a Markdown table, and a plot of ratios and of scaling curves."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from experiments.benchmarks import suites
from unlearnjax.report import plots, table


def markdown(records: Sequence[Mapping], ceilings: Mapping[str, float]) -> str:
    """A table of the cases, one of the scaling curves, one of drifts."""
    timed = [r for r in records if r["benchmark"] != "scaling" and "seconds" in r]
    curves = [r for r in records if r["benchmark"] == "scaling"]
    drifts = [r for r in records if "seconds" not in r]
    parts = [_columns([_cells(r, ceilings) for r in timed])]
    parts.append(_columns([_curve(r) for r in curves]))
    parts.append(_columns([_drift(r) for r in drifts]))
    return "\n".join(table.markdown(part) for part in parts if part)


def exponent(record: Mapping) -> float:
    """Of the power law between the last two points: 1 is linear."""
    sizes = [float(n) for n in record["seconds"]][-2:]
    times = list(record["seconds"].values())[-2:]
    return float(np.diff(np.log(times))[0] / np.diff(np.log(sizes))[0])


def missed(records: Sequence[Mapping]) -> list[str]:
    """Targets that were not met."""
    lines = []
    for r in records:
        for name, ratio in r.get("ratio", {}).items():
            goal = suites.target(r["benchmark"], r["case"], name)
            if goal is not None and ratio < goal:
                lines.append(
                    f"{r['benchmark']}, {r['case']}: {name} {ratio:.2f}x, aimed at {goal}x"
                )
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
    curves = [r for r in records if r["benchmark"] == "scaling"]
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
    return [(name, [row[name] for row in rows]) for name in (rows[0] if rows else ())]


def _cells(record: Mapping, ceilings: Mapping[str, float]) -> dict[str, str]:
    first = record["reference"]
    flops = "float64_flops_per_second" if record["benchmark"] == "acu" else "flops_per_second"

    def share(column, ceiling):
        value = record[column].get(first)
        return f"{100 * value / ceilings[ceiling]:.0f} %" if value and ceiling in ceilings else ""

    known = first in record["compile_seconds"]
    return {
        "benchmark": record["benchmark"],
        "case": record["case"],
        "ours": _time(record["seconds"][first]),
        "compile": _time(record["compile_seconds"][first]) if known else "",
        "of matmul": share("flops_per_second", flops),
        "of copy": share("bytes_per_second", "bytes_per_second"),
        "peak": f"{record['peak_bytes'][first] / 1e6:.3g} MB" if known else "",
        "others, times as slow": ", ".join(
            _ratio(record, name, ratio) for name, ratio in record["ratio"].items()
        ),
    }


def _ratio(record: Mapping, name: str, ratio: float) -> str:
    goal = suites.target(record["benchmark"], record["case"], name)
    aim = "" if goal is None else f" (aim {goal:g}{'' if ratio >= goal else ', missed'})"
    return f"{name}: {ratio:.2g}{aim}"


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
