"""README and pages: links that lead somewhere, a site that builds; exports that others can read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ncpl_cli.main import call
from ncpl_cli.store import open_store
from ncpl_cli.store.event_files import crc32c, events
from ncpl_cli.store.tracker_logs import tensorboard
from tests.studies import make_store

HOME = Path(__file__).parents[1]
PAGES = [HOME / "README.md", *sorted((HOME / "docs").glob("*.md"))]


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w -]", "", head).strip().lower().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        place = page.parent / path if path else page
        assert place.is_file(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(place), f"{page.name}: {target}"


def test_the_readme_is_read_at_a_sitting_and_asks_twelve_questions() -> None:
    text = (HOME / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 200
    assert len(re.findall(r"^\| .+\? \| `ncpl .+` \|", text, flags=re.M)) == 12


def test_the_site_builds_and_has_every_page(tmp_path: Path) -> None:
    build = pytest.importorskip("mkdocs.commands.build", reason="mkdocs is not here (make setup installs it)")
    from mkdocs.config import load_config

    config = load_config(str(HOME / "mkdocs.yml"), site_dir=str(tmp_path / "site"), strict=True)
    build.build(config)
    built = {page.stem for page in (tmp_path / "site").glob("*.html")}
    assert {page.stem for page in PAGES[1:]} <= built
    listed = re.findall(r": (\w+\.md)$", (HOME / "mkdocs.yml").read_text(), flags=re.M)
    assert sorted(listed) == sorted(page.name for page in PAGES[1:]), "every page is in the navigation"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("docs") / "ncpl.db"
    make_store(path)
    return path


def test_columns_of_an_export_are_described_beside_it(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("epochs.csv", "b.parquet", "epochs.csv"):
        assert call(["export", "--db", str(store), "-o", str(tmp_path / name), "--settings"]) == 0
    package = json.loads((tmp_path / "datapackage.json").read_text())
    assert [one["path"] for one in package["resources"]] == ["b.parquet", "epochs.csv"]
    fields = {one["name"]: one for one in package["resources"][1]["schema"]["fields"]}
    head = (tmp_path / "epochs.csv").read_text().partition("\n")[0]
    assert list(fields) == head.split(",")
    assert fields["nc1"]["type"] == "number" and "Sigma_W" in fields["nc1"]["description"]
    assert "Papyan et al. (2020)" in fields["nc1"]["source"] and fields["epoch"]["type"] == "integer"
    (tmp_path / "datapackage.json").write_text('{"name": "of somebody else"}')
    assert call(["export", "--db", str(store), "-o", str(tmp_path / "c.csv")]) == 0
    assert (tmp_path / "datapackage.json").read_text() == '{"name": "of somebody else"}'


def test_a_setting_that_is_called_like_a_column_has_one_of_its_own(tmp_path: Path) -> None:
    with open_store(tmp_path / "a.db") as made:
        for seed in range(2):
            config = {"layer": f"l{seed}", "parent": f"p{seed}", "lr": 0.1 * (seed + 1)}
            with made.run("mine", seed=seed, config=config) as run:
                run.record(epoch=1, task=0, metrics={"nc1": 1.0})
        frame = made.frame(settings=True)
    assert len(set(frame.columns)) == len(frame.columns) and frame["settings.layer"].tolist() == ["l0", "l1"]
    assert frame["layer"].tolist() == ["last", "last"] and frame["lr"].tolist() == [0.1, 0.2]


def test_event_files_hold_what_was_stored(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert crc32c(b"123456789") == 0xE3069283, "the check value of CRC-32C"
    logs = tmp_path / "logs"
    assert call(["export", "--db", str(store), "--format", "tensorboard", "-o", str(logs)]) == 0
    with open_store(store) as opened:
        row = next(row for row in opened.runs(status="finished"))
        wanted = {int(r["epoch"]): r["nc1"] for r in opened.rows(row.id) if r["nc1"] is not None}
    (_, names), *lines = list(tensorboard(logs / row.id))
    read = [dict(zip(names, values, strict=False)) for _, values in lines]
    assert {int(r["epoch"]): float(r["nc1"]) for r in read if r.get("nc1")} == wanted
    assert {int(float(r["seed"])) for r in read} == {row.seed}
    assert call(["export", "--db", str(store), "--format", "tensorboard", "-o", str(logs)]) == 2, "there already"
    assert call(["export", "--db", str(store), "--format", "tensorboard"]) == 2


def test_tensorboard_itself_reads_an_event_file(tmp_path: Path) -> None:
    loader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not here"
    )
    (tmp_path / "events.out.tfevents.1.ncpl").write_bytes(events([(1, {"nc1": 0.1}), (2, {"nc1": 1e-11})], 1.0))
    accumulator = loader.EventAccumulator(str(tmp_path))
    accumulator.Reload()
    assert [e.step for e in accumulator.Tensors("nc1")] == [1, 2]
