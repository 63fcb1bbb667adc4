"""The HTML page around a timeline: the picture, and the same in figures for those who do not see it."""

from __future__ import annotations

from collections import defaultdict
from xml.etree import ElementTree as ET

from kaasq.flows.model import FlowStatus
from kaasq.units import duration, moment
from kaasq_producers.flows.display.bars import Bar, bar_of
from kaasq_producers.flows.display.svg import COLOURS, FONT
from kaasq_producers.flows.display.words import PARTS, count_words, error_words, plainly, state_word, tally

MOST_STEPS = 1000
_TONES = ("paper", "ink", "faint", "line", "failed")
_STYLE = (
    f"body{{margin:1.5rem auto;max-width:1240px;padding:0 1rem;font-family:{FONT};"
    "background:var(--paper);color:var(--ink)}"
    "h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem}"
    # the drawing shrinks with the window as long as its text can be read, then it scrolls
    ".drawing{overflow-x:auto}.drawing svg{display:block;width:100%;max-width:1200px;min-width:56rem;height:auto}"
    "table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums}"
    "caption{text-align:left;color:var(--faint);padding:.5rem 0}"
    "th,td{text-align:right;padding:.25rem .6rem;border-bottom:1px solid var(--line);vertical-align:top}"
    "td{white-space:nowrap}tbody th{max-width:20rem;overflow-wrap:anywhere}"
    ".told>*{border-bottom:0}td.error{padding-top:0;white-space:normal}"
    "th:first-child,td:first-child,.left{text-align:left}"
    ".error{color:var(--failed);overflow-wrap:anywhere}.faint{color:var(--faint)}"
    "@media print{.drawing{overflow:visible}}"
)


def page(status: FlowStatus, drawing: ET.Element, now_ms: int) -> str:
    """One HTML document. Nothing is fetched, and no script could run: its policy forbids both."""
    root = ET.Element("html", {"lang": "en"})
    name = plainly(status.name)
    head = ET.SubElement(root, "head")
    ET.SubElement(head, "meta", {"charset": "utf-8"})
    policy = {"http-equiv": "Content-Security-Policy", "content": "default-src 'none'; style-src 'unsafe-inline'"}
    ET.SubElement(head, "meta", policy)
    ET.SubElement(head, "meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"})
    ET.SubElement(head, "meta", {"name": "color-scheme", "content": "light dark"})
    ET.SubElement(head, "title").text = f"{name}: {status.state}"
    ET.SubElement(head, "style").text = _tones(0) + f"@media (prefers-color-scheme:dark){{{_tones(1)}}}" + _STYLE
    body = ET.SubElement(ET.SubElement(root, "body"), "main")
    ET.SubElement(body, "h1").text = f"Workflow {name}: {status.state}"
    about = f"{plainly(status.id)}, started {moment(status.started_ms)}"
    lasted = duration(max(0, (now_ms if status.ended_ms is None else status.ended_ms) - status.started_ms) * 1000)
    verb = "has run for" if status.ended_ms is None else "took"
    ET.SubElement(body, "p").text = f"{about}, {verb} {lasted}; {tally(status)}."
    if status.error is not None:
        ET.SubElement(body, "p", {"class": "error"}).text = error_words(status.error)
    # with the keyboard, too, a picture that is wider than the window can be moved
    holder = {"class": "drawing", "tabindex": "0", "role": "region", "aria-label": "Timeline"}
    ET.SubElement(body, "div", holder).append(drawing)
    ET.SubElement(body, "h2").text = "In figures"
    _table(body, status, now_ms)
    return "<!DOCTYPE html>\n" + ET.tostring(root, encoding="unicode", method="html")


def _table(body: ET.Element, status: FlowStatus, now_ms: int) -> None:
    bars: dict[str, list[Bar]] = defaultdict(list)
    for bar in filter(None, map(bar_of, status.items)):
        bars[bar.item.step].append(bar)
    parts = [part for part in PARTS if any(bar.lengths[part] for those in bars.values() for bar in those)]
    heads = ["Step", "State", "Items", "Due after", "Took"]
    heads += ["Runs"] if any(each.runs for each in status.steps) else []
    heads += ["Queued", *(PARTS[part].capitalize() for part in parts)] if bars else []
    table = ET.SubElement(ET.SubElement(body, "div", {"class": "drawing", "tabindex": "0"}), "table")
    caption = (
        "Parts of the time are those of all items of a map together. "
        "Between: on the worker, but neither loading, copying, computing nor committing."
    )
    if len(status.steps) > MOST_STEPS:
        caption += f" {len(status.steps) - MOST_STEPS} more steps are not listed."
    if status.more:
        caption += f" Of the items, the first {len(status.items)} are counted."
    ET.SubElement(table, "caption").text = caption
    row = ET.SubElement(ET.SubElement(table, "thead"), "tr")
    for number, each in enumerate(heads):
        ET.SubElement(row, "th", {"scope": "col"} | ({"class": "left"} if number == 1 else {})).text = each
    rows = ET.SubElement(table, "tbody")
    for step in status.steps[:MOST_STEPS]:
        row = ET.SubElement(rows, "tr", {} if step.error is None else {"class": "told"})
        ET.SubElement(row, "th", {"scope": "row"}).text = plainly(step.name)
        ET.SubElement(row, "td", {"class": "left"}).text = state_word(step)
        due = took = ""
        if step.since_ms is not None:
            due = duration(max(0, step.since_ms - status.started_ms) * 1000)
            took = duration(max(0, (now_ms if step.ended_ms is None else step.ended_ms) - step.since_ms) * 1000)
        those = bars[step.name]
        sums = [sum(bar.queued_us for bar in those), *(sum(bar.lengths[part] for bar in those) for part in parts)]
        runs = [str(step.runs or "")] if "Runs" in heads else []
        shown = [count_words(step), due, took, *runs, *(duration(each) if those else "" for each in sums)]
        for said in shown[: len(heads) - 2]:
            ET.SubElement(row, "td").text = said
        if step.error is not None:  # in a row of its own: beside the figures it would leave them no room
            told = ET.SubElement(ET.SubElement(rows, "tr"), "td", {"class": "left error", "colspan": str(len(heads))})
            told.text = error_words(step.error)


def _tones(which: int) -> str:
    return ":root{" + "".join(f"--{name}:{COLOURS[name][which]};" for name in _TONES) + "}"
