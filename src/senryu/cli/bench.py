"""`senryu bench`: measures this machine with the model that would be served, and shows it as table, JSON or plot.

Knows how the figures are laid out; what is measured, and how, is senryu.bench's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from senryu import __version__
from senryu.cli.output import as_json, as_pairs, hint, print_table
from senryu.config import DEFAULT_MODEL, Settings
from senryu.errors import SetupError

if TYPE_CHECKING:  # NOTE: imported when it runs; `senryu bench --help` would wait for the engine
    from senryu.bench import Report, Throughput


RESTLESS = 0.2  # a variation of the machine's own peak beyond which shares of it are doubtful


def _plot_file(_: click.Context, __: click.Parameter, path: Path | None) -> Path | None:
    if path is not None and path.suffix.lower() != ".svg":
        raise click.BadParameter(f"{path.name!r}: plots are SVG, which any browser opens; end it in .svg")
    if path is not None and not path.absolute().parent.is_dir():
        raise click.BadParameter(f"there is no folder {str(path.parent)!r}; make it first")
    return path


@click.command()
@click.option(
    "--model", metavar="VALUE", help=f"Model to measure: a name or a folder.  [default: {DEFAULT_MODEL}]"
)
@click.option("--precision", metavar="VALUE", help="auto, f32, bf16 or int8.  [default: auto]")
@click.option("--threads", metavar="VALUE", help="Processor threads.  [default: all that we may use]")
@click.option(
    "--seconds",
    type=click.FloatRange(0, 3600),
    default=15.0,
    show_default=True,
    help="Time to measure for; a slow machine takes at least one round of everything.",
)
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    callback=_plot_file,
    metavar="FILE.svg",
    help="Write a plot too.",
)
def bench(model: str | None, json_: bool, plot: Path | None, seconds: float, **argv: Any) -> None:
    """Measure tokens/s and a lone query's latency, beside the best that this machine can do.

    \b
    Example:
      senryu bench
      senryu bench --precision f32 --plot bench.svg
    """
    report = _measure(Settings.load({"models": [model] if model else None, **argv}), seconds)
    if report.peak.variation > RESTLESS:
        hint(
            f"the machine's own peak varied by {report.peak.variation:.0%} meanwhile: something else runs here, or "
            "beside this virtual machine. Take the figures with care, or measure again."
        )
    if plot is not None:
        _write(plot, as_svg(report))
    if json_:
        click.echo(as_json({"senryu": __version__, **asdict(report)}))
    else:
        _print(report)


def _measure(settings: Settings, seconds: float) -> Report:
    from senryu import bench, engine, pull
    from senryu.cli.pull import shown_progress
    from senryu.engine.machine import usable_threads
    from senryu.tokenizer import Tokenizer

    precision = engine.choose_precision(settings.precision)
    threads = settings.threads or usable_threads()
    with shown_progress() as progress:
        hub = pull.HubSettings.from_environ(os.environ)
        spec = pull.ensure(settings.model, settings.paths.models, hub, progress)
    loaded = engine.load(spec, precision=precision, threads=threads)
    tokenizer = Tokenizer(spec)
    hint(f"measuring {spec.id} for {seconds:g} s; leave the machine alone meanwhile.")
    try:
        return bench.run(spec, loaded, tokenizer, threads=threads, seconds=seconds)
    finally:
        tokenizer.close()
        loaded.close()


def _write(path: Path, content: str) -> None:
    try:
        path.write_text(content, "utf-8")
    except OSError as error:
        raise SetupError(f"{path}: cannot be written: {error.strerror}.") from None


# ---- tables -------------------------------------------------------------------------------------------------


def _print(report: Report) -> None:
    click.echo(as_pairs(f"{report.model}, {report.precision.value}", dict(_facts(report))))
    click.echo("\nTokens/s, and their share of the peak, by length and batch\n")
    lengths, batches = _lengths(report), _batches(report)
    cells = {(cell.length, cell.batch): f"{_shown(cell):>14}" for cell in report.throughput}
    print_table(
        ("Tokens a text", *(f"{_texts(batch):>14}" for batch in batches)),
        [(length, *(cells[length, batch] for batch in batches)) for length in lengths],
    )
    click.echo(f"\nA lone query of {report.query_tokens} tokens, from its text to the answer's bytes\n")
    rows = [
        (each.output_type.value, _ms(each.p50_seconds), _ms(each.p99_seconds), each.queries)
        for each in report.latency
    ]
    print_table(("Embedding type", "p50", "p99", "Queries"), rows)


def _facts(report: Report) -> Iterator[tuple[str, str]]:
    peak = report.peak
    shapes = ", ".join(
        f"{low} × {high}: {each.flops_per_second / 1e9:,.0f}"
        for each in peak.products
        for low, high in (each.shape,)
    )
    yield "Processor", f"{report.processor}, {_threads(report)}"
    yield "Work", f"{report.flops_per_token / 1e6:,.1f} MFLOP a token in linear layers"
    alone = f"{peak.flops_per_second / 1e9:,.0f} GFLOP/s in matrix products alone ({shapes})"
    yield "Peak", f"{alone}, so at most {peak.tokens_per_second:,.0f} tokens/s"
    yield "Measured", f"{_rounds(report)} in {report.seconds:.0f} s, {report.streams} side by side"


def _lengths(report: Report) -> list[int]:
    return sorted({cell.length for cell in report.throughput})


def _batches(report: Report) -> list[int]:
    return sorted({cell.batch for cell in report.throughput})


def _shown(cell: Throughput) -> str:
    return f"{cell.tokens_per_second:,.0f} {cell.share_of_peak:4.0%}"


def _texts(batch: int) -> str:
    return "1 text" if batch == 1 else f"{batch} texts"


def _threads(report: Report) -> str:
    return "1 thread" if report.threads == 1 else f"{report.threads} threads"


def _rounds(report: Report) -> str:
    fewest = min(cell.rounds for cell in report.throughput)
    return "one round" if fewest == 1 else f"medians of {fewest} rounds"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.2f} ms"


# ---- plot ---------------------------------------------------------------------------------------------------

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 72, 736, 132, 364  # of the area with the bars
BAR = 26  # px, at most
STYLE = """
  svg { color-scheme: light dark; font: 12px system-ui, "Helvetica Neue", Arial, sans-serif; }
  .page { fill: #fcfcfb; } text { fill: #52514e; } .title { fill: #0b0b0b; font-size: 18px; font-weight: 600; }
  .grid { stroke: #e4e3df; } .base { stroke: #8f8e89; } .peak { stroke: #c2410c; stroke-dasharray: 6 4; }
  .peak { stroke-width: 1.5; } .share { font-size: 10px; text-anchor: middle; }
  .share { stroke: #fcfcfb; stroke-width: 4; paint-order: stroke; }
  .right { text-anchor: end; } .middle { text-anchor: middle; }
  .b0 { fill: #a8cbf0; } .b1 { fill: #6aa3dd; } .b2 { fill: #2f76c0; } .b3 { fill: #123f78; }
  @media (prefers-color-scheme: dark) {
    .page { fill: #1a1a19; } text { fill: #c3c2b7; } .title { fill: #ffffff; }
    .grid { stroke: #33332f; } .base { stroke: #7c7b74; } .peak { stroke: #f08a4b; } .share { stroke: #1a1a19; }
    .b0 { fill: #23507f; } .b1 { fill: #3777b8; } .b2 { fill: #6eaae6; } .b3 { fill: #c4defa; }
  }
"""


def as_svg(report: Report) -> str:
    """Draw bars of tokens/s by length and batch under the line of the machine's peak; light and dark."""
    top = 1.1 * max(report.peak.tokens_per_second, *(cell.tokens_per_second for cell in report.throughput))
    title = f"Senryu on {report.processor}, {_threads(report)}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="page" width="{WIDTH}" height="{HEIGHT}"/>',
        _text(24, 36, title, "title"),
        _text(24, 58, _subtitle(report)),
        *_legend(report),
        *_grid(top),
        *_peak_line(report, top),
        *_bars(report, top),
        _text((LEFT + RIGHT) / 2, BOTTOM + 40, "tokens a text", "middle"),
        _text(24, HEIGHT - 16, _footer(report)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _subtitle(report: Report) -> str:
    precision = report.precision.value
    return f"{report.model}, {precision}: tokens/s, and on each bar its share of the matrix-product peak"


def _footer(report: Report) -> str:
    lone = report.latency[0]
    return (
        f"A lone query of {report.query_tokens} tokens: p50 {_ms(lone.p50_seconds)}, p99 {_ms(lone.p99_seconds)}"
        f" · {_rounds(report)} · Senryu {__version__}"
    )


def _text(x: float, y: float, content: str, kind: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{escape(content)}</text>'


def _line(kind: str, height: float) -> str:
    return f'<line class="{kind}" x1="{LEFT}" x2="{RIGHT}" y1="{height:.1f}" y2="{height:.1f}"/>'


def _height(rate: float, top: float) -> float:
    return BOTTOM - (BOTTOM - TOP) * rate / top


def _legend(report: Report) -> Iterator[str]:
    for index, batch in enumerate(_batches(report)):
        x = 24 + 84 * index
        yield f'<rect class="b{index}" x="{x}" y="76" width="12" height="12" rx="2"/>'
        yield _text(x + 18, 86, _texts(batch) + (" a batch" if batch == max(_batches(report)) else ""))


def _grid(top: float) -> Iterator[str]:
    step = _step(top)
    for index in range(int(top / step) + 1):
        height = _height(index * step, top)
        yield _line("grid" if index else "base", height)
        yield _text(LEFT - 10, height + 4, f"{index * step:,.0f}", "right")


def _step(top: float) -> float:
    """Return the round step that divides an axis into three to seven parts."""
    power = 10.0 ** len(str(int(top)))
    return next(step for step in (power / n for n in (5, 10, 20, 50)) if top / step >= 3)


def _bars(report: Report, top: float) -> Iterator[str]:
    lengths, batches = _lengths(report), _batches(report)
    group = (RIGHT - LEFT) / len(lengths)
    width = min(BAR, group / (len(batches) + 1))
    for cell in report.throughput:
        centre = LEFT + group * (lengths.index(cell.length) + 0.5)
        index = batches.index(cell.batch)
        x, y = centre + width * (index - len(batches) / 2), _height(cell.tokens_per_second, top)
        about = f"{cell.length} tokens, {_texts(cell.batch)}: {cell.tokens_per_second:,.0f} tokens/s"
        yield (
            f'<rect class="b{index}" x="{x + 1:.1f}" y="{y:.1f}" width="{width - 2:.1f}" '
            f'height="{BOTTOM - y:.1f}" rx="2"><title>{about}, {cell.share_of_peak:.0%}</title></rect>'
        )
        yield _text(x + width / 2, y - 4, f"{cell.share_of_peak:.0%}", "share")
    for index, length in enumerate(lengths):
        yield _text(LEFT + group * (index + 0.5), BOTTOM + 20, str(length), "middle")


def _peak_line(report: Report, top: float) -> Iterator[str]:
    peak = report.peak
    rates = f"{peak.flops_per_second / 1e9:,.0f} GFLOP/s, {peak.tokens_per_second:,.0f} tokens/s"
    yield _line("peak", _height(peak.tokens_per_second, top))
    yield '<line class="peak" x1="24" x2="50" y1="104" y2="104"/>'
    yield _text(58, 108, f"matrix products alone: {rates}")
