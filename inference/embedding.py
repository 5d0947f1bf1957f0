"""`embed`: what a model knows of a pixel as a table of named features, for classifiers and regressions.

Features are posterior means and standard deviations of the latents on the standard-normal scale of their priors (a
leaf area of +1 is one that the prior expects to be exceeded by 16 % of all), at dates that are the same for every
pixel, observed or not. They are of three parts:

physical
    means of the physical variables, static ones and those that change at every date;
exclusive
    means of the exclusive residuals of each modality;
uncertainty
    standard deviations of the physical variables.

Do not bring them to unit variance: the mean of what observations say nothing of hardly varies over pixels, and so says
nothing to a regression either; standardised, it would be noise as loud as the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr

from inference.draws import present, seeded
from inference.posterior import choose_pixels, pixel_location
from inference.training import Run
from pi_vae import PhysicsVAE
from pi_vae.data import validate, with_dates
from pi_vae.data.batches import Batch
from pi_vae.data.scene import open_tensors

__all__ = ["embed"]

EVERY = 30  # days between the dates of features
TOGETHER = 64  # pixels
PARTS = ("physical", "exclusive", "uncertainty")


def embed(
    run: Run,
    cube: xr.DataTree,
    times: Sequence | np.ndarray | None = None,
    pixels: int | list[tuple[int, int]] | None = None,
    draws: int = 64,
    seed: int = 0,
) -> xr.Dataset:
    """Features of pixels, and of pixels at dates.

    Global latents are at their posterior medians and every pixel is asked with the same draws of static latents, so
    that the means of a pixel depend on the checkpoint and on what was seen there, not on its company; standard
    deviations are of random draws, the same whenever the call is.

    Args:
        run: a fitted run.
        cube: a valid cube; observations marked ``withheld`` are not used. A modality of the model, or
            some of its channels, may be absent.
        times: dates of the features; by default one every 30 days from the first to the last observation.
        pixels: which pixels: a number drawn at random, a list of (row, column), or all of them.
        draws: of the static latents, and for standard deviations.
        seed: of the choice of pixels and of the draws.

    Returns:
        Dataset with ``features (pixel, feature)`` and ``course (pixel, time, course_feature)``, the same by date and
        without static variables. Coordinates of a feature: its name (``"lai 2021-06-01"``, ``"ala"``, ``"s1 residual
        1 2021-06-01"``, ``"sd of lai 2021-06-01"``), ``part``, ``variable``, and ``date`` (NaT for static ones);
        `pixel_row`, `pixel_column` (and `y`, `x`) locate pixels. Standard-normal scale, without unit;
        not to be standardised, see the module.

    Raises:
        CubeError: the cube breaks the data contract.
        ValueError: the cube has no modality of the model, a pixel lies outside of it, or a date cannot be read.

    Example:
        >>> from inference import Run, embed
        >>> from pi_vae import PhysicsVAE, Radar
        >>> from pi_vae.data import pattern
        >>> run = Run(PhysicsVAE({"s1": Radar(residual=1)}))  # as a fit returns it
        >>> cube = pattern(size=4).drop_nodes("s2")
        >>> cube["s1"]["backscatter"][:] = 0.05
        >>> table = embed(run, cube, pixels=[(0, 0)])
        >>> str(table.feature.values[table.part == "exclusive"][0])
        's1 residual 1 2020-11-05'
    """
    validate(cube)
    model = run.model
    channels = present(model, cube)
    nodes = [cube[name] for name in channels]
    if times is None:
        first, last = min(n.time.values[0] for n in nodes), max(n.time.values[-1] for n in nodes)
        times = np.arange(first, last + np.timedelta64(1, "ns"), np.timedelta64(EVERY, "D"))
    cube = with_dates(cube, times)
    data = open_tensors(cube, channels, partial=True)
    asked = np.unique(np.asarray(times, "datetime64[ns]"))
    index = torch.from_numpy(np.searchsorted(data.times, asked))
    rows, columns = choose_pixels(pixels, data, seed)
    found = []
    with seeded(seed):
        for chunk in torch.arange(len(rows)).split(TOGETHER):
            torch.manual_seed(seed)
            found.append(_moments(model, data.at(rows[chunk], columns[chunk], model.encoder.radius), index, draws))
    moments = {key: torch.cat([part[key] for part in found]).numpy() for key in found[0]}
    return _named(model, moments, asked).assign_coords(pixel_location(cube, data, rows, columns))


def _moments(model: PhysicsVAE, batch: Batch, index: torch.Tensor, draws: int) -> dict[str, torch.Tensor]:
    """Means, and ``sd_`` of physical ones: ``"static"`` `[pixel, S]`, ``"dynamic"`` and residuals `[pixel, V, T]`."""
    shared = model.median_globals()
    posterior = model.posterior(model.encode(batch), batch.dates, shared, draws)
    engine = torch.quasirandom.SobolEngine(len(model.static), scramble=True, seed=0)
    normal = torch.special.ndtri(engine.draw(draws).clamp(1e-6, 1 - 1e-6))
    drawn = {"static": posterior.static.at(normal[:, None, :])}
    means = {"static": drawn["static"]}
    for name in posterior.names[1:]:
        conditional = posterior.conditional(name, drawn)
        drawn[name], means[name] = conditional.rsample(), conditional.mean
    expected, latents = (model.latents(some, batch.dates, shared) for some in (means, drawn))
    moments = {"static": posterior.static.mean, "dynamic": expected.dynamic[..., index].mean(0)}
    moments |= {"sd_static": posterior.static.variance.sqrt(), "sd_dynamic": latents.dynamic[..., index].std(0)}
    return moments | {f"residual_{m}": r[..., index].mean(0) for m, r in expected.residual.items()}


def _named(model: PhysicsVAE, moments: dict[str, np.ndarray], times: np.ndarray) -> xr.Dataset:
    """Columns with names, part by part; of each part the static ones first."""
    variables = {"static": model.static, "dynamic": model.dynamic}
    table: list[tuple[str, str, np.ndarray]] = []  # part, variable, `[pixel]` or `[pixel, time]`
    for part in PARTS:
        if part == "exclusive":
            for key in (key for key in moments if key.startswith("residual_")):
                series = enumerate(moments[key].swapaxes(0, 1), 1)
                table += [(part, f"{key.removeprefix('residual_')} residual {i}", values) for i, values in series]
            continue
        before, key = ("", "{}") if part == "physical" else ("sd of ", "sd_{}")
        for kind, names in variables.items():
            values = moments[key.format(kind)].swapaxes(0, 1)
            table += [(part, before + name, value) for name, value in zip(names, values, strict=True)]
    never = np.datetime64("NaT", "ns")
    dated = [(part, name, None, never, v) for part, name, v in table if v.ndim == 1]
    text = np.datetime_as_string(times, unit="D")
    moving = [(part, name, v) for part, name, v in table if v.ndim == 2]
    dated += [(part, name, text[i], times[i], v[:, i]) for part, name, v in moving for i in range(len(times))]
    dated.sort(key=lambda row: PARTS.index(row[0]))
    coords = {
        "feature": [name if date is None else f"{name} {date}" for _, name, date, _, _ in dated],
        "part": ("feature", [row[0] for row in dated]),
        "variable": ("feature", [row[1] for row in dated]),
        "date": ("feature", [row[3] for row in dated]),
        "time": times,
        "course_feature": [name for _, name, _ in moving],
        "course_part": ("course_feature", [part for part, _, _ in moving]),
    }
    arrays = {
        "features": (("pixel", "feature"), np.stack([row[4] for row in dated], 1)),
        "course": (("pixel", "time", "course_feature"), np.stack([v for _, _, v in moving], 2)),
    }
    return xr.Dataset(arrays, coords, {"scale": "standard normal under the prior"})
