"""`translate`: what one sensor would have seen, from what another one saw, through the latents they share.

Radar and optical operators read the same leaf area and soil moisture, and static variables besides. Observations of
the source give a posterior of these; what the target alone knows (its residual, the pigments that only optical bands
tell) keeps its prior, and the operator of the target turns both into a predictive distribution of its observations.
Gap filling is the same with the target among the sources.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from inference.draws import present
from inference.posterior import draw_tree
from inference.training import Run
from pi_vae.data import validate, with_dates, with_sensor
from pi_vae.data.tensors import CubeTensors

__all__ = ["translate"]


def translate(
    run: Run,
    cube: xr.DataTree,
    source: Sequence[str],
    target: str,
    times: Sequence | np.ndarray | None = None,
    draws: int = 200,
    pixels: int | list[tuple[int, int]] | None = None,
    seed: int = 0,
    refine: str | None = None,
) -> xr.DataTree:
    """Predictive draws of one modality from the observations of others.

    Args:
        run: a fitted run; the better its encoder knows series in which a modality is absent, the better this is
            (`fit(..., hide_modality=0.3)`).
        cube: a valid cube that has the source; the target may be there, whole or in parts, or not at all.
        source: modalities whose observations may be used, such as ``["s1"]``; with the target among them its gaps are
            filled. Observations marked ``withheld`` are not used.
        target: modality that is predicted, at its dates in the cube; if it is not there, at the dates of the source,
            with nominal geometry.
        times: further dates to predict it at.
        draws: number of draws.
        pixels: which pixels: a number drawn at random, a list of (row, column), or all of them.
        seed: of the draws and of the choice of pixels.
        refine: ``"laplace"`` finds a mode for each pixel instead of asking the guide (`inference.refinement`): better
            where few series were there to learn from, as gaps are filled above all, and slower.

    Returns:
        DataTree with ``posterior`` (variables given the source alone), ``posterior_predictive`` (the target, `(chain,
        draw, pixel, <target>_time, <target>_channel)`, reflectance or dB), ``observed_data`` (what the target did see,
        used or not) and ``constant_data``.

    Raises:
        CubeError: the cube breaks the data contract.
        ValueError: a modality is unknown to the model, the source is empty or not in the cube, a date cannot be read,
            the draws would not fit in memory, or the refinement is another.

    Example:
        >>> from inference import Run, translate
        >>> from pi_vae import Optical, PhysicsVAE, Radar
        >>> from pi_vae.data import pattern
        >>> run = Run(PhysicsVAE({"s2": Optical(bands=["B03", "B04", "B08"]), "s1": Radar()}))  # as a fit returns it
        >>> cube = pattern(size=4, bands=("B03", "B04", "B08"))
        >>> cube["s1"]["backscatter"][:] = 0.05
        >>> cube["s2"]["reflectance"][:] = 0.2
        >>> tree = translate(run, cube, source=["s1"], target="s2", draws=10, pixels=[(0, 0)])
        >>> tree["posterior_predictive"]["s2"].dims
        ('chain', 'draw', 'pixel', 's2_time', 's2_channel')
    """
    if isinstance(source, str):
        source = [source]
    modalities = run.model.modalities
    for name in (*source, target):
        if name not in modalities:
            raise ValueError(f"Modality {name!r} is unknown to the model: give one of {', '.join(modalities)}.")
    absent = [name for name in source if name not in cube.children]
    if absent or not source:
        there = ", ".join(name for name in modalities if name in cube.children)
        raise ValueError(f"Source {absent[0] if absent else source!r} is not in the cube: it has {there or 'none'}.")
    if refine not in (None, "laplace"):
        raise ValueError(f"refine is {refine!r}: give 'laplace', or None for the guide.")
    validate(cube)
    if target not in cube.children:
        cube = with_sensor(cube, target, modalities[target].channels, like=source[0])
    if times is not None:
        cube = with_dates(cube, times)
    tree = draw_tree(run, _unseen(cube, [m for m in modalities if m not in source]), draws, pixels, seed, refine)
    groups = {name: tree[name].to_dataset() for name in ("posterior", "constant_data")}
    groups["posterior_predictive"] = tree["posterior_predictive"].to_dataset()[[target]]
    groups["observed_data"] = _observed(run, cube, tree["observed_data"].to_dataset()[[target]], target)
    return xr.DataTree.from_dict(groups)


def _observed(run: Run, cube: xr.DataTree, empty: xr.Dataset, target: str) -> xr.Dataset:
    """What the target saw at the pixels of a tree, withheld or not."""
    m = CubeTensors.read(cube, present(run.model, cube), score_withheld=True, partial=True).modalities[target]
    place = (empty["pixel_row"].values, empty["pixel_column"].values)
    values, valid = m.values[0].numpy()[:, :, *place], m.valid[0].numpy()[:, *place]
    series = np.where(valid[:, None] & m.given.numpy()[:, None], values, np.nan).transpose(2, 0, 1)
    return empty.assign({target: empty[target].copy(data=series)})


def _unseen(cube: xr.DataTree, names: Sequence[str]) -> xr.DataTree:
    """The cube with all observations of some modalities withheld."""
    nodes = {name: node.to_dataset() for name, node in cube.children.items()}
    for name in names:
        if name in nodes:
            nodes[name] = nodes[name].assign(withheld=nodes[name]["valid"])
    return xr.DataTree.from_dict({"/": cube.to_dataset(), **nodes})
