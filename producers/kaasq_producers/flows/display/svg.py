"""A few shapes of SVG, in light and dark. ElementTree escapes whatever text comes to stand in them."""

from __future__ import annotations

from xml.etree import ElementTree as ET

COLOURS: dict[str, tuple[str, str]] = {
    "paper": ("#ffffff", "#14171a"),
    "ink": ("#1f2328", "#e6e8ea"),
    "faint": ("#59636e", "#a3abb3"),
    "line": ("#d8dde2", "#343a40"),
    "band": ("#f4f6f8", "#1b1f23"),
    # parts of an item's time: apart also for those who see few colours, since they differ in lightness, too
    "queued": ("#838b94", "#8b939c"),
    "load": ("#8e5ba6", "#c39bd8"),
    "h2d": ("#0b62a8", "#62b0ee"),
    "kernel": ("#d97300", "#ffae42"),
    "d2h": ("#00806a", "#41d1b0"),
    "between": ("#868f98", "#6b747d"),
    "commit": ("#5b4a3f", "#cdb9a5"),
    # states
    "completed": ("#1a7f37", "#3fb950"),
    "running": ("#0969da", "#58a6ff"),
    "failed": ("#c62828", "#ff7b72"),
    "expired": ("#c62828", "#ff7b72"),
    "cancelled": ("#946200", "#d8a322"),
    "skipped": ("#59636e", "#a3abb3"),
    "waiting": ("#59636e", "#a3abb3"),
}
"""By class, on light and on dark paper."""

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
CHARACTER = 0.56  # of the font's size: how wide one is on the average


def picture(width: float, height: float, title: str, description: str) -> ET.Element:
    """An empty one, described for those who do not see it."""
    made = ET.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {width:g} {height:g}",
            "width": f"{width:g}",
            "height": f"{height:g}",
            "role": "img",
            "aria-labelledby": "kaasq-title kaasq-desc",
            "font-family": FONT,
        },
    )
    ET.SubElement(made, "title", {"id": "kaasq-title"}).text = title
    ET.SubElement(made, "desc", {"id": "kaasq-desc"}).text = description
    dark = "".join(f".f-{name}{{fill:{colour}}}.s-{name}{{stroke:{colour}}}" for name, (_, colour) in COLOURS.items())
    ET.SubElement(made, "style").text = f"@media (prefers-color-scheme:dark){{{dark}}}"
    rect(made, 0, 0, width, height, "paper")
    return made


def group(parent: ET.Element, hover: str) -> ET.Element:
    """A group that says something when pointed at."""
    made = ET.SubElement(parent, "g")
    ET.SubElement(made, "title").text = hover
    return made


def rect(
    parent: ET.Element, x: float, y: float, width: float, height: float, colour: str, outline: str | None = None
) -> ET.Element:
    """A filled rectangle, or with ``outline`` an outlined one, too."""
    place = {"x": _number(x), "y": _number(y), "width": _number(width), "height": _number(height)}
    names = f"f-{colour}"
    colours = {"fill": COLOURS[colour][0]}
    if outline is not None:
        names += f" s-{outline}"
        colours["stroke"] = COLOURS[outline][0]
    return ET.SubElement(parent, "rect", {**place, "class": names, **colours})


def line(parent: ET.Element, x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1) -> ET.Element:
    """A straight one."""
    place = {"x1": _number(x1), "y1": _number(y1), "x2": _number(x2), "y2": _number(y2)}
    paint = {"class": f"s-{colour}", "stroke": COLOURS[colour][0], "stroke-width": _number(width)}
    return ET.SubElement(parent, "line", place | paint)


def words(
    parent: ET.Element,
    x: float,
    y: float,
    text: str,
    *,
    size: float = 11,
    colour: str = "ink",
    anchor: str = "start",
    bold: bool = False,
    room: float | None = None,
) -> ET.Element:
    """Text from ``x`` on its base line ``y``, cut to about ``room``."""
    if room is not None:
        most = max(1, int(room / (size * CHARACTER)))
        text = text if len(text) <= most else text[: most - 1] + "…"
    look = {"font-size": _number(size), "class": f"f-{colour}", "fill": COLOURS[colour][0]}
    if anchor != "start":
        look["text-anchor"] = anchor
    if bold:
        look["font-weight"] = "bold"
    made = ET.SubElement(parent, "text", {"x": _number(x), "y": _number(y)} | look)
    made.text = text
    return made


def cross(parent: ET.Element, x: float, y: float, colour: str, reach: float = 3.5) -> None:
    """What failed."""
    line(parent, x - reach, y - reach, x + reach, y + reach, colour, 1.8)
    line(parent, x - reach, y + reach, x + reach, y - reach, colour, 1.8)


def width_of(text: str, size: float) -> float:
    """About how wide text is."""
    return len(text) * size * CHARACTER


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
