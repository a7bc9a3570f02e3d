"""For papers: tables in LaTeX, figures of a column's width, what to cite, the kit, which layer is first."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from ncpl_cli.analysis import load
from ncpl_cli.analysis.layers import layer_orders
from ncpl_cli.main import call
from ncpl_cli.report import theme
from ncpl_cli.report.blocks import Report, Section, Table
from ncpl_cli.report.formats.latex_format import latex, render
from ncpl_cli.store import open_store
from tests.studies import make_store


def test_tables_are_latex_with_nothing_obeyed() -> None:
    table = Table("a-b", "gain_of 5 %", ("arm & co", "gain", "low", "high", "empty"),
                  ((r"\input{x}", 0.12345, 0.1, 0.14, None), ("l2_init", None, None, None, None)))  # fmt: skip
    text = render(Report("r", (), (Section("s", "S", (table,)),)), {}, None)
    assert r"\textbackslash{}input\{x\} & 0.123 & 0.100 & 0.140 \\" in text and r"arm \& co & gain & low & high" in text
    assert r"\caption{gain\_of 5 \%.}" in text and r"\label{tab:a-b}" in text and "lrrr" in text
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 1 and "empty" not in text
    assert latex("$x^2$ ~ #") == r"\$x\textasciicircum{}2\$ \textasciitilde{} \#"


def test_a_figure_has_the_width_of_a_column_and_truetype(tmp_path: Path) -> None:
    import pandas as pd

    from ncpl_cli.report.lines import draw

    numbers = pd.DataFrame({"panel": "y", "group": "g", "x": [1.0, 2.0], "mean": [1.0, 2.0], "low": 0.5, "high": 2.5,
                            "runs": 7})  # fmt: skip
    look = theme.Look.read("84mm", "DejaVu Serif")
    with theme.drawn(draw(numbers, x="epoch"), look) as figure:
        assert figure.get_size_inches()[0] == pytest.approx(84 / 25.4)
        theme.save(figure, tmp_path / "f.pdf", "pdf")
        assert {text.get_fontfamily()[0] for text in figure.findobj(theme_text())} == {"DejaVu Serif"}
    pdf = (tmp_path / "f.pdf").read_bytes()
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf, "TrueType"


def theme_text() -> type:
    from matplotlib.text import Text

    return Text


@pytest.mark.parametrize(
    ("given", "says"),
    [(["--width", "3.3in"], "name a directory"), (["--figures", "f", "--width", "3.3"], "write 3.3in"),
     (["--figures", "f", "--width", "400in"], "is no width"), (["--figures", "f", "--font", "Nofont"], "unknown font"),
     (["--kit", "k", "-o", "r.html"], "--kit writes its own files")],
)  # fmt: skip
def test_what_no_figure_can_have_is_said(
    given: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(["report", *given]) == 2 and says in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("papers") / "ncpl.db"
    make_store(path)
    return str(path)


def test_what_to_cite_follows_from_what_was_used(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["cite", "--db", store, "--json"]) == 0
    found = {one["key"]: one["for"] for one in json.loads(capsys.readouterr().out)["references"]}
    assert (
        "nc1" in found["bonifazi2024"] and "neural collapse" in found["papyan2020"] and "lewandowski2024" not in found
    )
    assert call(["cite", "--db", store, "--format", "bibtex"]) == 0
    entries = re.findall(r"^@\w+\{(\w+),$", capsys.readouterr().out, flags=re.M)
    assert set(entries) == {"ncpl", *found} and len(entries) == len(set(entries))
    cff = (Path(__file__).parents[1] / "CITATION.cff").read_text()
    from ncpl_cli import __version__
    from ncpl_cli.references import OURS

    assert f"version: {__version__}\n" in cff and OURS["title"] in cff


def test_a_kit_has_what_a_paper_needs(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kit = tmp_path / "kit"
    assert call(["report", "--db", store, "--name", "arms", "--kit", str(kit)]) == 0, capsys.readouterr().err
    assert {one.name for one in kit.iterdir()} == {
        "report.html", "figures", "tables.tex", "methods.md", "references.bib", "commands.sh", "checklist.md",
    }  # fmt: skip
    captions = (kit / "figures" / "captions.txt").read_text()
    drawn = {one.stem for one in (kit / "figures").glob("*.pdf")}
    assert drawn == set(re.findall(r"^([\w-]+): ", captions, flags=re.M)) and drawn
    answers = (kit / "checklist.md").read_text()
    assert "digits (content digests d1)" in answers and answers.count("- **") >= 10
    assert (kit / "references.bib").read_text().startswith("@software{ncpl,")
    assert all(line.startswith("ncpl ") for line in (kit / "commands.sh").read_text().splitlines()[2:])


def test_the_layer_that_collapses_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """v(e) = 2^(-e / h): half of the fall from the first to the last epoch is reached at the first whole e after it."""
    db = str(tmp_path / "a.db")
    with open_store(db) as made:
        for seed in range(3):
            with made.run("mine", seed=seed, name="n") as run:
                for epoch in range(1, 21):
                    fall = {"layer1": 8.0 + seed, "layer2": 4.0, "last": 2.0}
                    metrics = {f"nc1@train/{layer}": 2 ** (-epoch / h) for layer, h in fall.items()}
                    run.record(epoch=epoch, task=0, metrics={**metrics, "nc1@train/layer3": 1.0 + epoch})

    def half(h: float) -> int:
        values = 2 ** (-np.arange(1, 21) / h)
        return int(np.argmax(values <= values[0] - (values[0] - values[-1]) / 2)) + 1

    with open_store(db) as store:
        names = [str(a) for a in store.recorded([row.id for row in store.runs()])]
        (order,) = layer_orders(load(store, names), "nc1", "train")
    found = {c.layer: (c.half, c.first_in, c.runs) for c in order.layers}
    assert found == {
        "last": (half(2), 3, 3),
        "layer2": (half(4), 0, 3),
        "layer1": (half(9), 0, 3),
        "layer3": (None, 0, 3),
    }
    assert order.sentence.startswith("last collapses first") and "3 of 3 runs" in order.sentence
    assert call(["layers", "--db", db, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["groups"][0]["layers"][0]["layer"] == "last"
    assert call(["layers", "--db", db, "--metric", "nc4"]) == 2 and "--layers all" in capsys.readouterr().err


def test_the_doctor_says_what_is_missing(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NCPL_DATA_DIR", str(tmp_path))
    (tmp_path / "MNIST").mkdir()
    assert call(["doctor", "--db", store, "--json"]) == 0
    found = {row["what"]: row for row in json.loads(capsys.readouterr().out)["checks"]}
    assert "failed or diverged" in found["store"]["state"] and "mnist" in found["data"]["state"]
    assert "cifar10" in found["data"]["do"] and found["torch"]["do"] is None
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert call(["doctor", "--db", str(tmp_path / "none.db"), "--json"]) == 0
    found = {row["what"]: row for row in json.loads(capsys.readouterr().out)["checks"]}
    assert found["ray"]["do"] == "pip install 'ncpl[ray]'" and not (tmp_path / "none.db").exists()
