"""Data reports and conversions for people: rich tables. Text from data is never taken for markup."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from prefine.formats.check import DataReport, Finding, serves
from prefine.formats.convert import Conversion

STYLES = {"broken": "bold red", "idle": "yellow", "note": "cyan"}
MEANS = {
    "broken": "cannot be read: training stops here unless such rows are skipped",
    "idle": "read well and teach nothing: no contrast is made of them",
    "note": "usable, worth a look",
}
FIGURES = ("n", "mean", "sd", "min", "p10", "median", "p90", "max")


def _figure(x: float) -> str:
    return f"{int(x):,}" if x == int(x) and abs(x) < 1e15 else f"{x:,.4g}"


def _table(title: str, rows: Mapping[str, Mapping[str, float]]) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, title_style="bold")
    table.add_column("")
    for name in FIGURES:
        table.add_column(name, justify="right")
    for name, row in rows.items():
        table.add_row(Text(clean(name)), *(_figure(row[f]) if f in row else "" for f in FIGURES))
    return table


def clean(text: str) -> str:
    """Without control characters, which could repaint a terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def render(report: DataReport) -> RenderableType:
    """The report as `prefine data check` prints it."""
    parts: list[RenderableType] = [_head(report)]
    lengths = {f"{what}, {unit}": row for what, by in report.lengths.items() for unit, row in by.items()}
    if lengths:
        parts += [Text(), _table("Lengths", lengths)]
    if report.scores:
        parts += [Text(), _table("Scores", report.scores)]
    parts += [Text(), *_facts(report)]
    for finding in report.findings:
        parts += [Text(), *_finding(finding)]
    if not report.findings:
        parts.append(Text("No problems found.", style="green"))
    return Group(*parts)


def _head(report: DataReport) -> Text:
    text = Text.assemble((clean(report.file), "bold"), f": {report.container}\n")
    if report.format is None:
        text.append("no data format can be told: " + report.summary)
    else:
        text.append(f"{report.format}", style="bold").append(f": {report.summary}\n")
        text.append(f"{report.slates:,} of {report.rows:,} rows can be read, {report.responses:,} responses")
    if report.conversations:
        text.append(f", {report.conversations:,} prompts are conversations")
    if report.answers:
        text.append(f", {report.answers:,} gold answers")
    return text


def _facts(report: DataReport) -> list[RenderableType]:
    lines = []
    for name, counts in report.labels.items():
        if name != "preferred":
            lines.append(f"label {name}: " + ", ".join(f"{n:,} {value}" for value, n in sorted(counts.items())))
    if report.chosen_longer is not None:
        lines.append(f"the better response is the longer one in {report.chosen_longer:.0%} of pairs")
    taught = ", ".join(f"{n:,} {name}" for name, n in report.lessons.items() if n)
    lines.append(f"gives: {taught or 'nothing'}")
    lines.append(f"serves as: {', '.join(sorted(serves(report))) or 'nothing'}")
    if report.unread:
        lines.append("kept but not used: " + ", ".join(sorted(report.unread)))
    return [Text(clean(line)) for line in lines]


def _finding(finding: Finding) -> list[RenderableType]:
    head = Text.assemble(
        (f"{finding.severity}: {finding.count:,} {finding.title}", STYLES[finding.severity]),
        (f"  ({MEANS[finding.severity]})", "dim"),
    )
    lines: list[RenderableType] = [head]
    last = None
    for problem in finding.examples:
        place = problem.file if problem.line is None else f"{problem.file}:{problem.line}"
        lines.append(Text(clean(f"  {place}: {problem.message}")))
        if problem.remedy != last:
            lines.append(Text(clean(f"    remedy: {problem.remedy}"), style="dim"))
        last = problem.remedy
    if finding.count > len(finding.examples):
        lines.append(Text(f"  ... and {finding.count - len(finding.examples):,} more", style="dim"))
    return lines


def render_conversion(done: Conversion) -> RenderableType:
    """A conversion as `prefine data convert` prints it."""
    lines = [
        Text(clean(f"{done.target}: {done.rows:,} rows of {done.target_format}")),
        Text(clean(f"from {done.slates:,} slates in {done.source} ({done.source_format})")),
    ]
    if done.lost:
        lines.append(
            Text(
                f"{done.target_format} has no room for (slates keep everything, --keep puts it beside the rows):",
                style="yellow",
            )
        )
        lines += [Text(clean(f"  {name}: on {count:,} slates")) for name, count in done.lost.items()]
    elif done.skipped == 0:
        lines.append(Text("nothing lost", style="green"))
    if done.skipped:
        lines.append(Text(f"{done.skipped:,} rows left out:", style="yellow"))
        lines += [Text(clean(f"  {p.file}:{p.line}: {p.message}")) for p in done.examples]
        if done.skipped > len(done.examples):
            lines.append(Text(f"  ... and {done.skipped - len(done.examples):,} more"))
    return Group(*lines)
