"""The report in a real browser: figures are seen, nothing runs out of the screen, the console stays silent."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from inference.report import write_report

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome-headless-shell", "chrome")
PROGRAM = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(PROGRAM is None, reason=f"no browser on this machine: none of {', '.join(NAMES)}")
SEEN = """[...document.images].map(image => {
    const box = image.getBoundingClientRect();
    return {complete: image.complete, natural: image.naturalWidth, left: box.left, right: box.right,
            height: box.height, shown: image.checkVisibility()};
})"""


class Browser:
    """A page of headless Chromium by its DevTools protocol over a pipe: JSON messages that end with a zero byte."""

    def __init__(self, program: str, profile: Path) -> None:
        (read, self.out), (self.inp, written) = os.pipe(), os.pipe()
        theirs = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (read, written)]  # out of the way of 3 and 4
        options = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
        line = [program, *options, f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"]
        # The browser reads descriptor 3 and writes to 4.
        shell = ["bash", "-c", 'exec "${@:3}" 3<&"$1" 4>&"$2"', "bash", *map(str, theirs), *line]
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(shell, pass_fds=theirs, **silent)
        for end in (read, written, *theirs):
            os.close(end)
        self.rest, self.count, self.events, self.session = b"", 0, [], {}
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.session = {"sessionId": session}
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters, **self.session}
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while (answer := self.read()).get("id") != self.count:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def read(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            part = os.read(self.inp, 1 << 16)
            assert part, "the browser ended"
            self.rest += part
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)

    def open(self, page: Path, width: int) -> None:
        self.events = []
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.call("Emulation.setDeviceMetricsOverride", **screen)
        self.call("Page.navigate", url=page.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self.read())

    def value(self, script: str) -> Any:
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"]["value"]

    def complaints(self) -> list[dict[str, Any]]:
        """Errors and warnings of the console, and exceptions."""
        self.value("0")  # what the page had to say has come before this answer
        kinds = {"Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"}
        return [event for event in self.events if event.get("method") in kinds]

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        os.close(self.out), os.close(self.inp)


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    found = Browser(str(PROGRAM), tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory, scores: dict) -> Path:
    """A report with everything in it: long names, wide tables, small and large figures."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "figures").mkdir()
    for name, width in (("map_lai", 11.0), ("series_crop", 7.0), ("elbo", 3.0), ("residual_law", 9.0)):
        with matplotlib.rc_context():
            figure = Figure(figsize=(width, 3.0))
            figure.subplots().plot(np.arange(5))
            figure.savefig(folder / "figures" / f"{name}.png", dpi=110)
    law = {"channel": "VV", "complexity": 17, "train_skill": 0.6, "heldout_skill": 0.5, "p_value": 0.05, "passes": True,
           "expression": " + ".join(f"c{i}*soil_moisture**{i}*exp(-lai)" for i in range(9))}  # fmt: skip
    metrics = {
        "settings": {"steps": 150, "model": {"modalities": {"s2": {"bands": [f"B{i:02d}" for i in range(1, 13)]}}}},
        "withheld": scores, "at_bound": {"lai": 0.12}, "seconds": {"fit": 10.0}, "versions": {"torch": "2.8.0"},
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "laws.json").write_text(json.dumps({"modality": "s1", "front": [law], "null": [0.1, 0.2]}))
    return write_report(folder)


@pytest.mark.parametrize("width", [1280, 390])
def test_figures_are_seen_within_the_screen_and_nothing_complains(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width)
    assert browser.complaints() == []
    assert browser.value("window.innerWidth") == width
    assert browser.value("document.documentElement.scrollWidth") <= width, "the page does not scroll sideways"
    images = browser.value(SEEN)
    assert len(images) == 4
    for image in images:
        assert image["complete"] and image["shown"] and image["natural"] > 100 and image["height"] > 50, image
        assert image["left"] >= 0 and image["right"] <= width, image
    assert browser.value("document.querySelector('#warnings li').textContent.length") > 20


def test_the_console_is_heard(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "bad.html").write_text("<!DOCTYPE html><title>x</title><script>console.error('a'); nothing()</script>")
    browser.open(tmp_path / "bad.html", 1280)
    assert len(browser.complaints()) == 2
