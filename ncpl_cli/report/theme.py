"""One look for all figures, and how a drawn figure becomes a file.

The colours are Okabe and Ito's (distinct for all common kinds of colour blindness) without yellow, which vanishes on
white; lines also differ in their dashes. In a page each colour is a CSS variable, so that one drawing is readable on
light and on dark ground.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ncpl_cli.errors import InputError, unknown
from ncpl_cli.output import opened
from ncpl_cli.streams import printable

INK, FAINT, RULE = "#1c2126", "#68727d", "#dde2e7"
"""Text, minor text and marks, grid lines."""

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#b8860b", "#3a9bc9", "#7a5c3e", "#555c66")
DASHES = ("solid", "dashed", "dashdot", "dotted", "solid", "dashed", "dashdot", "dotted")

MOST_LINES = len(COLOURS)
"""More lines in one figure cannot be told apart; the tables have all groups."""

VARIABLES = {INK: "ink", FAINT: "faint", RULE: "rule", **{colour: f"c{i}" for i, colour in enumerate(COLOURS)}}
"""Names of the CSS variables that stand for the colours in a page (report.css gives them for light and dark)."""

FILE_FORMATS = ("pdf", "svg", "png")

_UNDATED: dict[str, dict[str, None]] = {
    "svg": {"Date": None}, "png": {"Software": None}, "pdf": {"CreationDate": None},
}  # fmt: skip
"""What matplotlib would write about the moment and the machine: the same numbers give the same bytes."""

_FONT = ("DejaVu Sans", "Verdana", "sans-serif")  # what it is measured in ships with matplotlib; Verdana is as wide


def theme(width: float, height: float, *, legend: bool = True) -> Any:
    """The plotnine theme: width and height in inches."""
    import plotnine

    p9: Any = plotnine  # only partly typed
    return p9.theme_minimal(base_size=10) + p9.theme(
        figure_size=(width, height),
        text=p9.element_text(color=INK, family="DejaVu Sans"),
        axis_text=p9.element_text(color=FAINT, size=8),
        axis_title=p9.element_text(size=9),
        strip_text=p9.element_text(size=8.5, ha="left", x=0, linespacing=1.2),
        panel_grid_major=p9.element_line(color=RULE, size=0.5),
        panel_grid_minor=p9.element_blank(),
        panel_spacing_x=0.025,
        panel_spacing_y=0.04,
        legend_position="bottom" if legend else "none",
        legend_justification_bottom="left",
        legend_title=p9.element_blank(),
        legend_direction="vertical",
        legend_text=p9.element_text(size=8),
        legend_key_width=28,
        plot_background=p9.element_blank(),
        panel_background=p9.element_blank(),
    )


def scales(groups: Mapping[str, int]) -> list[Any]:
    """Colour, fill and dashes of some groups, each by its place among all: one has the same in every figure."""
    import plotnine

    p9: Any = plotnine
    return [
        p9.scale_colour_manual(values={name: COLOURS[i] for name, i in groups.items()}),
        p9.scale_fill_manual(values={name: COLOURS[i] for name, i in groups.items()}),
        p9.scale_linetype_manual(values={name: DASHES[i] for name, i in groups.items()}),
    ]


def forest(data: Any, aside: float = 0.5, *, marked: bool = True) -> list[Any]:
    """The layers of a forest plot before its axes are turned: a line at 0 where that is marked, the interval from `low`
    to `high` of every row that has one, and its point; rows of one place stand so far aside."""
    import plotnine

    p9: Any = plotnine
    position = p9.position_dodge(width=aside)
    return [
        *([p9.geom_hline(yintercept=0, colour=FAINT, linetype="dotted", size=0.5)] if marked else []),
        p9.geom_linerange(p9.aes(ymin="low", ymax="high"), data=data.dropna(subset=["low", "high"]), position=position,
                          size=0.8),
        p9.geom_point(position=position, size=2.2),
    ]  # fmt: skip


@dataclass(frozen=True)
class Look:
    """How figures for a paper look: the width in inches of its column, its font; None: as in a report."""

    width: float | None = None
    font: str | None = None

    @classmethod
    def read(cls, width: str | None, font: str | None) -> Look:
        """From `3.3in`, `84mm` or `8.4cm`, and the name of an installed font. Raises InputError for anything else."""
        if font is not None:
            from matplotlib import font_manager

            if font not in (known := sorted({one.name for one in font_manager.fontManager.ttflist})):
                raise unknown("font", font, known)
        if width is None:
            return cls(None, font)
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(in|cm|mm)", width)
        inches = float(found[1]) / {"in": 1.0, "cm": 2.54, "mm": 25.4}[found[2]] if found else 0.0
        if not 1 <= inches <= 40:
            raise InputError(f"--width {width} is no width of a figure.", "write 3.3in, 8.4cm or 84mm")
        return cls(inches, font)

    def of(self, plot: Any) -> Any:
        """The plot in this look; a narrower one keeps the size of its letters and more of its height."""
        import plotnine

        p9: Any = plotnine
        if self.width is not None:
            wide, tall = plot.theme.getp("figure_size")
            plot = plot + p9.theme(figure_size=(self.width, tall * (self.width / wide) ** 0.5))
        return plot if self.font is None else plot + p9.theme(text=p9.element_text(family=self.font, color=INK))


@contextmanager
def drawn(plot: Any, look: Look | None = None) -> Iterator[Any]:
    """A plotnine figure as a matplotlib figure, closed afterwards. Labels are text: `$` in a run's name is a dollar.

    PDFs hold their letters as TrueType, which journals ask for.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.text import Text

    settings: Any = {
        "svg.hashsalt": "ncpl", "svg.fonttype": "none", "text.parse_math": False, "font.family": [_FONT[0]],
        "pdf.fonttype": 42,
    }  # fmt: skip
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a name in another script: the viewer has it
        warnings.filterwarnings("ignore", category=UserWarning, module="plotnine")  # rows without a value, left out
        figure = (look.of(plot) if look else plot).draw()
        for text in figure.findobj(Text):  # no picture can hold a control character
            if (shown := printable(text.get_text())) != text.get_text():
                text.set_text(shown)
        try:
            yield figure
        finally:
            pyplot.close(figure)


def save(figure: Any, path: str | Path, kind: str) -> None:
    """Write a drawn figure into a file. Raises StoreError where it cannot be written."""
    # no background is drawn, for the sake of dark pages; a file stands on white
    with opened(path) as file:
        figure.savefig(file, format=kind, dpi=200, facecolor="white", bbox_inches="tight", metadata=_UNDATED[kind])


def page_svg(figure: Any, name: str, title: str) -> str:
    """A drawn figure as inline SVG for a page with a strict content security policy.

    No style attributes (presentation attributes instead), no ids but those referred to (made unique by `name`),
    theme colours as CSS variables, no background.
    """
    written = StringIO()
    figure.savefig(written, format="svg", transparent=True, bbox_inches="tight", metadata=_UNDATED["svg"])
    text = written.getvalue()
    space = "http://www.w3.org/2000/svg"
    ElementTree.register_namespace("", space)
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    root = ElementTree.fromstring(text[text.index("<svg") :])
    referred = set(re.findall(r"#([\w.-]+)[\")]", text))
    for parent in reversed(list(root.iter())):
        for child in list(parent):
            if child.tag.endswith(("metadata", "}style")) or (child.tag == f"{{{space}}}g" and not len(child)):
                parent.remove(child)
    for element in root.iter():
        for key, value in _declarations(element.attrib.pop("style", "")):
            element.set(key, value)
        if element.get("transform", "").startswith("rotate(-0 "):
            del element.attrib["transform"]
        if path := element.get("d"):  # a hundredth of a point cannot be seen, and is half the size
            short = re.sub(r"-?\d+\.\d+", lambda n: f"{float(n[0]):.2f}".rstrip("0").rstrip("."), path)
            element.set("d", re.sub(r"\s+", " ", short.replace(" L ", " ").replace("\nL ", " ")).strip())
            _as_a_dot(element)
        for key, value in list(element.attrib.items()):
            if key == "id":
                if value in referred:
                    element.set(key, f"{name}-{value}")
                else:
                    del element.attrib[key]
            elif "#" in value:
                if value.lower() in VARIABLES:
                    element.set(key, f"var(--{VARIABLES[value.lower()]})")
                else:
                    element.set(key, re.sub(r"#([\w.-]+)", rf"#{name}-\1", value) if _refers(key, value) else value)
        if element.tag == f"{{{space}}}text" and "fill" not in element.attrib:
            element.set("fill", f"var(--{VARIABLES[INK]})")
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    if found := _panels(figure):
        whole = next(child for child in root if child.tag == f"{{{space}}}g")
        whole.set("id", f"{name}-all")
        root.set("data-panels", ";".join(",".join(f"{n:.0f}" for n in box) for box in found))
    root.set("role", "img")
    root.set("aria-label", title)
    return ElementTree.tostring(root, encoding="unicode")


Box = tuple[float, ...]
"""x, y, width, height in the units of a page's SVG."""


def _panels(figure: Any) -> list[Box]:
    """Where the panels of a figure of several columns lie, one after the other, and last what stands below them all.

    A narrow page shows them stacked, each as wide as the page. A panel takes its tick labels on the left and its title
    above; what follows the lowest row are the horizontal axis's title and the legend.
    """
    axes = [ax for ax in figure.axes if ax.get_visible()]
    columns = sorted({round(ax.get_position().x1, 3) for ax in axes})
    rows = sorted({round(ax.get_position().y0, 3) for ax in axes}, reverse=True)
    if len(columns) < 2:
        return []
    around = figure.get_tightbbox().padded(0.1)  # inches; as bbox_inches="tight" cuts it
    wide, tall = figure.get_size_inches()

    def right(share: float) -> float:
        return float((share * wide - around.x0) * 72)

    def down(share: float) -> float:
        return float((around.y1 - share * tall) * 72)

    ticks = 16.0
    whole_width, whole_height = around.width * 72, around.height * 72
    boxes: list[Box] = []
    for ax in axes:
        place = ax.get_position()
        before = [x for x in columns if x < place.x0]
        above = [y for y in rows if y > place.y1]
        x0 = right(max(before)) + 3 if before else 0.0
        y0 = down(min(above)) + 3 if above else 0.0
        lowest = round(place.y0, 3) == rows[-1]
        boxes.append(
            (x0, y0, min(right(place.x1) + 8, whole_width) - x0, down(place.y0) + (ticks if lowest else 3) - y0)
        )
    foot = down(rows[-1]) + ticks
    if whole_height - foot > 8:
        boxes.append((0.0, foot, whole_width * (0.62 if whole_height - foot > 40 else 1.0), whole_height - foot))
    return boxes


def panels_of(svg: str) -> tuple[str, list[Box]]:
    """A page's SVG and where its panels lie (see `page_svg`), none where it is not to be stacked."""
    found = re.search(r' data-panels="([^"]*)"', svg)
    if found is None:
        return svg, []
    boxes = [tuple(float(n) for n in box.split(",")) for box in found[1].split(";")]
    return svg.replace(found[0], "", 1), boxes


_CIRCLE = re.compile(r"M (\S+) (\S+)(?: C(?: \S+){6}){8} z")


def _as_a_dot(element: ElementTree.Element) -> None:
    """A filled circle (eight curves) as the round end of a line of no length: a quarter of the size."""
    colour = element.get("fill")
    found = _CIRCLE.fullmatch(element.get("d", ""))
    if found is None or colour is None or colour != element.get("stroke", colour):
        return
    numbers = [float(n) for n in re.findall(r"-?[\d.]+", found[0])]
    xs, ys = numbers[0::2], numbers[1::2]
    across = max(xs) - min(xs)
    if abs(across - (max(ys) - min(ys))) > 0.05:
        return
    edge = float(element.get("stroke-width", 1)) if element.get("stroke") else 0.0
    opacity = element.get("fill-opacity")
    for key in ("fill-opacity", "clip-path", "stroke-linejoin"):  # points lie within their panel
        element.attrib.pop(key, None)
    element.set("d", f"M {(min(xs) + max(xs)) / 2:.2f} {(min(ys) + max(ys)) / 2:.2f} h0")
    element.attrib |= {
        "fill": "none",
        "stroke": colour,
        "stroke-width": f"{across + edge:.2f}",
        "stroke-linecap": "round",
    }
    if opacity is not None:
        element.set("stroke-opacity", opacity)


def _refers(key: str, value: str) -> bool:
    return key.endswith("href") or "url(" in value


def _declarations(style: str) -> Iterator[tuple[str, str]]:
    """CSS declarations as presentation attributes; the shorthand `font` is none and is taken apart."""
    for declaration in style.split(";"):
        key, _, value = (part.strip() for part in declaration.partition(":"))
        if key == "font":
            size = re.search(r"([\d.]+)px", value)
            yield "font-size", f"{size[1]}px" if size else "10px"
        if key in ("font", "font-family"):
            yield "font-family", ", ".join(_FONT)
        elif key:
            yield key, value
