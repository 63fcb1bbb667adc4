"""How a workflow is shown: as a tree in the terminal, a timeline, a trace. Of statuses that no worker had to make."""

from __future__ import annotations

import io
import itertools
import json
import re
from collections import defaultdict
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import msgspec
import pytest
from rich.cells import cell_len
from rich.console import Console

from kaasq.flows.model import FlowStatus, ItemStatus
from kaasq.messages import ErrorBody, Repeated, Timings, WorkerInfo
from kaasq_producers.flows.display.axis import Axis
from kaasq_producers.flows.display.bars import EXACT_US, bar_of, lanes
from kaasq_producers.flows.display.outline import outline
from kaasq_producers.flows.display.svg import COLOURS
from kaasq_producers.flows.display.timeline import html, svg
from kaasq_producers.flows.display.trace import trace
from kaasq_producers.flows.display.tree import tree
from kaasq_producers.flows.display.words import PARTS
from tests.support.flow_statuses import GPUS, STARTED_MS, chain, flow, item, step, tiles

NOW_MS = STARTED_MS + 1000
HOSTILE = "</title></style><script>alert(1)</script>\x1b[31m\x00\u202e\ud800 \"'&amp;\nnext]]>"
SVG = "{http://www.w3.org/2000/svg}"


def hostile() -> FlowStatus:
    worker = WorkerInfo(host=HOSTILE, pid=1, device=HOSTILE)
    error = ErrorBody(code=HOSTILE, message=HOSTILE, detail={"step": HOSTILE})
    timings = Timings(kernel=900_000, total=900_000)
    lost = ItemStatus(step=HOSTILE, item=1, id=HOSTILE, state="failed", ended_ms=STARTED_MS + 950, error=error)
    first = step(HOSTILE, HOSTILE, state="failed", ms=990, map=HOSTILE, items=2, completed=1, failed=1, error=error)
    items = (item(HOSTILE, 1, 950, timings, worker, id=HOSTILE), lost)
    return flow(first, step("b", HOSTILE, "nobody"), items=items, state="failed", name=HOSTILE, id=HOSTILE, error=error)


def nonsense() -> FlowStatus:
    """Numbers that no worker gives."""
    worker = GPUS[0]
    items = (
        item("a", 1, 2**52 - STARTED_MS, Timings(total=2**52, queued=2**53), worker),
        item("a", 1, 5, Timings(total=-5, kernel=-7), worker),
        item("a", 1, 5, Timings(kernel=700_000, total=3), worker),
        item("lost", 1, 5, Timings(kernel=7, total=30), worker),
    )
    made = flow(step("a", at_ms=-500, ms=100), step("c", at_ms=50, ms=-20), step("b", at_ms=2**52 - STARTED_MS))
    return msgspec.structs.replace(made, items=items, deadline_ms=0, more=True)


STATUSES = {
    "nothing": flow(),
    "waiting": flow(step("a", state="waiting"), state="running"),
    "one": flow(step("a")),
    "three": tiles(3),
    "running": tiles(100, running=True, failed=2),
    "failed": tiles(100, failed=3),
    "thousand": tiles(1000, slots=40, failed=7),
    "chain": chain(200),
    "hostile": hostile(),
    "nonsense": nonsense(),
    "circle": flow(step("a", "b"), step("b", "a")),
}
any_status = pytest.mark.parametrize("status", STATUSES.values(), ids=STATUSES.keys())


def printed(status: FlowStatus, width: int = 80, *, terminal: bool = False, items: int = 0) -> str:
    written = io.StringIO()
    Console(file=written, width=width, force_terminal=terminal, color_system="standard" if terminal else None).print(
        tree(status, items=items, now_ms=NOW_MS)
    )
    return written.getvalue()


# -------------------------------------------------------------------------------------------------------------- tree


@any_status
@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_tree_has_a_line_for_each_step_within_the_width(status: FlowStatus, width: int) -> None:
    lines = printed(status, width, items=3).splitlines()
    assert max(map(cell_len, lines)) <= width
    assert len(lines) >= len(status.steps)
    assert "\x1b" not in "".join(lines)
    assert all(line.isprintable() for line in lines)


def test_the_tree_is_coloured_on_a_terminal_only_and_says_the_same_without() -> None:
    coloured = printed(tiles(3), terminal=True)
    assert "\x1b[" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == printed(tiles(3))


def test_the_tree_tells_states_counts_times_tries_devices_and_the_first_error() -> None:
    cut, blur, join = (re.split(r"  +", line.rstrip()) for line in printed(tiles(100, failed=2), 120).splitlines()[4:7])
    assert cut == ["cut", "completed", "+0 µs", "8.00 ms", "cuda:0"]
    assert blur[:4] == ["↓ blur", "failed", "98/100 (2 failed)", "+8.00 ms"]
    assert blur[5:] == ["3", "cuda:0, cuda:1"]
    assert join[:2] == ["↓ join", "not run"]


def test_the_first_error_is_whole_and_others_are_lines_of_their_own() -> None:
    long = ErrorBody(code="kernel_failed", message="step 'a', item 0: " + "long " * 40, detail={"step": "a"})
    follows = step("b", "a", state="failed", error=long)
    own = ErrorBody(code="out_of_memory", message="step 'c': " + "much " * 40, detail={"step": "c"})
    failed = flow(step("a", state="failed", error=long), follows, step("c", state="failed", error=own), error=long)
    lines = printed(failed).splitlines()
    errors = lines[lines.index("steps: 2 failed, 1 not run") + 5 :]
    assert " ".join(errors[:-2]).replace("  ", " ").strip() == f"kernel_failed: {long.message}".strip()
    assert errors[-2].startswith("out_of_memory: step 'c': much much")
    assert errors[-2].endswith("…")
    assert errors[-1] == "not run, since step 'a' failed: b"
    assert "b: not run" in svg(failed, now_ms=NOW_MS)
    assert ">not run<" in html(failed, now_ms=NOW_MS)


def test_a_step_that_failed_itself_after_another_one_had_is_no_step_that_did_not_run() -> None:
    error = ErrorBody(code="kernel_failed", message="step 'a', item 0: lost", detail={"step": "a"})
    partly = step("b", "a", state="failed", map="m", items=2, completed=1, failed=1, error=error)
    assert "steps: 2 failed" in printed(flow(step("a", state="failed", error=error), partly, error=error))


def test_how_often_a_loop_ran_is_shown_of_steps_and_items() -> None:
    took = Timings(kernel=900, total=1000)
    items = (
        item("solve", 1, 10, took, repeat=Repeated(runs=11, held=True)),
        item("each", 2, 10, took, item=0, repeat=Repeated(runs=7, held=True)),
        item("each", 3, 10, took, item=1, repeat=Repeated(runs=50, held=False)),
    )
    looped = flow(step("solve", runs=11), step("each", map="m", items=2, completed=2, runs=57), step("c"), items=items)
    lines = [re.split(r"  +", line.strip()) for line in printed(looped, 120, items=2).splitlines()[3:]]
    runs = lines[0].index("RUNS")
    assert [line[0] for line in lines if "11" in line] == ["solve"]
    assert [line[0] for line in lines if "57" in line] == ["each"]
    assert [line[0] for line in lines if "50 (most)" in line] == ["[1]"]
    assert runs == len(lines[0]) - 2  # before the device
    assert [each.text for each in ET.fromstring(table_of(html(looped, now_ms=NOW_MS))).iter("th")][5] == "Runs"
    assert "runs 50 (most)" in svg(looped, now_ms=NOW_MS)
    assert {each["args"].get("runs") for each in trace(looped)["traceEvents"] if each.get("cat") == "kernel"} == {
        11,
        7,
        50,
    }


def table_of(page: str) -> str:
    return page[page.index("<table>") : page.index("</table>")] + "</table>"


def test_many_devices_are_counted() -> None:
    workers = [WorkerInfo(host="node", pid=number, device=f"cuda:{number % 4}") for number in range(8)]
    items = tuple(item("a", 1, 10, Timings(total=9000), worker) for worker in workers)
    assert "4 devices" in printed(flow(step("a", map="m", items=8, completed=8), items=items))


def test_items_that_failed_are_listed_first() -> None:
    listed = [line.split()[:2] for line in printed(tiles(9, failed=1), items=2).splitlines() if "[" in line]
    assert listed == [["[0]", "failed"], ["[1]", "completed"]]


def test_of_a_running_workflow_the_tree_says_for_how_long_and_how_long_it_may() -> None:
    assert "running for 1.00 s (60.0 s at most)" in printed(tiles(9, running=True))


def names(*steps: str) -> list[str]:
    made = [step(*each.split()) for each in steps]
    return [f"{line.before}{line.step.name}" + "".join(f" +{each}" for each in line.after) for line in outline(made)]


def test_what_follows_alone_goes_on_below_and_branches_are_set_in() -> None:
    assert names("a", "b a", "c b") == ["a", "↓ b", "↓ c"]
    assert names("a", "b a", "c a") == ["a", "├─ b", "└─ c"]
    assert names("a", "b a", "c a", "d c") == ["a", "└─ b", "↓ c", "↓ d"]


def test_a_join_stands_under_its_fork_and_names_what_it_waits_for() -> None:
    assert names("a", "b a", "c a", "d b c", "e d") == ["a", "├─ b", "└─ c", "↓ d +b +c", "↓ e"]
    assert names("a", "b", "c a b") == ["a", "b", "c +a +b"]


def test_what_a_step_waits_for_anyhow_is_not_named() -> None:
    assert names("a", "b a", "c a b") == ["a", "↓ b", "↓ c"]


def test_steps_may_stand_in_any_order() -> None:
    assert names("c b", "b a", "a") == ["a", "↓ b", "↓ c"]


@pytest.mark.parametrize(
    "waits",
    [
        lambda number: [f"s{number - 1}"],  # a chain
        lambda number: [f"s{(number - 1) // 2}"],  # each followed by two
        lambda number: [f"s{number - 1 if number % 2 else max(0, number - 2)}"],  # a comb
        lambda number: ["s0"],
        lambda number: [f"s{each}" for each in range(number)],
    ],
)
def test_two_hundred_steps_have_few_levels(waits) -> None:
    lines = outline([step("s0"), *(step(f"s{number}", *waits(number)) for number in range(1, 200))])
    assert sorted(line.step.name for line in lines) == sorted(f"s{number}" for number in range(200))
    assert max(len(line.before) for line in lines) <= 3 * 8


# -------------------------------------------------------------------------------------------------------------- bars


def test_a_bar_is_as_long_as_its_total_and_ends_as_the_item_ended() -> None:
    timings = Timings(queued=2000, load=300, h2d=2500, kernel=1200, d2h=900, commit=800, total=8000)
    bar = bar_of(item("a", 1, 8, timings))
    assert bar is not None
    zero = STARTED_MS * 1000
    assert (bar.begin_us - bar.queued_us, bar.end_us) == (zero, zero + 8000)
    assert [(name, begin - zero, length) for name, begin, length in bar.parts()] == [
        ("load", 2000, 300),
        ("h2d", 2300, 2500),
        ("kernel", 4800, 1200),
        ("d2h", 6000, 900),
        ("between", 6900, 300),
        ("commit", 7200, 800),
    ]


def test_what_is_not_known_to_have_run_has_no_bar() -> None:
    assert bar_of(ItemStatus(step="a", state="running")) is None
    assert bar_of(item("a", 1, 8, Timings(queued=5))) is None


def test_workers_have_lanes_and_what_overlaps_rows() -> None:
    timings = Timings(kernel=10_000, total=10_000)
    items = [item("a", 1, 10, timings), item("a", 2, 14, timings), item("a", 3, 20, timings)]
    one, other = lanes([item("a", 4, 10, timings, GPUS[1]), *items])
    assert (one.worker, other.worker) == (GPUS[0], GPUS[1])
    assert [[bar.item.number for bar in row] for row in one.rows] == [[1, 3], [2]]
    assert [len(lane.rows) for lane in lanes(items, most_rows=1)] == [1]
    assert [lane.left_out for lane in lanes(items, most_rows=1)] == [1]


@any_status
def test_no_two_bars_of_a_row_overlap_and_none_moves_by_more_than_ends_are_exact(status: FlowStatus) -> None:
    for lane in lanes(status.items):
        for row in lane.rows:
            assert all(one.end_us <= other.begin_us for one, other in itertools.pairwise(row))
            for bar in row:
                there = bar_of(bar.item)
                assert there is not None
                assert 0 <= bar.begin_us - there.begin_us <= EXACT_US


# ---------------------------------------------------------------------------------------------------------- timeline


@any_status
def test_the_svg_is_well_formed_described_and_within_its_bounds(status: FlowStatus) -> None:
    root = ET.fromstring(svg(status, now_ms=NOW_MS))
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    assert {each.attrib["id"] for each in root if each.tag in {f"{SVG}title", f"{SVG}desc"}} == set(
        root.attrib["aria-labelledby"].split()
    )
    for each in root.iter(f"{SVG}rect"):
        x, y, wide, high = (float(each.attrib[name]) for name in ("x", "y", "width", "height"))
        assert wide > 0
        assert high > 0
        assert -10 <= x <= x + wide <= width + 10
        assert 0 <= y <= y + high <= height


def test_copies_and_kernels_are_drawn_in_proportion_and_told_when_pointed_at() -> None:
    timings = Timings(queued=10_000, h2d=20_000, kernel=50_000, d2h=15_000, commit=5_000, total=100_000)
    root = ET.fromstring(svg(flow(step("a", ms=100), items=(item("a", 1, 100, timings),)), now_ms=NOW_MS))
    drawn = next(each for each in root.iter(f"{SVG}g") if "copy in" in (each.findtext(f"{SVG}title") or ""))
    assert drawn.findtext(f"{SVG}title") == (
        "a: completed (flow+1)\nqueued 10.0 ms\ncopy in 20.0 ms\nkernel 50.0 ms\ncopy out 15.0 ms\ncommit 5.00 ms"
    )
    found = {each.attrib["class"]: float(each.attrib["width"]) for each in drawn.iter(f"{SVG}rect")}
    assert {name: round(width / found["f-kernel"], 2) for name, width in found.items()} == {
        "f-queued": 0.2,
        "f-h2d": 0.4,
        "f-kernel": 1.0,
        "f-d2h": 0.3,
        "f-commit": 0.1,
    }


def test_states_are_words_and_what_failed_has_a_cross() -> None:
    drawn = svg(tiles(100, failed=3), now_ms=NOW_MS)
    assert "failed 97/100 (3 failed)" in drawn
    assert "blur[0]: failed, kernel_failed: an illegal memory access" in drawn
    assert ">skipped<" in svg(flow(step("a", state="skipped")), now_ms=NOW_MS)


def test_a_picture_does_not_grow_with_what_cannot_be_seen() -> None:
    timings = Timings(kernel=80, total=80)
    many = tuple(item("a", number, number // 10, timings) for number in range(20_000))
    drawn = svg(flow(step("a", ms=2000, map="m", items=20_000, completed=20_000), items=many), now_ms=NOW_MS)
    assert len(drawn) < 500_000
    assert re.search(r"\d+ items of a, in all:", drawn)


def test_what_is_left_out_is_said() -> None:
    assert "50 more steps are not drawn" in svg(chain(300), now_ms=NOW_MS)
    workers = [WorkerInfo(host="node", pid=pid, device="cpu") for pid in range(40)]
    items = tuple(item("a", 1, 10, Timings(total=9000), worker) for worker in workers)
    assert "8 more workers are not drawn" in svg(flow(step("a"), items=items), now_ms=NOW_MS)
    assert "beside 12 others on their worker are not drawn" in svg(tiles(100, slots=40), now_ms=NOW_MS)
    assert "more than these" in svg(nonsense(), now_ms=NOW_MS)


@pytest.mark.parametrize(
    ("span_us", "said"),
    [
        (8, ["0", "1 µs", "2 µs"]),
        (30_000, ["0", "5 ms", "10 ms"]),
        (8_000_000, ["0", "1 s", "2 s"]),
        (100_000_000, ["0", "15 s", "30 s", "45 s", "1:00 min", "1:15 min"]),
        (3 * 3_600_000_000, ["0", "30:00 min", "1:00 h"]),
        (40 * 86_400_000_000, ["0", "5 d"]),
    ],
)
def test_ticks_are_round_and_few(span_us: int, said: list[str]) -> None:
    ticks = Axis(0, 0, span_us, 0, 100).ticks()
    assert [words for _, words in ticks][: len(said)] == said
    assert 3 <= len(ticks) <= 10


def test_time_before_the_start_is_negative() -> None:
    assert Axis(5000, 0, 10_000, 0, 100).ticks()[:3] == [(10.0, "-4 ms"), (30.0, "-2 ms"), (50.0, "0")]


def contrast(one: str, other: str) -> float:
    """As WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        shares = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_shapes_and_text_stand_out_from_the_paper(mode: int) -> None:
    papers = COLOURS["paper"][mode], COLOURS["band"][mode]
    for name, colours in COLOURS.items():
        if name not in {"paper", "band", "line"}:
            least = 3.0 if name in {"queued", *PARTS} else 4.5
            assert all(contrast(colours[mode], paper) >= least for paper in papers), name


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


@any_status
def test_the_page_fetches_and_runs_nothing(status: FlowStatus) -> None:
    page = _Page()
    page.feed(html(status, now_ms=NOW_MS))
    assert {tag for tag, _ in page.tags} <= {
        *(
            "html",
            "head",
            "meta",
            "title",
            "style",
            "body",
            "main",
            "h1",
            "h2",
            "p",
            "div",
            "table",
            "caption",
            "thead",
        ),
        *("tbody", "tr", "th", "td", "svg", "desc", "g", "rect", "line", "text"),
    }
    for _, attributes in page.tags:
        assert not {"src", "href", "srcset"} & attributes.keys()
        assert not [name for name in attributes if name.startswith("on")]
    policy = next(attributes for _, attributes in page.tags if "http-equiv" in attributes)
    assert policy["content"] == "default-src 'none'; style-src 'unsafe-inline'"


def test_what_is_hostile_is_shown_as_it_is_written() -> None:
    for document in (svg(hostile(), now_ms=NOW_MS), html(hostile(), now_ms=NOW_MS)):
        document.encode("utf-8")
        assert "<script" not in document
        assert "&lt;script&gt;" in document
        assert not set(document) & set("\x00\x1b\u202e")
        assert document.count("</title>") == document.count("<title")
        assert document.count("</style>") == document.count("<style")


# ------------------------------------------------------------------------------------------------------------- trace


@any_status
def test_the_trace_keeps_to_the_format(status: FlowStatus) -> None:
    made = trace(status, now_ms=NOW_MS)
    events = json.loads(json.dumps(made, allow_nan=False))["traceEvents"]
    assert events[0] == {"ph": "M", "name": "process_name", "pid": 1, "tid": 0, "args": events[0]["args"]}
    threads: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    named = {(each["pid"], each["tid"]) for each in events if each["name"] == "thread_name"}
    ends: dict[tuple[str, object], list[dict]] = defaultdict(list)
    for each in events:
        assert each["ph"] in set("MXsfbei")
        assert isinstance(each["pid"], int)
        assert isinstance(each["tid"], int)
        assert isinstance(each["name"], str)
        if each["ph"] == "M":
            assert list(each["args"]) in (["name"], ["sort_index"])
            continue
        assert isinstance(each["ts"], int)
        assert each["cat"]
        if each["ph"] == "X":
            assert each["dur"] >= 0
            assert (each["pid"], each["tid"]) in named
            threads[each["pid"], each["tid"]].append((each["ts"], each["ts"] + each["dur"]))
        elif each["ph"] in "sfbe":
            ends[each["cat"], each["id"]].append(each)
    for spans in threads.values():
        spans.sort()
        assert all(one[1] <= other[0] for one, other in itertools.pairwise(spans))  # nested: side by side
    for (kind, _), found in ends.items():
        pairs = [found[place : place + 2] for place in range(0, len(found), 2)]
        for begin, end in pairs:
            assert begin["ph"] + end["ph"] == ("sf" if kind == "step" else "be")
            assert begin["ts"] <= end["ts"]
            if kind == "step":
                for arrow in (begin, end):  # it holds on to a step
                    assert any(low <= arrow["ts"] < high for low, high in threads[arrow["pid"], arrow["tid"]])


def test_the_trace_has_a_process_for_each_worker_and_threads_by_what_they_do() -> None:
    events = trace(tiles(100), now_ms=NOW_MS)["traceEvents"]
    processes = {each["pid"]: each["args"]["name"] for each in events if each["name"] == "process_name"}
    assert processes == {
        1: "workflow images",
        2: "cuda:0 of node-a, process 4711",
        3: "cuda:1 of node-a, process 4712",
    }
    threads = [each["args"]["name"] for each in events if each["name"] == "thread_name" and each["pid"] == 2]
    assert {re.sub(r" \d+$", "", each) for each in threads} == {"load", "copy in", "kernel", "copy out", "commit"}
    kernels = [each for each in events if each["ph"] == "X" and each["cat"] == "kernel"]
    assert len(kernels) == 102
    assert {"id", "step", "item", "attempt"} <= kernels[0]["args"].keys()
    waiting = [each for each in events if each["ph"] == "b"]
    assert {each["name"] for each in waiting} == {"queued"}


def test_arrows_lead_from_step_to_step_and_failures_are_marked() -> None:
    events = trace(tiles(100, failed=2), now_ms=NOW_MS)["traceEvents"]
    assert len([each for each in events if each["ph"] == "s"]) == 3
    assert [each["name"] for each in events if each["ph"] == "i"] == ["blur[0] failed", "blur[1] failed"]


def test_an_arrow_between_maps_that_run_side_by_side_starts_within_the_first() -> None:
    made = trace(flow(step("a", ms=100, map="m"), step("b", "a", at_ms=10, ms=100, map="m")), now_ms=NOW_MS)
    start, end = (each["ts"] - STARTED_MS * 1000 for each in made["traceEvents"] if each["ph"] in "sf")
    assert (start, end) == (10_000, 10_000)


def test_the_page_s_drawing_is_as_wide_as_the_window_and_an_error_takes_no_room_from_the_figures() -> None:
    text = html(tiles(6, failed=1), now_ms=NOW_MS)
    page = _Page()
    page.feed(text)
    assert re.search(r"\.drawing svg\{[^}]*width:100%;max-width:1200px", text)  # it scrolls only where it is tiny
    heads = [attributes for tag, attributes in page.tags if tag == "th" and attributes.get("scope") == "col"]
    errors = [attributes for tag, attributes in page.tags if tag == "td" and "error" in str(attributes.get("class"))]
    assert [each["colspan"] for each in errors] == [str(len(heads))] * 2  # of the map and of what waits for it
    assert re.search(r"<tr><td class=\"left error\" colspan=\"\d+\">kernel_failed: ", text)
