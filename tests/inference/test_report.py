"""The report holds the numbers of the run, its figures in itself, what to be careful of, and nothing from elsewhere."""

from __future__ import annotations

import base64
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from inference import fit
from inference.report import write_report
from inference.report.cautions import cautions

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
METRICS = {
    "settings": {"steps": 1500, "encoder": {"width": 96}, "note": "<b>bold & plain</b>"},
    "data": {"name": "patch", "dates": 12, "attribution": "Contains modified Copernicus data", "licence": "CC-BY-4.0"},
    "withheld": {
        "s2": {
            "n": 1234,
            "rmse": {"B04": 0.0213, "B08": 0.0345},
            "coverage_50": 0.512,
            "coverage_90": 0.887,
            "coverage_50_by_channel": {"B04": 0.5, "B08": 0.524},
            "coverage_90_by_channel": {"B04": 0.88, "B08": 0.894},
            "width_90": {"B04": 0.07, "B08": 0.11},
            "baselines": {"linear": {"B04": 0.0426, "B08": 0.03}, "date_mean": {"B04": 0.03, "B08": None}},
        },
        "s1": {
            "n": 321,
            "rmse": {"VV": 1.25},
            "coverage_50": 0.45,
            "coverage_90": 0.9,
            "coverage_50_by_channel": {"VV": 0.45},
            "coverage_90_by_channel": {"VV": 0.9},
            "width_90": {"VV": 4.0},
            "baselines": {"linear": {"VV": 1.0}, "date_mean": {"VV": 2.5}},
        },
    },
    "at_bound": {"lai": 0.002, "soil_moisture": 0.034},
    "lai_season": {"2019-06-15": 3.21, "2019-07-15": 4.56},
    "seconds": {"fit": 312.4, "predict": 45.0},
    "peak_memory_gb": 3.42,
    "versions": {"torch": "2.8.0"},
}


def law(passes: bool) -> dict:
    return {
        "channel": "VV", "complexity": 5, "train_skill": 0.61, "heldout_skill": 0.523, "p_value": 0.025,
        "passes": passes, "expression": "1.5*exp(-0.6*lai) if 0 < 1",
    }  # fmt: skip


class Page(HTMLParser):
    """Rows of all tables, headings, sources, figures by section; refuses tags that do not close."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.open, self.rows, self.headings = text, [], [], []
        self.images, self.attributes, self.section, self.captions = {}, [], None, []
        self.feed(text)
        self.close()
        assert not self.open, f"{self.open} never closed"

    def handle_starttag(self, tag: str, attrs: list) -> None:
        found = dict(attrs)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.section = found.get("id", self.section) if tag == "section" else self.section
        if tag == "img":
            self.images.setdefault(self.section, []).append(found)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
        if tag in ("h1", "h2", "h3"):
            self.headings.append([tag, ""])
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("th", "td"):
            self.rows[-1][-1] += data
        if self.open and self.open[-1] in ("h1", "h2", "h3"):
            self.headings[-1][1] += data

    def row(self, *start: str) -> list[str]:
        (found,) = (row for row in self.rows if row[: len(start)] == list(start))
        return found


def write(folder: Path, metrics: dict, laws: dict | None = None, figures: tuple[str, ...] = ()) -> Page:
    (folder / "metrics.json").write_text(json.dumps(metrics))
    if laws is not None:
        (folder / "laws.json").write_text(json.dumps(laws))
    (folder / "figures").mkdir(exist_ok=True)
    for name in figures:
        (folder / "figures" / name).write_bytes(PNG)
    return Page(write_report(folder).read_text(encoding="utf-8"))


@pytest.fixture
def page(tmp_path: Path) -> Page:
    laws = {"modality": "s1", "front": [law(True)], "null": [0.01, 0.02, 0.117], "dropped": {}, "settings": {}}
    figures = ("map_lai.png", "residual_map_s1.png", "residual_law_s1.png", "series_1.png", "elbo.png", "skill.png",
               "reconstruction.png", "something.png")  # fmt: skip
    return write(tmp_path, METRICS, laws, figures)


def test_skill_has_both_baselines_and_the_ratios(page: Page) -> None:
    assert page.row("B04", "0.0213") == ["B04", "0.0213", "0.0426", "0.5", "0.03", "0.71"]
    assert page.row("B08", "0.0345") == ["B08", "0.0345", "0.03", "1.15", "–", "–"]
    assert page.row("VV", "1.25") == ["VV", "1.25", "1", "1.25", "2.5", "0.5"]
    assert "on 1234 withheld observations" in page.text and "on 321 withheld observations" in page.text


def test_calibration_bounds_and_season(page: Page) -> None:
    assert page.row("B04", "50.0 %") == ["B04", "50.0 %", "88.0 %", "0.07"]
    assert page.row("all", "51.2 %") == ["all", "51.2 %", "88.7 %", "–"]
    assert page.row("soil moisture (volumetric)") == ["soil moisture (volumetric)", "0.03 to 0.5 m3 m-3", "3.4 %"]
    assert page.row("2019-07-15") == ["2019-07-15", "4.56"]


def test_time_memory_versions_settings_and_credit(page: Page) -> None:
    assert page.row("fit") == ["fit", "312"] and page.row("Peak memory [GB]") == ["Peak memory [GB]", "3.42"]
    assert page.row("torch") == ["torch", "2.8.0"]
    assert page.row("encoder.width") == ["encoder.width", "96"] and page.row("dates") == ["dates", "12"]
    assert "Contains modified Copernicus data" in page.text and "CC-BY-4.0" in page.text


def test_text_of_the_run_is_escaped(page: Page) -> None:
    assert page.row("note") == ["note", "<b>bold & plain</b>"]
    assert "<b>" not in page.text and page.row("VV", "5")[-1] == law(True)["expression"]


def test_laws_are_listed_with_their_evidence(page: Page) -> None:
    assert page.row("VV", "5")[1:6] == ["5", "0.61", "0.523", "0.025", "passes"]
    assert "0.117" in page.text and "A law passes the null for VV." in page.text
    assert "No law passes the null" not in page.text


def test_no_law_is_said(tmp_path: Path) -> None:
    page = write(tmp_path, METRICS, {"modality": "s1", "front": [law(False)], "null": []})
    assert "<p>No law passes the null.</p>" in page.text
    assert page.row("VV", "5")[5] == "fails"


def test_figures_are_inside_in_the_section_they_speak_of(page: Page) -> None:
    count = {section: len(images) for section, images in page.images.items()}
    assert count == {
        "maps": 1, "laws": 2, "series": 1, "time": 1, "skill": 1, "reconstruction": 1, "other": 1,
    }  # fmt: skip
    for image in sum(page.images.values(), []):
        assert base64.b64decode(image["src"].removeprefix("data:image/png;base64,")) == PNG
        assert len(image["alt"]) > 5
    assert "leaf area index" in page.images["maps"][0]["alt"]


def test_nothing_is_loaded_and_nothing_runs(page: Page) -> None:
    assert not re.search(r"https?://|@import|url\(", page.text)
    assert not any(tag in ("script", "link", "iframe") for tag, _, _ in page.attributes) and "<script" not in page.text
    for _, name, value in page.attributes:
        assert not name.startswith("on")
        assert name not in ("src", "href") or value.startswith(("data:image/png;base64,", "#"))


def test_headings_are_nested_and_links_lead_to_sections(page: Page) -> None:
    levels = [tag for tag, _ in page.headings]
    assert levels[0] == "h1" and levels.count("h1") == 1 and levels[1] == "h2"
    assert [text for tag, text in page.headings if tag == "h2"] == [
        "Warnings", "Maps", "Series", "Skill on withheld observations", "Calibration", "Reconstruction",
        "Residual and laws", "Variables at their bounds", "Run time and memory", "What was fitted", "Versions",
        "Other figures",
    ]  # fmt: skip
    ids = {value for _, name, value in page.attributes if name == "id"}
    assert all(value[1:] in ids for _, name, value in page.attributes if name == "href")


def test_page_fits_narrow_screens_and_dark_ones(page: Page) -> None:
    assert "width=device-width" in page.text and "max-width: 100%" in page.text
    assert "prefers-color-scheme: dark" in page.text
    tables, containers = page.text.count("<table"), len(re.findall(r"class='scroll'[^>]*><table", page.text))
    assert tables == containers > 5 and "overflow-x: auto" in page.text


def test_missing_keys_leave_sections_that_say_so(tmp_path: Path) -> None:
    page = write(tmp_path, {})
    assert page.text.count("Not part of this run.") == 10
    page = write(tmp_path, {"withheld": {"s2": {"rmse": {"B04": 0.02}}}, "peak_memory_gb": None})
    assert page.row("B04", "0.02") == ["B04", "0.02", "–", "–", "–", "–"]


# Warnings


def test_a_sound_run_has_no_warnings() -> None:
    score = {"n": 500, "rmse": {"B04": 0.02}, "coverage_90": 0.9, "coverage_90_by_channel": {"B04": 0.9},
             "baselines": {"linear": {"B04": 0.03}}}  # fmt: skip
    sound = {"settings": {"steps": 1000}, "withheld": {"s2": score}, "at_bound": {"lai": 0.05}}
    assert cautions(sound) == []


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"settings": {"steps": 150}}, "The fit had 150 steps: below 500"),
        ({"fit": {"steps": 1000, "steps_done": 400}}, "The fit stopped at step 400 of 1000"),
        ({"data": {"source": "simulator"}}, "The cube was simulated"),
        ({"withheld": {}}, "No observation was withheld"),
        ({"n": 99}, "s2: scores rest on 99 withheld observations"),
        ({"coverage_90": 0.84}, "s2: 90 % intervals are too narrow; they hold all channels 84.0 %."),
        ({"coverage_90_by_channel": {"B04": 0.96}}, "s2: 90 % intervals are too wide; they hold B04 96.0 %."),
        ({"rmse": {"B04": 0.031}}, "s2: linear interpolation in time is better at B04."),
        ({"at_bound": {"lai": 0.051, "cab": None, "other": 0.01}}, "Leaf area index: 5.1 % of the posterior means"),
    ],
)
def test_each_fault_has_one_warning(changed: dict, sentence: str) -> None:
    score = {"n": 500, "rmse": {"B04": 0.02}, "coverage_90": 0.9, "coverage_90_by_channel": {"B04": 0.9},
             "baselines": {"linear": {"B04": 0.03}}}  # fmt: skip
    score |= {key: value for key, value in changed.items() if key in score}
    rest = {key: value for key, value in changed.items() if key not in score}
    (found,) = cautions({"settings": {"steps": 1000}, "withheld": {"s2": score}} | rest)
    assert found.startswith(sentence)


def test_scores_that_are_not_known_are_no_warning() -> None:
    score = {"rmse": {"B04": None}, "coverage_90": None, "coverage_90_by_channel": {"B04": float("nan")}}
    assert cautions({"withheld": {"s2": score}}) == []


def test_the_page_shows_the_warnings_of_its_metrics(page: Page, tmp_path: Path) -> None:
    section = re.search(r"<section id='warnings'.*?</section>", page.text, re.DOTALL)
    assert section is not None
    shown = re.findall(r"<li>(.*?)</li>", section[0])
    assert shown == cautions(METRICS) and any("better at B08" in sentence for sentence in shown)
    assert "Nothing in the metrics calls for caution." in write(
        tmp_path, {"withheld": {"s2": {"rmse": {"B04": 0.02}}}}
    ).text  # fmt: skip


# The folder of a fit


@pytest.fixture(scope="module")
def run_folder(build, simulated, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fit") / "run"
    options = {"patches": 1, "patch_size": 4, "pixels": 4, "progress": False, "device": "cpu"}
    fit(build(), simulated, steps=12, seed=7, checkpoint=folder, **options)
    return folder


def test_a_checkpoint_alone_makes_a_page(run_folder: Path) -> None:
    state = torch.load(run_folder / "checkpoint.pt", weights_only=True)
    page = Page(write_report(run_folder).read_text(encoding="utf-8"))
    assert page.row("steps") == ["steps", "12"] and page.row("steps_done") == ["steps_done", "12"]
    assert page.row("seed") == ["seed", "7"] and page.row("model.width") == ["model.width", "16"]
    assert page.row("model.modalities.s2.bands") == ["model.modalities.s2.bands", "B03, B04, B08"]
    assert page.row("model.modalities.s2.laws") == ["model.modalities.s2.laws", "none"]
    assert float(page.row("elbo_nat_per_observation")[1]) == pytest.approx(-state["history"]["loss"][-1], rel=1e-4)
    assert float(page.row("fit")[1]) == pytest.approx(state["history"]["seconds"][-1], rel=0.01)
    assert page.row("pi_vae that fitted") == ["pi_vae that fitted", state["version"]]
    assert page.row("torch, now")[1].startswith(torch.__version__.split("+")[0])
    (figure,) = page.images["time"]
    assert base64.b64decode(figure["src"].removeprefix("data:image/png;base64,"))[:8] == PNG[:8]
    assert "The fit had 12 steps" in page.text and "No observation was withheld" in page.text
    assert sorted(file.name for file in run_folder.iterdir()) == ["checkpoint.pt", "report.html"]


def test_metrics_figures_and_laws_beside_a_checkpoint_are_shown_too(run_folder: Path, tmp_path: Path) -> None:
    shutil.copy(run_folder / "checkpoint.pt", tmp_path)
    metrics = METRICS | {"settings": {"steps": 1500, "model": {"width": 99}}}
    page = write(tmp_path, metrics, {"modality": "s1", "front": [law(True)], "null": []}, ("elbo.png", "map_lai.png"))
    assert page.row("model.width") == ["model.width", "99"], "metrics overrule"
    assert page.row("seed") == ["seed", "7"] and page.row("B04", "0.0213")[2] == "0.0426"
    assert page.row("predict") == ["predict", "45"] and page.row("fit") == ["fit", "312"]
    assert page.row("VV", "5")[5] == "passes"
    (figure,) = page.images["time"]
    assert base64.b64decode(figure["src"].removeprefix("data:image/png;base64,")) == PNG, "the figure of the folder"


def test_an_unfinished_or_damaged_checkpoint_says_so(run_folder: Path, tmp_path: Path) -> None:
    state = torch.load(run_folder / "checkpoint.pt", weights_only=True)
    torch.save(state | {"step": 5, "history": {"step": [], "loss": [], "seconds": []}}, tmp_path / "checkpoint.pt")
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "The fit stopped at step 5 of 12" in page.text and "time" not in page.images
    (tmp_path / "checkpoint.pt").write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match="checkpoint.pt is no checkpoint, or damaged"):
        write_report(tmp_path)
    torch.save({"weights": {}}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="is no checkpoint of a fit: give the folder"):
        write_report(tmp_path)


def test_faults_of_the_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No metrics.json and no checkpoint.pt in"):
        write_report(tmp_path)
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(ValueError, match="metrics.json is not JSON"):
        write_report(tmp_path)
    (tmp_path / "metrics.json").write_text("[]")
    with pytest.raises(ValueError, match="holds a list"):
        write_report(tmp_path)


def test_old_page_stays_until_the_new_one_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = write(tmp_path, METRICS).text

    def fail(self: Path, target: Path) -> None:
        raise OSError("disk is full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="full"):
        write_report(tmp_path)
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["figures", "metrics.json", "report.html"]
