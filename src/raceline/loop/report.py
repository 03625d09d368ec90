"""A deployment as people read it: a table in the terminal, and one self-contained page with plots."""

import datetime
from collections import Counter
from collections.abc import Callable, Iterable
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.table import Table

from raceline.convert import Rewrite
from raceline.core.units import format_bytes, format_seconds
from raceline.ir import Measurement
from raceline.loop.deployment import Deployment, Served
from raceline.loop.plots import Bar, Line, bars, lines

if TYPE_CHECKING:
    from raceline.serve import Evaluation

_NO_FIGURE = "–"


class Row(NamedTuple):
    """One line of the before-and-after table; `how` says on what load it was measured."""

    what: str
    how: str
    before: str
    after: str
    ratio: str


def show(result: Deployment, console: Console) -> None:
    """Print the three-dimensional table and where the rest is."""
    table = Table(title=f"{result.name} on {result.platform.model}", title_justify="left")
    table.add_column("")
    for name in ("before", "after", "ratio"):
        table.add_column(name, justify="right")
    how = ""
    for row in comparison(result):
        if row.how != how:
            how = row.how
            table.add_section()
            table.add_row(f"[dim]{how}[/dim]")
        table.add_row(f"  {row.what}", row.before, row.after, row.ratio)
    console.print(table)
    saved = f"{result.traffic_reduction:.0%} less traffic of intermediate tensors (computed)"
    for line in (
        *(f"note:   {note}" for note in result.precision_notes),
        f"before: {result.before.setup}",
        f"after:  {result.after.setup}",
        f"graph:  {saved}; equivalence {result.equivalence}",
        f"bundle: {result.bundle}",
        f"report: {result.report}",
    ):
        console.print(line, highlight=False, soft_wrap=True)


def comparison(result: Deployment) -> list[Row]:
    """The figures of both ways: latency, throughput, efficiency, and what they rest on."""
    same = f"the same {result.before.shared.load.rate_per_s:.3g} requests/s, arriving at random"
    full = f"saturated: {result.before.saturated.load.concurrency} requests under way at all times"

    def row(what: str, how: str, read: Callable[[Served], float | None], show: Callable[[float], str]) -> Row:
        before, after = read(result.before), read(result.after)
        shown = [show(value) if value else _NO_FIGURE for value in (before, after)]
        return Row(what, how, shown[0], shown[1], _ratio(before, after))

    return [
        row("P99 latency", same, lambda s: s.shared.latency_s.get("p99"), format_seconds),
        row("P50 latency", same, lambda s: s.shared.latency_s.get("p50"), format_seconds),
        row("P99.9 latency", same, _p999_s, format_seconds),
        row("CPU busy", same, lambda s: s.shared.cpu_utilisation, "{:.0%}".format),
        row("Requests/s", full, lambda s: s.saturated.requests_per_s, "{:.4g}".format),
        row("Resource efficiency", full, _efficiency, "{:.1%}".format),
        row("P99 latency, saturated", full, lambda s: s.saturated.latency_s.get("p99"), format_seconds),
        row("CPU per request", full, lambda s: s.saturated.server_cpu_s_per_request, format_seconds),
        row("Server memory", full, lambda s: s.saturated.server_rss_bytes, format_bytes),
        *(
            [row("Failed requests", "all loads", _failed, "{:g}".format)]
            if _failed(result.after) or _failed(result.before)
            else []
        ),
        row("Start", "process start to ready", lambda s: s.start_s, format_seconds),
    ]


def _p999_s(way: Served) -> float | None:
    """None where there were too few requests to tell."""
    return way.shared.latency_s.get("p99.9") if way.shared.requests >= 1000 else None


def _efficiency(way: Served) -> float | None:
    return way.saturated.resource_efficiency


def _failed(way: Served) -> float:
    """Requests that were refused, timed out or lost; latencies are of the others."""
    return sum(way.saturated.errors.values()) + sum(way.shared.errors.values())


def _ratio(before: float | None, after: float | None) -> str:
    return f"{after / before:.2f}" if before and after else _NO_FIGURE


def page_of(result: Deployment) -> str:
    """The page, self-contained: it fetches nothing."""
    import jinja2

    template = resources.files("raceline.loop").joinpath("report.html.j2").read_text(encoding="utf-8")
    page = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(template)
    # A file name may hold bytes that are no text; they are shown as escapes.
    return page.render(**_content(result)).encode("utf-8", "backslashreplace").decode()


def _content(result: Deployment) -> dict[str, Any]:
    """What the template shows."""
    return {
        "name": result.name,
        "source": result.source.provenance.source,
        "platform": result.platform,
        "when": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cards": _cards(result),
        "table": comparison(result),
        "before_setup": result.before.setup,
        "after_setup": result.after.setup,
        "equivalence": _equivalence(result),
        "rewrites": _rewrites(result),
        "rewrites_note": _rewrites_note(result),
        "model_facts": _model_facts(result),
        "machine_facts": _machine_facts(result),
        "precision_notes": result.precision_notes,
        "measurements": [_measurement(m) for m in result.profile.measurements],
        **_plots(result),
    }


def _cards(result: Deployment) -> Iterable[dict[str, str]]:
    rows = {row.what: row for row in comparison(result)}
    for what in ("P99 latency", "Requests/s", "Resource efficiency"):
        row = rows[what]
        yield {"title": what, "value": row.after, "note": f"before {row.before}; x {row.ratio}"}
    saved = result.traffic_reduction
    yield {
        "title": "Fused operators",
        "value": f"{saved:.0%}",
        "note": "less traffic of intermediate tensors in the graph; computed, not measured",
    }


def _plots(result: Deployment) -> dict[str, Any]:
    from markupsafe import Markup

    shared = result.before.shared
    latency = lines(
        [_curve("before", result.before.shared), _curve("after", result.after.shared)],
        title="Latency under the same load",
        x_label="latency, ms",
        y_label="share of requests",
        log_x=True,
    )
    return {
        "latency_plot": Markup(latency),  # noqa: S704  our own drawing, every text in it escaped
        "latency_note": f"{shared.load.rate_per_s:.3g} requests/s, Poisson arrivals; counted from the moment "
        "a request was due.",
        "tuner_plot": Markup(bars(_tuner_bars(result), title="Time per item")),  # noqa: S704
        "tuner_note": "Milliseconds per item, the fastest configuration of each engine at each batch.",
        "stages_plot": Markup(bars(_stage_bars(result), title="Time per stage", label_width=140)),  # noqa: S704
    }


def _curve(style: str, run: "Evaluation") -> Line:
    return Line(style, [(seconds * 1e3, share) for share, seconds in run.latency_curve if seconds > 0], style)


def _tuner_bars(result: Deployment) -> list[Bar]:
    """The fastest configuration of each engine at each batch, the fastest of all marked."""
    best: dict[tuple[str, int], Measurement] = {}
    for m in result.profile.usable():
        best.setdefault((m.candidate.engine, m.candidate.batch), m)
    rows = sorted(best.values(), key=lambda m: (m.candidate.batch, m.latency_s))
    each = [m.latency_s / m.candidate.batch * 1e3 for m in rows]
    winner = min(each, default=0.0)
    return [
        Bar(str(m.candidate), ms, f"{ms:.3g} ms", "after" if ms == winner else "before")
        for m, ms in zip(rows, each, strict=True)
    ]


def _stage_bars(result: Deployment) -> list[Bar]:
    return [Bar(name, s, format_seconds(s)) for name, s in result.stage_s.items()]


def _equivalence(result: Deployment) -> dict[str, Any]:
    proof = result.equivalence
    rows = [
        {"output": o.name, "max_abs": f"{o.max_abs:.2e}", "max_rel": f"{o.max_rel:.2e}", "ok": o.ok}
        for o in proof.outputs
    ]
    if proof.accuracy is not None:
        how = f"{proof.candidate} against the model in full precision, in the session that a server opens: {proof}."
        return {"ok": proof.ok, "how": how, "rows": rows}
    how = (
        f"{proof.candidate} against a reference run of the original graph, on generated inputs: within "
        f"{proof.rtol:g} of each output's largest value, and of five times that in every slice beside its own."
    )
    return {"ok": proof.ok, "how": how, "rows": rows}


def _rewrites(result: Deployment) -> list[dict[str, Any]]:
    made = [note for note in result.notes if isinstance(note, Rewrite)]
    counts = Counter(note.pass_name for note in made)
    first = {note.pass_name: note for note in reversed(made)}
    return [{"name": n, "count": c, "example": first[n].reason} for n, c in counts.most_common()]


def _rewrites_note(result: Deployment) -> str:
    before, after = result.cost_before, result.cost_after
    unused = (
        "Not used: the engine that is fastest here gains nothing from it and runs the graph as it was read. "
    )
    unused = unused if result.profile.variant == "source" else ""
    return (
        f"{unused}{_nodes(result.source)} nodes became {_nodes(result.model)}. Bytes of intermediate tensors "
        f"that one item reads and writes, computed from the graph: {format_bytes(before.intermediate_bytes)} "
        f"became {format_bytes(after.intermediate_bytes)}."
    )


def _nodes(model: Any) -> int:
    return sum(1 for _ in model.program.graph)


def _model_facts(result: Deployment) -> list[tuple[str, str]]:
    came_from, signature = result.source.provenance, result.model.signature
    return [
        ("format", f"{came_from.source_format}, written by {came_from.producer or 'unknown'}"),
        ("SHA-256", came_from.source_sha256),
        *(("input", str(spec)) for spec in signature.inputs),
        *(("output", str(spec)) for spec in signature.outputs),
        ("batch axis", signature.batch_axis or "none: items cannot be stacked"),
        ("measured at", ", ".join(f"{name} {list(shape)}" for name, shape in result.shapes.items())),
        ("arithmetic", f"{result.cost_after.flops / 1e9:.3g} GFLOP an item"),
    ]


def _machine_facts(result: Deployment) -> list[tuple[str, str]]:
    p = result.platform
    rates = [(f"{row.precision} {row.instruction_set}", row.per_core) for row in p.rates]
    return [
        ("processor", f"{p.model}, {p.cores} cores"),
        *((f"peak {name}, one core", f"{rate / 1e9:.4g} Gop/s") for name, rate in rates if rate),
        ("memory, one core", f"{(p.memory_bytes_per_s_per_core or 0) / 1e9:.3g} GB/s"),
        ("source", f"{p.source}, {p.date}"),
    ]


def _measurement(m: Measurement) -> dict[str, str]:
    ran = not m.failure
    return {
        "candidate": str(m.candidate),
        "latency": format_seconds(m.latency_s) if ran else "",
        "p99": format_seconds(m.latency_p99_s) if ran else "",
        "rate": f"{m.throughput_per_s:.4g}" if ran else "",
        "memory": format_bytes(m.memory_bytes) if ran else "",
        "accuracy": "" if m.accuracy is None else f"{m.accuracy.full:.4f} → {m.accuracy.quantised:.4f}",
        "failure": m.failure,
    }
