"""The page in a real browser: what it shows, and what happens when it is used."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from written_runs import write_metrics, write_result, write_run, write_sweep

from qatlab.cli.report import main
from qatlab.report.details import read_details
from qatlab.report.page import page
from qatlab.report.runs import find_runs
from qatlab.report.settings import join_seeds

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
EVIL = '<b>x</b></script><script>window.evil = 1</script><img src=x onerror="window.evil = 2">'
ROWS = "#table tbody tr"
SIDES = ("top", "right", "bottom", "left")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium without a window."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"there is no browser here: none of {', '.join(BROWSERS)}")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


class Shown:
    """A page, and all that it has said or asked for since it was opened."""

    def __init__(
        self, browser: Any, file: Path, fragment: str = "", color_scheme: str = "light"
    ) -> None:
        self.said: list[str] = []
        self.asked_for: list[str] = []
        self.file = file
        self.page = browser.new_page(
            viewport={"width": 1400, "height": 1000}, color_scheme=color_scheme
        )
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked_for.append(request.url))
        self.page.goto(file.as_uri() + fragment)
        self.page.wait_for_selector("html[data-drawn]", state="attached")

    def data(self, chart: str) -> Any:
        """Return what plotly has drawn in a chart."""
        self.page.wait_for_selector(f"#{chart} .main-svg", state="attached")
        text = self.page.evaluate(f"JSON.stringify(document.getElementById('{chart}').data)")
        return json.loads(text)

    def until(self, condition: str) -> None:
        """Wait; playwright's own way to do so needs what the page forbids its scripts."""
        for _ in range(100):
            if self.page.evaluate(condition):
                return
            self.page.wait_for_timeout(50)
        pytest.fail(f"this has not become true: {condition}")

    def column(self, title: str) -> list[str]:
        """Return the texts of a column of the table; arrows of sorting are no part of its title."""
        heads = self.page.locator("#table thead td, #table thead th").all_inner_texts()
        number = [head.strip(" ▲▼") for head in heads].index(title) + 1
        return list(self.page.locator(f"{ROWS} td:nth-child({number})").all_inner_texts())

    def filter(self, words: str, rows: int) -> None:
        """Type into the filter and wait for as many rows."""
        self.page.fill("#words", words)
        sync_api.expect(self.page.locator(ROWS)).to_have_count(rows)

    def to_only_point(self, chart: str) -> None:
        """Move the mouse to the one point of a chart; what plotly lays above it gets the event."""
        self.until(f"document.getElementById('{chart}').data.length === 2")
        point = self.page.locator(f"#{chart} .scatterlayer .trace .points path")
        sync_api.expect(point).to_have_count(1)
        point.scroll_into_view_if_needed()
        box = point.bounding_box()
        self.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)

    def hover_text(self, chart: str) -> str:
        """Return what stands beside the mouse."""
        label = self.page.locator(f"#{chart} .hoverlayer .hovertext")
        label.wait_for(state="attached", timeout=5000)
        return str(label.text_content())


def report(folder: Path) -> Path:
    runs, contents = read_details(find_runs(folder))
    file = folder / "report.html"
    file.write_text(page(folder.name, runs, contents, join_seeds(runs)), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def shared_page(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """A page of three settings of two seeds, and of three runs: an evil name, killed, failed."""
    folder = tmp_path_factory.mktemp("report")
    for seed in (1, 2):
        accuracy = 0.01 * seed
        write_run(folder / f"2/{seed}", top1=0.9 + accuracy, seed=seed, weight_bits=2)
        write_run(folder / f"4/{seed}", top1=0.95 + accuracy, seed=seed)
        write_run(folder / f"8/{seed}", top1=0.93 + accuracy, seed=seed, weight_bits=8)
    write_run(folder / "evil", top1=0.5, name=EVIL, method="lsq", activation_bits=2)
    write_run(folder / "killed", top1=0.9, name="killed")
    (folder / "killed/result.json").unlink()
    write_run(folder / "failed", top1=0.9, name="failed", overrides=["trainer.devices=77"])
    (folder / "failed/result.json").unlink()
    (folder / "failed/error.txt").write_text("trainer.devices=77 is more than there are.\n")
    return Shown(browser, report(folder))


@pytest.fixture
def shown(shared_page: Shown) -> Shown:
    """The page as it was opened."""
    page = shared_page.page
    page.select_option("#state", "all")
    page.select_option("#method", "all")
    page.check("#join")
    page.mouse.move(0, 0)
    shared_page.filter("", 6)
    return shared_page


def test_it_says_nothing_and_needs_no_network(shared_page: Shown) -> None:
    shared_page.page.wait_for_timeout(100)
    assert shared_page.said == []
    assert [url for url in shared_page.asked_for if not url.startswith("data:")] == [
        shared_page.file.as_uri()
    ]


def test_seeds_are_joined_and_can_be_parted(shown: Shown) -> None:
    assert shown.column("top-1 (%)")[0] == "96.50 ± 0.71"
    assert shown.column("seeds")[0] == "1-2"
    shown.page.uncheck("#join")
    assert shown.column("top-1 (%)")[:2] == ["97.00", "96.00"]
    assert shown.page.locator(ROWS).count() == 9


def test_hovering_a_point_shows_its_run(shown: Shown) -> None:
    shown.filter("quant=sat_4bit quant.weight.bits=2", 1)
    shown.to_only_point("front-bytes")
    text = shown.hover_text("front-bytes")
    assert "lenet_sat quant.weight.bits=2" in text
    assert "91.50 ± 0.71 %" in text
    assert "SAT, weights 2, activations 4" in text


def test_clicking_a_point_opens_its_run(shown: Shown) -> None:
    shown.filter("sat_4bit weight.bits=8", 1)
    shown.to_only_point("front-bytes")
    shown.page.mouse.down()
    shown.page.mouse.up()
    run = shown.page.locator("#run")
    sync_api.expect(run.locator("h2")).to_have_text("lenet_sat quant.weight.bits=8")
    command = "python train.py quant=sat_4bit quant.weight.bits=8 quant.activation.bits=4 seed=1"
    assert run.locator(".command").inner_text() == command
    assert run.locator(".overrides li").all_inner_texts() == command.split()[2:]
    assert "0123456789abcdef" in run.locator(".facts").inner_text()
    assert 'name: "lenet_sat"' in run.locator(".config").text_content()
    run.get_by_role("button", name="seed 2").click()
    assert run.locator(".command").inner_text() == command.replace("seed=1", "seed=2")
    assert "95.00 %" in run.locator(".facts").inner_text()


def test_the_filter_changes_table_and_charts(shown: Shown) -> None:
    shown.filter("weight.bits=4 -lenet_sat", 3)
    assert shown.page.locator("#shown").inner_text() == "3 of 6 rows are shown."
    shown.filter("nothing has this", 0)
    shown.until("document.getElementById('curves').data.length === 0")
    shown.filter("", 6)
    shown.page.select_option("#method", "LSQ")
    sync_api.expect(shown.page.locator(ROWS)).to_have_count(1)
    shown.until("document.getElementById('bits').data[0].x.length === 1")
    assert [trace.get("name") for trace in shown.data("front-bytes")] == ["Pareto front", "LSQ"]


def test_a_click_on_a_heading_sorts(shown: Shown) -> None:
    heading = shown.page.locator("th").get_by_role("button", name="bytes", exact=True)
    heading.click()
    sizes = [int(text.replace(",", "")) for text in shown.column("bytes")]
    assert sizes == sorted(sizes)
    assert shown.page.locator("th[aria-sort=ascending]").inner_text().startswith("bytes")
    heading.press("Enter")
    assert [int(text.replace(",", "")) for text in shown.column("bytes")] == sizes[::-1]
    shown.page.locator("th").get_by_role("button", name="top-1 (%)").click()
    assert shown.column("top-1 (%)")[-2:] == ["", ""]  # what is not known stands last
    assert shown.column("top-1 (%)")[0].startswith("96.50")


def test_the_front_is_drawn_and_noted(shown: Shown) -> None:
    front = shown.data("front-operations")[0]
    assert front["name"] == "Pareto front"
    # The run at 8 bits is larger than that at 4 bits, and worse; that of LSQ is the cheapest one.
    assert [round(y, 6) for y in front["y"]] == [50, 91.5, 96.5]
    assert front["x"] == sorted(front["x"])
    noted = dict(zip(shown.column("setting"), shown.column("front"), strict=True))
    assert noted["lenet_sat quant.weight.bits=4"] == "size, ops"
    assert noted["lenet_sat quant.weight.bits=8"] == ""


def test_methods_differ_in_colour_and_shape(shown: Shown) -> None:
    marks = [trace["marker"] for trace in shown.data("front-bytes")[1:]]
    assert len({mark["color"] for mark in marks}) == len({mark["symbol"] for mark in marks}) == 2


def test_the_heat_map_has_the_best_accuracy_of_each_pair_of_bits(shown: Shown) -> None:
    (cells,) = shown.data("bits")
    assert (cells["x"], cells["y"]) == (["2", "4"], ["2", "4", "8"])
    assert cells["text"] == [["", "91.50"], ["50.00", "96.50"], ["", "94.50"]]


def test_learning_curves_show_the_phases(shown: Shown) -> None:
    first, second = shown.data("curves")[:2]
    assert (first["line"]["dash"], second["line"]["dash"]) == ("dot", "solid")
    assert (first["x"], second["x"]) == ([1, 2, 3], [3, 4])  # two epochs each, and joined


def test_a_run_shows_its_layers_curves_quantizers_and_errors(shown: Shown) -> None:
    shown.filter("sat_4bit weight.bits=2", 1)
    shown.page.locator(ROWS).first.click()
    weights, sites = shown.data("run-layers")
    assert dict(zip(weights["x"], weights["y"], strict=True)) == {
        **{"conv0": 8, "conv1": 2, "conv2": 2, "conv3": 8}
    }
    assert set(sites["y"]) == {4}
    alphas = shown.data("run-learned")
    assert [trace["name"] for trace in alphas] == [f"relu{i}, alpha" for i in range(4)]
    assert alphas[0]["x"] == [3, 4]
    assert shown.data("run-clipped")[3]["y"] == [3, 3]  # percent
    assert shown.data("run-confusion")[0]["text"] == [["", "4"], ["", ""]]
    curves = {trace["name"] for trace in shown.data("run-curves")}
    assert curves == {"training", "validation"}
    phases = shown.page.locator("#run-curves .annotation-text").all_text_contents()
    assert phases == ["clamp", "quantize"]


def test_runs_without_a_result_are_listed_with_their_state(shown: Shown) -> None:
    assert "7 finished, 1 unfinished, 1 failed" in shown.page.locator("#summary").inner_text()
    shown.page.select_option("#state", "unfinished")
    assert shown.column("setting") == ["killed"]
    shown.page.select_option("#state", "failed")
    assert shown.column("setting") == ["failed"]
    shown.page.locator(ROWS).first.click()
    reason = shown.page.locator("#run .reason").inner_text()
    assert reason == "trainer.devices=77 is more than there are."
    assert "trainer.devices=77" in shown.page.locator("#run .command").inner_text()


def test_what_stands_in_files_is_text(shown: Shown) -> None:
    shown.filter("lsq_4bit", 1)
    assert shown.column("setting") == [EVIL]
    shown.to_only_point("front-bytes")
    assert EVIL in shown.hover_text("front-bytes")
    shown.page.locator(ROWS).first.click()
    assert shown.page.locator("#run h2").inner_text() == EVIL
    assert shown.page.locator("img").count() == 0
    assert shown.page.evaluate("window.evil") is None


def test_it_fits_a_narrow_screen(shown: Shown) -> None:
    shown.page.set_viewport_size({"width": 500, "height": 900})
    shown.until("document.querySelector('#curves svg').clientWidth < 500")
    assert shown.page.evaluate("document.documentElement.scrollWidth") <= 500
    shown.page.set_viewport_size({"width": 1400, "height": 1000})


def test_results_alone_make_a_page(browser: Any, tmp_path: Path) -> None:
    for seed in (1, 2):
        write_result(tmp_path / str(seed), "lenet", seed, top1=0.9)
    shown = Shown(browser, report(tmp_path))
    assert shown.page.locator("#overview figure").count() == 1
    assert shown.column("top-1 (%)") == ["90.00 ± 0.00"]
    absent = shown.page.locator("#absent").inner_text()
    assert "Accuracy against bit operations" in absent
    assert "Learning curves" in absent
    assert (
        "configuration, overrides, learning curves, layers"
        in shown.page.locator("#run").inner_text()
    )
    assert shown.said == []


@pytest.fixture(scope="module")
def many(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """A page of 500 runs of 48 settings."""
    folder = tmp_path_factory.mktemp("many")
    write_sweep(folder, 500)
    return Shown(browser, report(folder))


def test_500_runs_are_all_in_the_table(many: Shown) -> None:
    assert int(many.page.locator("html").get_attribute("data-opened")) > 0  # for benchmarks
    assert many.page.locator(ROWS).count() == 48
    many.page.uncheck("#join")
    assert many.page.locator(ROWS).count() == 500
    many.page.check("#join")
    assert many.said == []


PAPER = {"A4": (703, 1032), "Letter": (725, 965)}  # pixels between margins of 12 mm


@pytest.mark.parametrize("paper", PAPER)
def test_it_prints_on_pages_of_paper(many: Shown, paper: str) -> None:
    shown = many
    written = shown.page.pdf(format=paper, margin=dict.fromkeys(SIDES, "12mm"))
    pages = len(re.findall(rb"/Type\s*/Page\b", written))
    assert pages in (4, 5)  # two of charts, the others of 48 rows
    width, _ = PAPER[paper]
    shown.page.set_viewport_size({"width": width, "height": 1000})
    shown.page.emulate_media(media="print")
    shown.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    shown.page.wait_for_timeout(200)
    assert shown.page.evaluate("document.documentElement.scrollWidth") <= width
    assert not shown.page.locator("#controls").is_visible()
    table = shown.page.locator("#scroll")
    assert table.evaluate("(it) => it.scrollHeight - it.clientHeight") <= 1  # no row is cut off
    assert table.evaluate("(it) => it.scrollWidth - it.clientWidth") <= 1
    for figure in shown.page.locator("figure").all():
        assert figure.evaluate("(it) => it.querySelector('svg').clientWidth <= it.clientWidth")
    assert shown.said == []
    shown.page.evaluate("dispatchEvent(new Event('afterprint'))")
    shown.page.emulate_media(media="screen")
    shown.page.set_viewport_size({"width": 1400, "height": 1000})


def pin(shown: Shown, *labels: str) -> None:
    for label in labels:
        row = shown.page.locator(ROWS, has_text=label)
        row.locator("input").check()


def boxes_of(shown: Shown, selector: str) -> list[dict[str, float]]:
    """Return where elements stand, as left, top, right and bottom in pixels of the page."""
    function = """(all) => all.map((it) => {
        const box = it.getBoundingClientRect();
        return {left: box.left, top: box.top + scrollY, right: box.right, bottom: box.bottom};
    })"""
    return list(shown.page.locator(selector).evaluate_all(function))


def test_classes_have_their_names(shown: Shown) -> None:
    shown.filter("sat_4bit weight.bits=2", 1)
    shown.page.locator(f"{ROWS} td:nth-child(2)").first.click()
    cells, _ = shown.data("run-confusion")
    assert cells["hovertext"][0] == [
        "cat recognized: 46",
        "cat taken for &lt;i&gt;dog&lt;/i&gt;: 4",
    ]
    for chart in ("run-confusion", "run-classes"):
        names = shown.page.locator(f"#{chart} .ytick").all_text_contents()
        assert names == ["cat", "<i>dog</i>"]
    (recall,) = shown.data("run-classes")
    assert (recall["x"], recall["y"]) == ([92, 100], [0, 1])  # percent of 50 images each


def test_pinned_settings_stand_side_by_side(shown: Shown) -> None:
    pinned = shown.page.locator("#pinned")
    pin(shown, "weight.bits=2")
    sync_api.expect(pinned).to_be_hidden()  # one has nothing beside it
    pin(shown, "weight.bits=8")
    assert pinned.locator("h2").inner_text() == "2 settings side by side"
    lines = pinned.locator("tbody tr").all_inner_texts()
    assert "top-1 (%)\t91.50 ± 0.71\t94.50 ± 0.71" in lines
    assert "quant.weight.bits\t2\t8" in lines
    assert not any(line.startswith(("method", "quant.activation.bits")) for line in lines)
    first, _, second, _ = shown.data("pinned-curves")  # each dotted, then solid
    assert first["line"]["color"] != second["line"]["color"]
    (bits,) = shown.data("pinned-layers")
    by_name = dict(zip(bits["x"], zip(*bits["text"], strict=True), strict=True))
    assert (by_name["conv1"], by_name["conv0"], by_name["relu2"]) == (
        ("2", "8"),
        ("8", "8"),
        ("4", "4"),
    )
    for i, mean in ((0, (4, 5)), (1, (2, 3))):  # errors of the seeds: 4 and 4, 3 and 2
        cells, _ = shown.data(f"pinned-confusion-{i}")
        assert int(cells["text"][0][1]) in mean
    scales = [shown.data(f"pinned-confusion-{i}")[0]["zmax"] for i in (0, 1)]
    assert scales[0] == scales[1]
    pinned.get_by_role("button", name="unpin all").click()
    sync_api.expect(pinned).to_be_hidden()
    assert shown.page.locator(f"{ROWS} input:checked").count() == 0


def test_four_settings_are_pinned_at_most(shown: Shown) -> None:
    boxes = shown.page.locator(f"{ROWS} input")
    for i in range(4):
        boxes.nth(i).check()
    assert boxes.nth(4).is_disabled()
    assert boxes.nth(0).is_enabled()
    boxes.nth(0).uncheck()
    assert boxes.nth(4).is_enabled()
    shown.page.locator("#pinned").get_by_role("button", name="unpin all").click()


def test_the_address_keeps_what_is_shown(shown: Shown, browser: Any) -> None:
    shown.filter("lenet_sat -weight.bits=8", 2)
    pin(shown, "weight.bits=2", "weight.bits=4")
    shown.page.locator(f"{ROWS} td:nth-child(2)").first.click()
    fragment = shown.page.evaluate("location.hash")
    other = Shown(browser, shown.file, fragment)
    assert other.page.locator(ROWS).count() == 2
    assert other.page.locator("#pinned h2").inner_text() == "2 settings side by side"
    opened = other.page.locator("#run h2").inner_text()
    assert opened == "lenet_sat quant.weight.bits=4"
    assert other.said == []
    shown.page.locator("#pinned").get_by_role("button", name="unpin all").click()


def test_settings_that_differ_are_parallel_coordinates(shown: Shown) -> None:
    shown.until("document.getElementById('parallel').data.flatMap((it) => it.x).length > 20")
    notes = shown.page.evaluate("document.getElementById('parallel').layout.annotations")
    titles = [note["hovertext"] for note in notes if "hovertext" in note]
    # Bits of weights and of activations are those of the overrides: they have no axis of their own.
    assert titles == [
        *("quant", "quant.weight.bits", "quant.activation.bits"),
        *("size (bytes)", "bit operations", "top-1 (%)"),
    ]
    lines = shown.data("parallel")
    points = [x for line in lines for x in line["x"]]
    assert points.count(0) == 4  # the settings with an accuracy
    top = [y for line in lines for x, y in zip(line["x"], line["y"], strict=True) if x == 2]
    assert sorted(top) == [0, 1, 1, 1]  # activation bits 2 once, 4 of the others


def drag_along_axis(shown: Shown, axis: int, start: float, end: float) -> None:
    """Drag from one height of an axis to another one, 0 to 1; equal ones are a click."""
    place = shown.page.locator("#parallel")
    place.scroll_into_view_if_needed()
    box, layout = place.bounding_box(), place.evaluate("(it) => it.layout")
    (left, right), (bottom, top) = (layout[f"{one}axis"]["range"] for one in "xy")
    margin = layout["margin"]
    x = box["x"] + (axis - left) / (right - left) * box["width"]
    inside = box["height"] - margin["t"] - margin["b"]
    start, end = (
        box["y"] + margin["t"] + (top - one) / (top - bottom) * inside for one in (start, end)
    )
    shown.page.mouse.move(x, start)
    shown.page.mouse.down()
    shown.page.mouse.move(x, end, steps=3)
    shown.page.mouse.up()


def test_a_range_dragged_along_an_axis_filters(shown: Shown, browser: Any) -> None:
    whole = shown.page.locator(ROWS).count()
    drag_along_axis(shown, 5, 0.97, 1.05)  # the highest top-1
    shown.until(f"document.querySelectorAll('{ROWS}').length === 1")
    assert shown.page.locator("#shown").inner_text() == f"1 of {whole} rows are shown."
    shown.until("document.getElementById('parallel').data.length === 2")
    faint, bright = shown.data("parallel")
    assert (faint["hoverinfo"], faint["x"].count(0), bright["x"].count(0)) == ("skip", 3, 1)
    again = Shown(browser, shown.file, shown.page.evaluate("location.hash"))
    assert again.page.locator(ROWS).count() == 1
    drag_along_axis(shown, 0, 0.9, 1.05)  # one more range: both have to hold
    drag_along_axis(shown, 5, 1.02, 1.02)  # a click takes the first one away
    shown.until("location.hash.includes('quant') && !location.hash.includes('top-1')")
    shown.page.get_by_role("button", name="show all lines").click()
    shown.until(f"document.querySelectorAll('{ROWS}').length === {whole}")
    assert "range" not in shown.page.evaluate("location.hash")
    assert shown.page.get_by_role("button", name="show all lines").count() == 0
    assert shown.said == again.said == []


def test_a_run_links_to_its_files(browser: Any, tmp_path: Path) -> None:
    run = tmp_path / "runs/a #1 100%"
    write_run(run, top1=0.9)
    (run / "figures").mkdir()
    for name in ("curves.svg", "notes.txt"):
        (run / "figures" / name).write_text("<svg/>")
    (run / "figures/linked.png").symlink_to("/etc/hostname")
    main([str(tmp_path / "runs"), "-o", str(tmp_path / "pages/report.html")])
    shown = Shown(browser, tmp_path / "pages/report.html")
    links = shown.page.locator("#run .files a")
    assert links.all_inner_texts() == [
        *("config.yaml", "layers.json", "result.json", "metrics.csv", "figures/curves.svg"),
    ]
    for link in links.all():
        path = unquote(urlsplit(link.evaluate("(it) => it.href")).path)
        assert Path(path).is_file()
        assert Path(path).is_relative_to(run)


def test_colours_follow_the_system_and_the_switch(browser: Any, shown: Shown) -> None:
    dark = Shown(browser, shown.file, color_scheme="dark")
    look = "getComputedStyle(document.body).backgroundColor"
    chart = "document.getElementById('curves').layout.paper_bgcolor"
    assert shown.page.evaluate(look) == "rgb(255, 255, 255)"
    assert sum(channels(dark.page.evaluate(look))) < 100
    assert sum(channels(dark.page.evaluate(chart))) < 120
    # Paper is white all the same.
    dark.page.emulate_media(media="print", color_scheme="dark")
    dark.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert dark.page.evaluate(chart) == "rgb(255, 255, 255)"
    assert dark.page.evaluate(look) == "rgb(255, 255, 255)"
    dark.page.evaluate("dispatchEvent(new Event('afterprint'))")
    dark.page.emulate_media(media="screen", color_scheme="dark")
    dark.page.click("#theme")
    assert dark.page.evaluate(look) == dark.page.evaluate(chart) == "rgb(255, 255, 255)"
    dark.page.reload()  # the choice is kept
    dark.page.wait_for_selector("html[data-drawn]", state="attached")
    assert dark.page.evaluate(look) == "rgb(255, 255, 255)"
    dark.page.click("#theme")  # as the system has it: nothing is kept
    assert dark.page.evaluate("localStorage.length") == 0
    assert dark.said == []


def channels(color: str) -> list[int]:
    return [int(x) for x in re.findall(r"\d+", color)][:3]


def test_a_phone_shows_the_numbers_first(shown: Shown) -> None:
    shown.page.set_viewport_size({"width": 390, "height": 844})
    shown.until("document.querySelector('#curves svg').clientWidth < 390")
    assert shown.page.evaluate("document.documentElement.scrollWidth") == 390
    assert shown.page.locator("#best button").first.inner_text().split("\n")[1] == "96.50 ± 0.71 %"
    best, *_ = boxes_of(shown, "#best")
    top1 = boxes_of(shown, f"{ROWS} td.top1")
    charts, *_ = boxes_of(shown, "#charts")
    assert best["bottom"] < top1[0]["top"] < charts["top"]
    assert max(box["right"] for box in top1) <= 390
    shown.page.locator(f"{ROWS} td:nth-child(2)").first.click()
    shown.until("document.querySelector('#run-classes svg') !== null")
    assert shown.page.evaluate("document.documentElement.scrollWidth") == 390
    shown.page.set_viewport_size({"width": 1400, "height": 1000})


@pytest.mark.parametrize("width", [1400, 800])
def test_charts_leave_no_hole(shown: Shown, width: int) -> None:
    shown.page.set_viewport_size({"width": width, "height": 1000})
    for parent in ("#overview", "#run .charts"):
        if parent.startswith("#run"):
            shown.filter("sat_4bit weight.bits=2", 1)
            shown.page.locator(f"{ROWS} td:nth-child(2)").first.click()
        (frame,) = boxes_of(shown, parent)
        figures = boxes_of(shown, f"{parent} figure")
        rows: dict[float, list[dict[str, float]]] = {}
        for figure in figures:
            rows.setdefault(figure["top"], []).append(figure)
        for row in rows.values():
            assert row[0]["left"] == pytest.approx(frame["left"], abs=1)
            assert row[-1]["right"] == pytest.approx(frame["right"], abs=1)
    shown.page.set_viewport_size({"width": 1400, "height": 1000})


@pytest.mark.parametrize(("part", "title"), [("val", "Validation accuracy"), ("x", "Training")])
def test_curves_are_named_after_the_images_they_are_of(
    browser: Any, tmp_path: Path, part: str, title: str
) -> None:
    for bits in (2, 4):
        write_run(tmp_path / str(bits), top1=0.9, weight_bits=bits)
        write_metrics(tmp_path / str(bits), 4, [], "alpha", val=part)
    shown = Shown(browser, report(tmp_path))
    heading = shown.page.locator("#overview figure.wide figcaption").first.inner_text()
    assert heading.startswith(title)


def test_the_diagonal_of_a_table_is_drawn_as_curves(browser: Any, tmp_path: Path) -> None:
    for bits in (2, 4):
        for method in ("sat", "lsq"):
            facts = {"weight_bits": bits, "activation_bits": bits, "method": method}
            write_run(tmp_path / f"{method}{bits}", top1=0.9 + bits / 100, **facts)
    write_run(tmp_path / "clamped", top1=0.99, phase="clamp")  # tested as a float network
    shown = Shown(browser, report(tmp_path))
    curves = {trace["name"]: (trace["x"], trace["y"]) for trace in shown.data("bits")}
    assert curves == {
        "SAT": (["2", "4"], [92, 94]),
        "LSQ": (["2", "4"], [92, 94]),
        "float": (["2", "4"], [99, 99]),
    }


def test_a_table_of_one_cell_is_no_chart(browser: Any, tmp_path: Path) -> None:
    write_run(tmp_path / "a", top1=0.9)
    shown = Shown(browser, report(tmp_path))
    assert shown.page.locator("#bits").count() == 0
    assert "weight bits" not in shown.page.locator("#absent").inner_text()  # it is recorded


def test_a_page_without_a_run_says_so(browser: Any, tmp_path: Path) -> None:
    shown = Shown(browser, report(tmp_path))
    assert shown.page.locator("#summary").inner_text() == "There is no run yet."
    assert shown.said == []
