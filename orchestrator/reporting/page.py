"""A report as one HTML page, which needs nothing else, and as Markdown."""

from collections.abc import Sequence
from datetime import datetime
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from orchestrator.reporting.contents import Contents
from orchestrator.reporting.style import to_svg


def to_html(contents: Contents) -> str:
    """One page: figures inline, no script, nothing fetched."""
    here = files("orchestrator.reporting")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string(here.joinpath("page.html.j2").read_text(encoding="utf-8"))
    return template.render(
        contents=contents,
        style=Markup(here.joinpath("page.css").read_text(encoding="utf-8")),
        summary=grouped(contents.summary),
        drawings=[(d, Markup(to_svg(d.figure, d.name, d.words))) for d in contents.drawings],
        made=made(),
    )


def to_markdown(contents: Contents) -> str:
    """For a pull request or a notebook; figures by the names of their files."""
    parts = [f"# {contents.name}", contents.standing, "## In words"]
    parts.append(
        "\n".join(f"{'  ' if line.startswith(' ') else ''}- {line.strip()}" for line in contents.summary)
    )
    for drawing in contents.drawings:
        parts += [f"## {drawing.title}", f"![{drawing.words}]({drawing.name}.png)", drawing.caption]
    for table in contents.tables:
        parts += [f"## {table.title}", table.note, table.markdown()]
    parts.append("## To reproduce")
    parts += [f"{what}:\n\n    {command}" for what, command in contents.commands]
    return "\n\n".join([*parts, made()]) + "\n"


def grouped(lines: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Lines of words, each with the indented ones below it."""
    found: list[tuple[str, list[str]]] = []
    for line in lines:
        if line.startswith(" ") and found:
            found[-1][1].append(line.strip())
        else:
            found.append((line.strip(), []))
    return found


def made() -> str:
    """By what, and when."""
    from orchestrator.process.environment import environment

    version = environment().get("hjepa_sweep", "")
    return f"Drawn by hjepa-sweep {version} on {datetime.now():%Y-%m-%d at %H:%M}."
