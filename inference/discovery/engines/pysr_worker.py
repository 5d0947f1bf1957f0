"""PySR in a process of its own: ``python pysr_worker.py FOLDER``; needs NumPy and PySR, with Julia, and nothing else.

Reads ``settings.json`` and ``data.npz`` in the folder and writes ``result.json`` there; the hall of fame of PySR lies
beside it. A model with a prescribed form has no export and no reliable pickle, hence the equations go out as text.

``settings.json`` holds ``options`` (of `PySRRegressor`), ``form`` (of `TemplateExpressionSpec`, or null) and ``fit``
(names and units); ``data.npz`` holds `x` `[row, input]`, `y` `[row]` and `weights` `[row]`.
"""

import json
import sys
from pathlib import Path

import numpy as np


def main(folder: Path) -> None:
    """Search and write ``{"version", "equations": [{"complexity", "loss", "equation"}]}``."""
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    with np.load(folder / "data.npz") as data:
        x, y, weights = data["x"], data["y"], data["weights"]
    import pysr

    options = dict(settings["options"], output_directory=str(folder), run_id="search")
    if settings["form"]:
        options["expression_spec"] = pysr.TemplateExpressionSpec(**settings["form"])
    model = pysr.PySRRegressor(**options)
    model.fit(x, y, weights=weights, **settings["fit"])
    table = model.equations_
    equations = [
        {"complexity": int(c), "loss": float(loss), "equation": str(text)}
        for c, loss, text in zip(table["complexity"], table["loss"], table["equation"], strict=True)
        if np.isfinite(loss)
    ]
    result = {"version": pysr.__version__, "equations": equations}
    (folder / "result.json").write_text(json.dumps(result, allow_nan=False), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
