"""Make the pages of the documentation that the code itself knows best: systems, objectives, judges, claims.

    python docs/make_pages.py build/docs

Hand-written pages are copied beside them; a line ``<!-- generated: NAME -->`` in one is replaced by what
``GENERATED[NAME]`` gives. Nothing here needs the network.
"""

from __future__ import annotations

import inspect
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
HERE = ROOT / "docs"


def main(target: Path) -> None:
    """Write every page into ``target``, which is emptied first."""
    from prefine.catalogue import systems

    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(HERE, target, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    for name in ("CHANGELOG.md", "CONTRIBUTING.md"):
        (target / name.lower()).write_text((ROOT / name).read_text().replace("](docs/", "]("))
    entries = systems()
    claims = _claims()
    (target / "systems").mkdir(exist_ok=True)
    for entry in entries:
        (target / "systems" / f"{entry.key}.md").write_text(system_page(entry, claims.get(entry.key)))
    for page in target.glob("*.md"):
        page.write_text(_filled(page.read_text(), page.name))


def _filled(text: str, page: str) -> str:
    def fill(found: re.Match[str]) -> str:
        name = found.group(1)
        if name not in GENERATED:
            raise SystemExit(f"{page}: there is nothing to generate under the name {name!r}")
        return GENERATED[name]()

    return re.sub(r"<!-- generated: ([a-z-]+) -->", fill, text)


# --- a page a system ------------------------------------------------------------------------------------------


def system_page(entry: Any, claim: Mapping[str, Any] | None) -> str:
    """What it is, how to run it, what it takes, what its claim says, and its source."""
    from prefine.catalogue import INPUTS
    from prefine.options import describe, of_function

    module = inspect.getmodule(entry.recipe)
    number = f"{entry.number:03d} · " if entry.number is not None else ""
    varied = [f"{name}: {value}" for name, value in entry.facets.items()]
    facts = " · ".join(x for x in (entry.family, entry.paper, *varied) if x)
    needs = table(["needs", "where it comes from"], [[f"`{n}`", INPUTS[n]] for n in entry.inputs])
    options, suited = of_function(entry.recipe), entry.suited(entry.world)
    flags = [
        [f"`{o.flag}`", _text(describe(o.type)), f"`{o.default}`", _code(suited.get(o.name)), _text(o.help)]
        for o in options.values()
    ]
    parts = [
        f"# {number}{_text(entry.title)}",
        f"*{facts}*",
        docstring(entry.recipe, without=[o.name for o in options.values()]),
        f"```\nprefine run {entry.key} --world {entry.world}\n```",
        "## What it takes",
        needs,
        table(["option", "takes", "default", "on worlds", ""], flags),
        "## Its claim" if entry.claim else "",
        claim_text(entry, claim) if entry.claim else "",
        "## Background",
        docstring(module, verbatim=True),
        "## Source",
        f"```python\n{inspect.getsource(entry.recipe).rstrip()}\n```",
    ]
    return "\n\n".join(p for p in parts if p) + "\n"


def claim_text(entry: Any, measured: Mapping[str, Any] | None) -> str:
    """The statement, and what was measured."""
    said = f"> {_text(' '.join(entry.claim.statement.split()))}\n\nAgainst {_text(entry.claim.baseline)}."
    if measured is None:
        return f"{said} Not measured yet: `prefine claim {entry.key}`."
    rows = [[_text(n), _number(f.get("mean")), _number(f.get("std"))] for n, f in measured.get("figures", {}).items()]
    seeds = len(measured.get("seeds", ()))
    head = f"Measured over {seeds} seeds in {measured.get('seconds', 0):.0f} s: **{measured.get('verdict')}**."
    return f"{said}\n\n{head}\n\n{table(['figure', 'mean', 'standard deviation'], rows)}"


# --- generated parts of hand-written pages --------------------------------------------------------------------


def systems_table() -> str:
    """Every system, by family."""
    from prefine.catalogue import systems

    claims = _claims()
    families: dict[str, list[Any]] = {}
    for entry in systems():
        families.setdefault(entry.family, []).append(entry)
    parts = []
    for family, entries in sorted(families.items()):
        rows = [
            [
                f"{e.number:03d}" if e.number is not None else "",
                f"[`{e.key}`](systems/{e.key}.md)",
                _text(e.summary),
                ", ".join(f"`{n}`" for n in e.inputs if n != "policy"),
                claims.get(e.key, {}).get("verdict", ""),
            ]
            for e in entries
        ]
        parts.append(f"## {family.capitalize()}\n\n{table(['no.', 'key', 'what it does', 'needs', 'claim'], rows)}")
    return "\n\n".join(parts)


def factories(module: str, table: str = "FACTORIES", level: str = "##") -> Callable[[], str]:
    """The named factories of a room: call, docstring."""

    def page() -> str:
        import importlib

        room = importlib.import_module(module)
        parts = []
        for name, factory in getattr(room, table).items():
            parts.append(f"{level} {name}\n\n```python\n{_call(factory)}\n```\n\n{docstring(factory, verbatim=True)}")
        return "\n\n".join(parts)

    return page


def facets_table() -> str:
    """The vocabulary: facet, what it is about, its values."""
    from prefine.facets import FACETS

    rows = []
    for name, facet in FACETS.items():
        values = [f"**{v}**" if v == facet.default else v for v in facet.values]
        rows.append([f"`--{name}`", facet.component, facet.about, ", ".join(values)])
    return table(["facet", "component", "what it says", "values"], rows)


def coverage_table() -> str:
    """Value by value, what it means and which published systems have it; of DPO's own values the meaning alone."""
    from prefine.catalogue import systems
    from prefine.facets import FACETS, coverage

    published = [(s.key, s.facets) for s in systems() if s.number is not None]
    rows = []
    for name, facet in FACETS.items():
        for value, keys in coverage(published, name).items():
            links = ", ".join(f"[`{key}`](systems/{key}.md)" for key in keys)
            all_others = f"all others ({len(keys)})"
            rows.append([f"`--{name} {value}`", facet.values[value], all_others if value == facet.default else links])
    return table(["", "what it means", "published systems"], rows)


def judges_table() -> str:
    from prefine.judging.names import HELP

    return table(["judge", "what it says"], [[f"`{n}`", _text(text)] for n, text in HELP.items()])


def formats_table() -> str:
    from prefine.formats.spec import FORMATS

    parts = []
    for form in FORMATS.values():
        example = json.dumps(form.example, ensure_ascii=False)
        parts.append(f"### {form.name}\n\n{_text(form.summary.capitalize())}.\n\n```json\n{example}\n```")
    return "\n\n".join(parts)


def worlds_table() -> str:
    from prefine.worlds import worlds

    rows = [
        [f"`{w.name}`", _text(w.summary), ", ".join(f"`{a}`" for a in w.annotators), "yes" if w.verifier else "",
         ", ".join(f"`{a}`" for a in w.attributes)]
        for w in worlds()
    ]  # fmt: skip
    return table(["world", "what it is", "annotators", "checkable", "gold by aspect"], rows)


def claims_table() -> str:
    claims = _claims()
    if not claims:
        return "`claims.json` is not in this checkout yet; `make claims` writes it."
    rows = []
    for claim in claims.values():
        figures = "; ".join(
            f"{n.replace('_', ' ')} {_number(f.get('mean'))} ± {_number(f.get('std'))}"
            for n, f in claim.get("figures", {}).items()
        )
        number = f"{claim['number']:03d}" if claim.get("number") is not None else ""
        link = f"[`{claim['key']}`](systems/{claim['key']}.md)"
        rows.append([number, link, f"**{claim['verdict']}**", _text(figures), str(len(claim.get("seeds", ())))])
    return table(["no.", "key", "verdict", "figures, mean ± standard deviation over seeds", "seeds"], rows)


def benchmarks_page() -> str:
    path = ROOT / "benchmarks" / "results.json"
    if not path.exists():
        return "`benchmarks/results.json` is not in this checkout yet; `make bench` writes it."
    sys.path.insert(0, str(ROOT))
    try:
        from benchmarks.page import page
    finally:
        sys.path.remove(str(ROOT))
    return page(json.loads(path.read_text()))


GENERATED: Mapping[str, Callable[[], str]] = {
    "systems": systems_table,
    "facets": facets_table,
    "coverage": coverage_table,
    "objectives": factories("prefine.objectives"),
    "wrappers": factories("prefine.objectives", "WRAPPERS", "###"),
    "curators": factories("prefine.curating"),
    "selectors": factories("prefine.selecting"),
    "judges": judges_table,
    "formats": formats_table,
    "worlds": worlds_table,
    "claims": claims_table,
    "benchmarks": benchmarks_page,
}


# --- pieces ---------------------------------------------------------------------------------------------------


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; nothing for no rows."""
    heads, lines = list(heads), [list(row) for row in rows]
    if not lines:
        return ""
    cells = [heads, ["---"] * len(heads), *lines]
    return "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in cells)


def docstring(of: Any, *, verbatim: bool = False, without: Iterable[str] = ()) -> str:
    """A docstring as Markdown: paragraphs as they are, indented equations and examples as code.

    ``verbatim`` keeps line breaks of paragraphs that hold an equation or an example; ``without`` leaves out the
    lines on these options.
    """
    text = inspect.getdoc(of) or ""
    for name in without:
        text = re.sub(rf"^{name}: .*(\n +.*)*\n?", "", text, flags=re.MULTILINE)
    text = text.strip()
    blocks = []
    for block in re.split(r"\n\s*\n", text):
        lines = block.split("\n")
        is_code = lines[0].startswith((">>>", "    ")) or (verbatim and _formula(block))
        code = inspect.cleandoc(block).replace("``", "`")
        blocks.append(f"```text\n{code}\n```" if is_code else _paragraph(block))
    return "\n\n".join(blocks).replace("\n```\n\n```text\n", "\n\n")


def _formula(block: str) -> bool:
    return bool(re.match(r"\s*[A-Za-z_]\w* = ", block))


def _paragraph(block: str) -> str:
    return _text(re.sub(r"``([^`]*)``", r"`\1`", block))


def _text(text: str) -> str:
    """Text that Markdown leaves alone, code in backticks kept."""
    parts = text.split("`")
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r"([*_\[])", r"\\\1", parts[i]).replace("<", "&lt;")
    return "`".join(parts)


def _call(factory: Any) -> str:
    signature = inspect.signature(factory)
    arguments = ", ".join(re.sub(r": [^=]+(= )?", lambda m: "=" if m.group(1) else "", str(p))
                          for p in signature.parameters.values())  # fmt: skip
    return f"{factory.__name__}({arguments})"


def _code(value: Any) -> str:
    return "" if value is None else f"`{value}`"


def _number(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, int | float) else "–"


def _claims() -> dict[str, Mapping[str, Any]]:
    path = ROOT / "claims.json"
    return {row["key"]: row for row in json.loads(path.read_text())} if path.exists() else {}


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build" / "docs"))
