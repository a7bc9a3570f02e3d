"""`report`: every section on an empty and a full study, its numbers against the store's, and every format."""

from __future__ import annotations

import csv
import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ncpl_cli.analysis import Options, Series, correlate, load, plasticity
from ncpl_cli.main import call
from ncpl_cli.metrics.catalogue import METRICS
from ncpl_cli.report import theme
from ncpl_cli.report.blocks import Commands, Figure, Report, Section, Table, Text
from ncpl_cli.report.curves import over_runs, thinned
from ncpl_cli.report.formats import FORMATS
from ncpl_cli.report.material import Material, gather
from ncpl_cli.report.report import build, write
from ncpl_cli.report.sections import SECTIONS, methods
from ncpl_cli.store import open_store
from tests.studies import UNKIND, make_store

QUESTION = "nc1-and-plasticity_loss-raw-and-detrended-first_task_epochs-1-permuted-digits"

FORMULAS = {m.id: (m.formula, m.direction, m.source) for m in METRICS.values()}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_store(tmp_path_factory.mktemp("report") / "study.db")


@pytest.fixture(scope="module")
def material(store: str) -> Material:
    with open_store(store) as opened:
        return gather(opened, FORMULAS)


@pytest.fixture(scope="module")
def report(material: Material) -> Report:
    return build(material, store="study.db")


@pytest.fixture(scope="module")
def page(store: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The HTML page of everything."""
    target = tmp_path_factory.mktemp("page") / "page.html"
    assert call(["report", "--db", store, "-o", str(target)]) == 0
    return target


def named(report: Report, name: str) -> Table:
    tables = [b.numbers if isinstance(b, Figure) else b for s in report.sections for b in s.blocks]
    return next(t for t in tables if isinstance(t, Table) and t.id == name)


def rows(table: Table, **wanted: object) -> list[dict[str, Any]]:
    found = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    return [row for row in found if all(row[key] == value for key, value in wanted.items())]


# sections --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("draw", SECTIONS, ids=lambda f: f.__module__.rpartition(".")[2])
def test_a_section_of_an_empty_store_says_what_to_run(draw: Any, tmp_path: Path) -> None:
    with open_store(str(tmp_path / "empty.db")) as opened:
        section: Section = draw(gather(opened, FORMULAS))
    assert any(isinstance(block, Commands) and block.lines[0].startswith("ncpl ") for block in section.blocks)
    assert any(isinstance(block, Text) and block.sentences for block in section.blocks)


@pytest.mark.parametrize("draw", SECTIONS, ids=lambda f: f.__module__.rpartition(".")[2])
def test_a_section_of_runs_that_recorded_nothing_does_not_fail(draw: Any, tmp_path: Path) -> None:
    from tests.studies import add_run

    with open_store(str(tmp_path / "bare.db")) as opened:
        add_run(opened, "0" * 12, 0, "permuted-digits", {"interventions": []}, {"tasks": 2}, [])
        assert draw(gather(opened, FORMULAS)).blocks


def test_every_section_has_content_and_ids_are_unique(report: Report) -> None:
    blocks = [b for s in report.sections for b in s.blocks]
    ids = [b.id for b in blocks if isinstance(b, Figure | Table)] + [s.id for s in report.sections]
    assert len(ids) == len(set(ids))
    with_figures = {s.id for s in report.sections if any(isinstance(b, Figure) for b in s.blocks)}
    assert with_figures == {
        "overview", "learning", "collapse", "plasticity", "diagnostics", "correlations", "first-task", "interventions"
    }  # fmt: skip
    for figure in report.figures():
        assert figure.numbers.rows and figure.caption and figure.alt


def test_what_is_drawn_is_in_the_catalogue() -> None:
    from ncpl_cli.report.sections import collapse, diagnostics, learning, overview
    from ncpl_cli.report.sections import plasticity as losses

    drawn = {*collapse.MAIN, *collapse.BY_SPLIT, *diagnostics.DRAWN, *learning.OVER_TASKS, *learning.OVER_EPOCHS,
             *losses.DEFINITIONS, *losses.PROBES, *overview.FINAL}  # fmt: skip
    assert drawn <= METRICS.keys()


def test_a_run_of_another_training_loop_is_not_said_to_be_ours(tmp_path: Path) -> None:
    from ncpl_cli.report.sections.provenance import commands

    with open_store(str(tmp_path / "own.db")) as opened:
        with opened.run("theirs", seed=1, name="own", config={"lr": 0.1}) as run:
            for epoch in (1, 2, 3):
                run.record(task=0, epoch=epoch, metrics={"train_accuracy": 0.5 + 0.1 * epoch})
        made = gather(opened, FORMULAS)
    assert commands(made) == []
    text = FORMATS["md"](build(made), {}, None)
    assert "recorded by another training loop" in text and "lr" in text


# numbers -----------------------------------------------------------------------------------------------------------


def test_curves_are_means_over_runs_with_a_t_interval(report: Report, store: str) -> None:
    with open_store(store) as opened:
        frame = opened.frame(scenario="permuted-digits")
    ours = frame[(frame["split"] == "train") & frame["run"].str.startswith("a1") & (frame["task"] == 5)]["nc1"]
    numbers = named(report, "nc1-to-nc4-by-task-permuted-digits-numbers")
    (row,) = rows(numbers, panel="nc1 (lower = more collapse)", group="first_task_epochs=1",
                  x=5.0)  # fmt: skip
    low, high = stats.t.interval(0.95, 2, ours.mean(), stats.sem(ours))
    assert row["runs"] == 3
    assert [row["mean"], row["low"], row["high"]] == pytest.approx([ours.mean(), low, high], abs=1e-12)


def test_intervals_of_shares_end_at_1(report: Report) -> None:
    numbers = rows(named(report, "accuracy-by-epoch-warm-start-numbers"), panel="train_accuracy (higher = fits better)")
    assert numbers and max(row["high"] for row in numbers) <= 1


def test_over_runs_uses_the_runs_that_have_a_value() -> None:
    found = over_runs([np.array([1.0, 2.0]), np.array([1.0, 2.0, 3.0])], [np.array([1.0, np.nan]), np.arange(3.0)])
    assert found["runs"].tolist() == [2, 1, 1]
    assert found["mean"].tolist() == [0.5, 1, 2]
    assert np.isnan(found["low"]).tolist() == [False, True, True]


def test_thinning_keeps_the_ends() -> None:
    kept = thinned(10_000, 100)
    assert (len(kept), kept[0], kept[-1]) == (100, 0, 9_999)
    assert thinned(7).tolist() == list(range(7))


def test_correlations_are_those_of_correlate(report: Report, store: str) -> None:
    with open_store(store) as opened:
        study = load(opened, ["nc1", "plasticity_loss", "train_accuracy"], scenario="permuted-digits", names=[UNKIND])
    result = correlate(study, [("nc1", "plasticity_loss")], Options(window=4))[0]
    (row,) = rows(named(report, "correlations-0-statistics"), group="first_task_epochs=1", statistic="mean of r")
    assert row["r"] == pytest.approx(result.overall.summary.mean_r, abs=1e-12)
    drawn = rows(named(report, "r-in-windows-permuted-digits-numbers"))
    assert [row["mean"] for row in drawn][: len(result.windows.mean)] == pytest.approx(result.windows.mean.tolist())


def test_the_figure_of_the_question_is_raw_and_detrended(report: Report, store: str) -> None:
    drawn = rows(named(report, f"{QUESTION}-numbers"))
    with open_store(store) as opened:
        frame = opened.frame(scenario="permuted-digits")
    ours = frame[(frame["split"] == "train") & (frame["run"] == "a10000000000") & (frame["task"] > 0)]
    x, y, t = (ours[key].to_numpy(dtype=float) for key in ("nc1", "plasticity_loss", "task"))
    seed = [row for row in drawn if row["run"].startswith("seed 0")]
    raw, left = ([row for row in seed if row["panel"].startswith(word)] for word in ("as", "without"))
    assert [row["x"] for row in raw] == pytest.approx(x.tolist()) and [row["y"] for row in raw] == pytest.approx(y)
    for name, values in (("x", x), ("y", y)):
        rest = values - np.polyval(np.polyfit(t, values, 1), t)
        assert [row[name] for row in left] == pytest.approx(rest.tolist(), abs=1e-12)
    figure = next(f for f in report.figures() if f.id == QUESTION)
    with theme.drawn(figure.draw()) as picture:
        assert len(picture.axes) == 2


def test_the_share_of_averaging_is_exact_where_first_epochs_do_not_differ() -> None:
    from ncpl_cli.analysis import Run

    def run(seed: int, first: int) -> Series:
        online = np.r_[0.8 + 0.05 * np.arange(first), np.full(4, 0.79)]
        task = np.r_[np.zeros(first), np.arange(1, 5)]
        within = np.r_[np.arange(1, first + 1), np.ones(4)]
        empty = {"plasticity_loss": np.full(len(online), np.nan), "plasticity_loss_b24": np.full(len(online), np.nan)}
        return Series.of(Run(f"{first}{seed}", seed, "p"), np.arange(1, len(online) + 1), task, within,
                         {"online_accuracy": online, **empty})  # fmt: skip

    (one,) = plasticity.averaging([run(seed, first) for seed in range(3) for first in (1, 3)])
    assert (one.epochs, one.published.n) == (3, 3)
    assert one.published.mean == pytest.approx(0.05)  # mean of .80 .85 .90 minus .80
    assert one.first_epochs.mean == pytest.approx(0)
    assert one.share == pytest.approx(1)


def test_the_traps_are_named(report: Report) -> None:
    text = " ".join(s for sec in report.sections for b in sec.blocks if isinstance(b, Text) for s in b.sentences)
    assert "grows with the number of first-task epochs by itself" in text
    assert "Phase 1 failed in 3 of 3 seeds" in text
    assert "b00000000000 (seed 3) diverged" in text
    assert "associated, not caused" in text.lower()


def test_data_health_counts_what_is_undefined(report: Report, store: str) -> None:
    with open_store(store) as opened:
        assert opened.undefined_counts([row.id for row in opened.runs(scenario="permuted-digits")]) == [
            ("plasticity_loss", "first task", 16, 7)
        ]
        assert opened.retention(["a10000000000"])["a10000000000"][0][1] == 8
    assert rows(named(report, "health-undefined")) == [
        {"metric": "plasticity_loss", "reason": "first task", "values": 16, "runs": 7}
    ]


def test_the_commands_train_the_same_runs_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command of a report, run as a dry run, names the ids that are in the store."""
    from ncpl_cli.report.sections.provenance import commands

    db = str(tmp_path / "a.db")
    given = [
        ["permuted-digits", "--seeds", "0-1", "--tasks", "2", "--first-task-epochs", "2", "--train-samples", "200"],
        ["permuted-digits", "--tasks", "2", "--epochs", "2,1", "--train-samples", "100", "--lr", "0.02"],
        ["permuted-digits", "--tasks", "1", "--first-task-nc1", "5", "--train-samples", "100"],
        ["warm-start", "--dataset", "digits", "--warm-up-epochs", "1", "--train-samples", "100", "--hold-out-classes",
         "8,9", "--intervention", "l2:strength=0.001", "--intervention", "shrink_perturb", "--weight-decay", "0.01",
         "--probes", "later"],
    ]  # fmt: skip
    for one in given:
        assert call(["train", *one, "--db", db]) == 0
    with open_store(db) as opened:
        material = gather(opened, FORMULAS)
        trained = {row.id for row in opened.runs()}
    again: set[str] = set()
    capsys.readouterr()
    for line in commands(material):
        assert call([*line.split()[1:], "--db", str(tmp_path / "other.db"), "--dry-run", "--json"]) == 0
        again |= {run["id"] for run in json.loads(capsys.readouterr().out)["runs"]}
    assert again == trained


# formats -----------------------------------------------------------------------------------------------------------


def test_no_arm_speaks_for_the_others_in_the_methods(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["train", "permuted-digits", "--tasks", "1", "--train-samples", "60", "--depth", "1"]
    for more in (["--lr", "0.01", "--width", "8"], ["--lr", "0.003", "--width", "12", "--momentum", "0.5"]):
        assert call([*line, *more, "--batch-size", "10", "--db", str(tmp_path / "a.db")]) == 0
    capsys.readouterr()
    with open_store(tmp_path / "a.db") as store:
        (said,) = methods.draw(gather(store, FORMULAS)).blocks[:1]
    assert isinstance(said, Text)
    words = " ".join(said.sentences)
    for one, other in (("0.01", "0.003"), ("8", "12"), ("0.0", "0.5")):
        assert f"{one} or {other}" in words or f"{other} or {one}" in words, words
    assert "batch size 10, " in words and "1 hidden layers of" in words and "100% of the pixels" in words


def content(report: Report) -> list[str]:
    """Every caption and sentence."""
    found = []
    for section in report.sections:
        for block in section.blocks:
            found += list(block.sentences) if isinstance(block, Text) else [block.caption]
    return found


@pytest.mark.parametrize("kind", sorted(FORMATS))
def test_formats_carry_the_same_content(kind: str, report: Report) -> None:
    text = FORMATS[kind](report, {}, None)
    plain = re.sub(r"\\(.)", r"\1", text) if kind == "md" else text
    plain = plain.replace('""', '"') if kind == "csv" else plain
    for code, character in (("&#34;", '"'), ("&#39;", "'"), ("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
        plain = plain.replace(code, character)
    plain = " ".join(plain.split())
    for sentence in content(report):
        said = json.dumps(sentence, ensure_ascii=False)[1:-1] if kind == "json" else sentence
        assert " ".join(said.split()) in plain, sentence


def test_json_and_csv_keep_full_precision(report: Report) -> None:
    document = json.loads(FORMATS["json"](report, {}, None))
    blocks = {b["id"]: b for s in document["sections"] for b in s["blocks"] if b["type"] == "table"}
    table = named(report, "interventions-1-0-table")
    assert blocks[table.id]["rows"] == [list(row) for row in table.rows]
    lines = list(csv.DictReader(FORMATS["csv"](report, {}, None).splitlines()))
    cells = [c for c in lines if c["item"] == table.id and c["column"] == "gain" and c["value"]]
    assert [float(c["value"]) for c in cells] == [row["gain"] for row in rows(table) if row["gain"] is not None]


def test_cells_that_a_spreadsheet_would_compute_are_text() -> None:
    table = Table("t", "c", ("a",), (("=1+1",), (-1.5,)))
    made = Report("r", (), (Section("s", "S", (table,)),))
    values = [row["value"] for row in csv.DictReader(FORMATS["csv"](made, {}, None).splitlines()) if row["column"]]
    assert values == ["'=1+1", "-1.5"]


def test_a_label_is_text_whatever_it_says(page: Path, report: Report) -> None:
    html = page.read_text()
    assert "<script" not in html and "&lt;script&gt;alert(&#34;1&#34;)" in html
    markdown = FORMATS["md"](report, {}, None)
    assert "<script" not in markdown and "\\|" in markdown
    assert UNKIND in json.loads(FORMATS["json"](report, {}, None))["sections"][-1]["blocks"][-2]["rows"][0][1]


def test_a_label_in_a_figure_is_text() -> None:
    from ncpl_cli.report.lines import draw

    numbers = pd.DataFrame({"panel": "y", "group": [UNKIND, UNKIND, "plain", "plain"], "x": [1.0, 2.0] * 2,
                            "mean": 1.0, "low": 0.5, "high": 1.5, "runs": 3})  # fmt: skip
    with theme.drawn(draw(numbers, x="epoch")) as figure:
        svg = theme.page_svg(figure, "f", "title")
    root = ElementTree.fromstring(svg)
    assert not [e for e in root.iter() if e.tag.endswith("script") or "style" in e.attrib]
    assert any(UNKIND in "".join(e.itertext()) for e in root.iter() if e.tag.endswith("text"))
    assert "#0072b2" not in svg and "var(--c0)" in svg


class Page(HTMLParser):
    """What a page holds: tags, ids, what it loads, images without a name."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.loads: list[str] = []
        self.policy = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        self.ids += [given["id"] or ""] if "id" in given else []
        self.loads += [v or "" for k, v in attrs if k in ("src", "srcset", "data") or (k == "href" and tag != "a")]
        assert not [k for k in given if k.startswith("on") or k == "style"], (tag, given)
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"] or ""


def test_the_page_stands_alone(page: Path) -> None:
    found = Page()
    found.feed(page.read_text())
    assert found.policy.startswith("default-src 'none'; style-src 'sha256-") and "unsafe" not in found.policy
    assert not {"script", "link", "iframe", "object", "img"} & set(found.tags)
    assert all(place.startswith("#") for place in found.loads)  # clip paths and marks inside a figure
    assert len(found.ids) == len(set(found.ids))
    assert found.tags.count("svg") == found.tags.count("figure") > 5


def test_figures_are_written_for_papers(report: Report, tmp_path: Path) -> None:
    some = Report("r", (), tuple(s for s in report.sections if s.id == "interventions"))
    (name,) = (figure.id for figure in some.figures())
    write(some, tmp_path / "r.md", "md", figures=tmp_path / "figures")
    assert (tmp_path / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert ElementTree.parse(tmp_path / "figures" / f"{name}.svg").getroot().tag.endswith("svg")
    assert f"figures/{name}.svg)" in (tmp_path / "r.md").read_text()


def test_a_password_is_not_shown() -> None:
    from ncpl_cli.store import shown

    url = "postgresql+psycopg://me:secret@host/ncpl"
    assert shown(url) == "postgresql+psycopg://me:***@host/ncpl"
    assert shown("a.db") == "a.db"


# the command -------------------------------------------------------------------------------------------------------


def test_the_ending_of_the_file_names_the_format(store: str, tmp_path: Path) -> None:
    target = tmp_path / "found.json"
    assert call(["report", "--db", store, "-o", str(target), "--name", "arms"]) == 0
    document = json.loads(target.read_text())
    assert document["about"]["selection"] == "--name arms"
    assert "permuted-digits" not in document["title"]


@pytest.mark.parametrize(
    ("given", "code", "says"),
    [
        (["--format", "pdf"], 2, "unknown report format 'pdf'"),
        (["--name", "nobody"], 2, "unknown label 'nobody'."),
        (["--format", "md", "-o", "no/such/place.md"], 4, "cannot be written"),
    ],
)
def test_what_cannot_be_done_is_said(
    given: list[str], code: int, says: str, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["report", "--db", store, *given]) == code
    assert says in capsys.readouterr().err


# in a browser ------------------------------------------------------------------------------------------------------


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_in_a_browser(scheme: str, page: Path, browser: Any) -> None:
    """Nothing is loaded or complained about, nothing runs off the side, axe finds no fault; tables unfolded or not."""
    from axe_playwright_python.sync_playwright import Axe

    context = browser.new_context(color_scheme=scheme, viewport={"width": 360, "height": 740})
    tab = context.new_page()
    requests: list[str] = []
    complaints: list[str] = []
    tab.on("request", lambda request: requests.append(request.url))
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.goto(page.as_uri())
    for width in (360, 1280):
        tab.set_viewport_size({"width": width, "height": 800})
        for unfolded in ("false", "true"):
            tab.evaluate(f"document.querySelectorAll('details').forEach(d => d.open = {unfolded})")
            assert tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    colours = tab.evaluate("[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]")
    light, dark = "rgb(255, 255, 255)", "rgb(21, 24, 28)"
    assert colours[0] == (light if scheme == "light" else dark)
    drawn = tab.evaluate("getComputedStyle(document.querySelector('.picture svg text')).fill")
    assert drawn != colours[0] and drawn.startswith("rgb(")
    tab.evaluate("document.querySelectorAll('details').forEach((d, i) => d.open = i < 4)")  # the others are alike
    found = Axe().run(tab, options={"resultTypes": ["violations"]}).response["violations"]
    assert [(v["id"], v["nodes"][0]["html"][:200]) for v in found] == []
    assert requests == [page.as_uri()]
    assert complaints == []
    context.close()


# for a stranger ----------------------------------------------------------------------------------------------------


def test_a_page_begins_with_definitions_the_answer_and_what_was_found(page: Path, report: Report) -> None:
    html = page.read_text()
    first = html[html.index('class="first"') : html.index("How sure this is")]
    order = [first.index(word) for word in ("Neural collapse: ", "Plasticity loss: ", "<svg", "What was found")]
    assert order == sorted(order) and "What was run" not in first
    numbers = named(report, "r-of-nc1-and-plasticity_loss-numbers")
    (raw,) = rows(numbers, group="first_task_epochs=1", series="as recorded")
    (row,) = rows(named(report, "r-under-controls-permuted-digits-numbers"), group="first_task_epochs=1",
                  statistic="r as published")  # fmt: skip
    assert (raw["value"], raw["low"], raw["high"]) == (row["r"], row["low"], row["high"])


def test_sources_are_papers_and_terms_are_explained(report: Report) -> None:
    from ncpl_cli.references import REFERENCES, cited

    text = FORMATS["md"](report, {}, None)
    assert not re.search(r"\b(B24|P20|Z21|G22)\b", text) and "Bonifazi et al. (2024)" in text
    references = text[text.index("### References") :]
    assert "Can We Understand Plasticity Through Neural Collapse?" in references
    assert {one.code for one in cited(["as B24 says", "Papyan et al. (2020), ZB24"])} == {"B24", "P20"}
    assert len({one.key for one in REFERENCES.values()}) == len(REFERENCES)
    assert all(re.fullmatch(r"[a-z]+\d{4}", one.key) and one.bibtex.count("{") == one.bibtex.count("}")
               for one in REFERENCES.values())  # fmt: skip


def test_numbers_are_rounded_by_their_standard_error() -> None:
    from ncpl_cli.report.formats.text import cells, shown

    table = Table("t", "c", ("group", "r", "low", "high", "n", "nothing"),
                  (("a", 0.123456, 0.1, 0.14, 12345.678, None), ("b", 12.3456, 8.0, 16.0, 1.0, None)))  # fmt: skip
    assert cells(table, table.rows[0]) == ["a", "0.123", "0.100", "0.140", "1.235e+04", "–"]
    assert cells(table, table.rows[1])[1:4] == ["12.3", "8.0", "16.0"]
    assert shown(table).columns == ("group", "r", "low", "high", "n")


def test_up_to_five_runs_are_lines_and_more_are_a_band(store: str) -> None:
    from ncpl_cli.report.lines import draw

    numbers = {"panel": "test_accuracy (higher = generalises)", "group": "g", "x": [1.0, 2.0], "mean": [0.3, 0.4],
               "low": 0.2, "high": 0.5}  # fmt: skip
    for runs, bands in ((5, 0), (6, 1)):
        table = pd.DataFrame({**numbers, "runs": runs})
        table.attrs = {"thin": [(numbers["panel"], "g", str(r), np.array([1.0, 2.0]), np.array([0.3, 0.4 + r / 100]))
                                for r in range(runs if runs < 6 else 0)], "chance": 0.25}  # fmt: skip
        with theme.drawn(draw(table, x="epoch")) as figure:
            (axes,) = figure.axes
            assert len(axes.collections) - bands in (1, 2, 3) and bands == sum(
                type(c).__name__ in ("PolyCollection", "FillBetweenPolyCollection") for c in axes.collections
            )


def test_few_lines_are_named_where_they_end_and_names_lie_apart() -> None:
    from matplotlib.text import Text as Text_

    from ncpl_cli.report.lines import apart, draw

    assert apart([3.0, 1.0, 1.1], 0.5) == [3.0, 0.8, 1.3]
    assert apart([1.0, 1.0, 1.0], 1.0) == [0.0, 1.0, 2.0] and apart([0.0, 5.0], 1.0) == [0.0, 5.0]
    table = pd.DataFrame({"panel": "nc1", "group": ["lr=0.1", "lr=1"], "mean": [0.3, 0.31]})
    table = pd.concat([table.assign(x=x, low=np.nan, high=np.nan, runs=1) for x in (1.0, 2.0, 3.0)])
    for names, written in (({}, 2), ({"lr=1": "a name that is too long to stand at its line"}, 0)):
        with theme.drawn(draw(table.replace(names), x="epoch")) as figure:
            (axes,) = figure.axes
            assert len(axes.texts) == written
            everywhere = [text.get_text() for text in figure.findobj(Text_)]
            assert sum("lr=0.1" in text for text in everywhere) == 1, "at the line or in the legend, not both"


def test_layers_share_an_axis_and_the_first_is_said(tmp_path: Path) -> None:
    from ncpl_cli.records import Address, EpochRecord
    from ncpl_cli.report.sections import collapse
    from tests.studies import add_run

    with open_store(str(tmp_path / "layers.db")) as opened:
        for seed in range(2):
            records = [
                EpochRecord(e, 0, e, e, 1.0, 0.1, {
                    Address.parse("nc1"): 2.0 / e, Address.parse("nc1@train/layer2"): 3.0 if e < 4 else 0.5,
                    Address.parse("nc1@train/layer10"): 4.0 - e / 10, Address.parse("nc1@test"): 1.0 + seed,
                }, {}, {}) for e in range(1, 6)
            ]  # fmt: skip
            add_run(opened, f"{seed:012x}", seed, "permuted-digits", {"interventions": []}, {"tasks": 1}, records)
        blocks = collapse.draw(gather(opened, FORMULAS)).blocks
    by_layer = next(b for b in blocks if isinstance(b, Figure) and "layer" in b.id)
    columns = by_layer.numbers.columns
    lines = dict.fromkeys((row[columns.index("panel")], row[columns.index("group")]) for row in by_layer.numbers.rows)
    assert list(lines) == [("nc1", "layer2"), ("nc1", "layer10"), ("nc1", "last")]
    splits = next(b for b in blocks if isinstance(b, Figure) and "splits" in b.id)
    assert {str(row[0])[:8] for row in splits.numbers.rows} == {"nc1@test"}, "what the first figure has is not repeated"
    said = " ".join(s for b in blocks if isinstance(b, Text) for s in b.sentences)
    assert "last collapses first: half of its fall in nc1 by epoch 2" in said


def test_two_definitions_that_are_one_are_drawn_once(report: Report, tmp_path: Path) -> None:
    from ncpl_cli.report.sections import plasticity as losses
    from tests.studies import PERMUTED, add_run, permuted

    both = {row["metric"] for row in rows(named(report, "plasticity-0-losses"))}
    assert both == {"plasticity_loss", "plasticity_loss_b24"}  # some of these have four epochs on the first task
    with open_store(str(tmp_path / "one.db")) as opened:
        for seed in range(2):
            add_run(opened, f"{seed:012x}", seed, "permuted-digits", PERMUTED, {"tasks": 4}, permuted(seed, 1, 4))
        section = losses.draw(gather(opened, FORMULAS))
    (table,) = (b for b in section.blocks if isinstance(b, Table))
    assert {row["metric"] for row in rows(table)} == {"plasticity_loss"}
    (figure,) = (b for b in section.blocks if isinstance(b, Figure))
    assert len({row[0] for row in figure.numbers.rows}) == 1
    assert "here equal to it" in str(section.blocks[0])


def test_files_of_figures_have_names_that_speak(report: Report) -> None:
    for figure in report.figures():
        assert re.fullmatch(r"[a-z][\w.-]*", figure.id) and not re.search(r"^[a-z-]+-\d+(-[a-z]+)?(-\d+)?$", figure.id)


# claims ------------------------------------------------------------------------------------------------------------


def claim(id_: str, accept: tuple[float | None, float | None], published: float | None, value: float,
          ci95: tuple[float, float] | None, verdict: str) -> Any:  # fmt: skip
    from ncpl_cli.analysis.claims import Judged
    from ncpl_cli.analysis.finding import Finding
    from ncpl_cli.studies import Claim

    made = Claim(id_, f"says {id_}", "gain", {}, published, "source", accept, "reason")
    return Judged(made, Finding(value, ci95, 5), verdict, "why")


def test_claims_stand_where_they_lie_in_what_is_accepted() -> None:
    from ncpl_cli.analysis.claims import AGREES, DIFFERS, UNDECIDED, Judged
    from ncpl_cli.report.claims_figure import claim_frame, claims_figure
    from ncpl_cli.report.material import Claims

    judged = (
        claim("two ends", (0.4, 0.6), 0.5, 0.55, (0.45, 0.65), AGREES),
        claim("far", (0.4, 0.6), 0.5, 1.5, (1.4, 1.6), DIFFERS),
        claim("at least", (0.0, None), None, 0.02, (-0.01, 0.05), UNDECIDED),
        claim("at most", (None, -0.85), -0.945, -0.75, None, DIFFERS),
    )
    without = Judged(judged[0].claim, None, UNDECIDED, "no value")
    of = Claims("study", "source", "part", "smoke", (*judged, without))
    found = claim_frame(of).set_index("claim")
    places = found[["at", "from", "to", "theirs", "zone0", "zone1"]]
    np.testing.assert_allclose(places.loc["says two ends"], [0.5, -0.5, 1.5, 0, -1, 1], atol=1e-12)
    np.testing.assert_allclose(places.loc["says far"], [10, 9, 11, 0, -1, 1], atol=1e-12)
    np.testing.assert_allclose(places.loc["says at least"], [1, -0.5, 2.5, np.nan, 0, 3], atol=1e-12)
    np.testing.assert_allclose(places.loc["says at most"], [2.5, np.nan, np.nan, -2.375, -3, 0], atol=1e-12)
    assert found.loc["says two ends", "said"] == "agrees: 0.550 (0.450 to 0.650)\npublished 0.5, 5 runs"
    figure = claims_figure(of)
    assert figure is not None and figure.id == "claims-study-part-smoke" and "1 further claim without" in figure.caption
    with theme.drawn(figure.draw()) as drawn:
        (axes,) = drawn.axes
        verdicts = sorted((-text.get_position()[1], text.get_text().split(":")[0]) for text in axes.texts)
        assert [verdict for _, verdict in verdicts] == ["agrees", "differs", "not decided", "differs"]
        low, high = axes.get_xlim()
        marks = np.concatenate([np.ma.getdata(c.get_offsets()).reshape(-1, 2)[:, 0] for c in axes.collections])
        assert ((low <= marks) & (marks <= high)).all(), "nothing is drawn beyond the edge"
    assert claims_figure(Claims("study", "source", "part", "smoke", (without,))) is None


def test_panels_of_a_figure_can_be_stacked(page: Path, report: Report) -> None:
    with theme.drawn(next(f for f in report.figures() if f.id == "accuracy-by-task-permuted-digits").draw()) as figure:
        svg, panels = theme.panels_of(theme.page_svg(figure, "f", "title"))
        count = len(figure.axes)
    _, _, width, height = (float(n) for n in re.search(r'viewBox="([^"]*)"', svg)[1].split())  # type: ignore[index]
    assert len(panels) == count + 1 and 'id="f-all"' in svg and "data-panels" not in svg
    for x, y, w, h in panels:
        assert 0 <= x < x + w <= width + 1 and 0 <= y < y + h <= height + 1
    for (x, y, w, h), (x2, y2, w2, h2) in itertools.combinations(panels, 2):
        assert min(x + w, x2 + w2) - max(x, x2) <= 8 or min(y + h, y2 + h2) - max(y, y2) <= 16, "no panel is in another"


def test_a_dot_takes_a_quarter_of_its_circle() -> None:
    numbers = pd.DataFrame({"panel": "y", "group": "g", "x": [1.0, 2.0, 3.0], "mean": [1.0, 2.0, 1.5], "low": 0.5,
                            "high": 2.5, "runs": 7})  # fmt: skip
    from ncpl_cli.report.lines import draw

    with theme.drawn(draw(numbers, x="epoch")) as figure:
        svg = theme.page_svg(figure, "f", "title")
    dots = re.findall(r'd="M (\S+) (\S+) h0"[^>]*', svg)
    lines = re.findall(r' d="M ([^"zhC]+)"[^>]*stroke="var\(--c0\)"', svg)
    (points,) = [[float(n) for n in d.split()] for d in lines if len(d.split()) == 6]
    drawn = [float(n) for dot in dots for n in dot]
    assert len(dots) == 3 and drawn == pytest.approx(points, abs=0.02), "where the line has its points"
