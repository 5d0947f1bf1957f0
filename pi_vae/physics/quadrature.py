r"""Reduced mode: a band value from the reflectance at a few wavelengths instead of every nanometre.

For each band, K wavelengths :math:`\lambda_k` under its response and weights :math:`w_k \ge 0`, :math:`\sum_k w_k = 1`,
with

.. math:: \sum_k w_k R(\lambda_k) \approx \sum_\lambda S(\lambda) R(\lambda)

for the spectra that a model can make. Because the weights sum to one the error is linear in the residuals
:math:`E_\lambda = R(\lambda) - y` of a wavelength from the band value :math:`y`: its mean square over draws is
:math:`w^T G w` with :math:`G = \overline{E E^T}`, least for :math:`w = G^{-1} 1 / (1^T G^{-1} 1)` on given
wavelengths. These are chosen greedily, then exchanged one by one until no exchange helps (Fedorov 1972).

Tables for S2A and S2B with every PROSPECT, K = 1..6, come from ``benchmarks/fit_quadrature.py``, which draws from the
catalogue of variables and prints the errors. For any other sensor or leaf fit your own. Errors of S2A over 10,000 fresh
draws and 13 bands, in reflectance, with PROSPECT-D and -PRO; and samples per second of one core, forward and backward,
ten bands, as ``benchmarks/physics_speed.py`` measured them in one run (every wavelength: about 4,000):

=====  =======  =======  ============  ========  ============
K      largest  RMS      largest, PRO  RMS, PRO  samples / s
=====  =======  =======  ============  ========  ============
1      2.5e-2   9.8e-4   2.8e-2        1.0e-3    192,000
2      1.3e-3   9.2e-5   2.6e-3        1.1e-4    147,000
3      4.1e-4   2.1e-5   9.6e-4        2.3e-5    119,000
4      2.5e-4   8.1e-6   7.5e-4        1.1e-5    101,000
5      6.7e-5   2.0e-6   2.4e-4        3.3e-6    87,000
6      6.6e-5   1.1e-6   5.6e-5        1.7e-6    73,000
=====  =======  =======  ============  ========  ============

Bands differ: one of 15 nm needs two wavelengths where the broad ones need four. A float instead of K gives each band
the fewest that keep an error over those draws, which is what to use (S2A, without B01, B09 and B10; 10,000 further
draws):

=======  =====  =======  =======  ==========  ============  ========
given    nodes  largest  RMS      nodes, PRO  largest, PRO  RMS, PRO
=======  =====  =======  =======  ==========  ============  ========
3        30     4.3e-4   1.9e-5
1e-3     21     9.6e-4   9.7e-5   23          7.8e-4        5.1e-5
5e-4     24     4.5e-4   3.9e-5   26          4.4e-4        3.6e-5
2e-4     29     2.2e-4   2.0e-5   31          2.1e-4        1.8e-5
=======  =====  =======  =======  ==========  ============  ========

Tried and not taken: nodes shared by all bands with weights of any sign (greedy orthogonal least squares on the same
draws) reach 4.6e-4 with 27 nodes for ten bands, but then any subset of bands needs them all.

Example::

    >>> from pi_vae.physics.sensors import Sensor
    >>> camera = Sensor.from_bands("camera", {"red": ([640, 660, 680], [0, 1, 0])})
    >>> tilt = torch.linspace(-1, 1, 50, dtype=torch.float64).unsqueeze(-1)
    >>> spectra = 0.2 + tilt * torch.linspace(0, 0.1, 2101, dtype=torch.float64)  # or those of an operator
    >>> rule = fit_quadrature(spectra, camera, nodes=1)
    >>> rule.wavelength.tolist()  # a linear spectrum is met at the middle of the band
    [[660]]
    >>> # Prosail(sensor=camera, nodes=rule)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
import torch
from torch import Tensor

from .sensors import GRID, Sensor

__all__ = ["Quadrature", "fit_quadrature", "load_quadrature"]


@dataclass(frozen=True)
class Quadrature:
    """Nodes of each band.

    Attributes:
        bands: band names.
        wavelength: ``[band, node]``, whole nm.
        weight: ``[band, node]``, >= 0, rows sum to 1.
    """

    bands: tuple[str, ...]
    wavelength: np.ndarray
    weight: np.ndarray

    def response(self, bands: Sequence[str]) -> np.ndarray:
        """The rule written as a spectral response, ``[band, 2101]``, for some of its bands.

        Raises:
            ValueError: the rule lacks a band.
        """
        missing = [band for band in bands if band not in self.bands]
        if missing:
            raise ValueError(f"The quadrature lacks {', '.join(missing)}: it holds {', '.join(self.bands)}.")
        response = np.zeros((len(bands), len(GRID)))
        for row, band in enumerate(bands):
            source = self.bands.index(band)
            np.add.at(response[row], self.wavelength[source] - GRID[0], self.weight[source])
        return response


def load_quadrature(sensor: str, leaf: str, nodes: int | float) -> Quadrature:
    """Stored rule of a sensor and a leaf model.

    Args:
        sensor: name, ``"S2A"`` or ``"S2B"``.
        leaf: ``"prospect-5"``, ``"prospect-d"`` or ``"prospect-pro"``.
        nodes: wavelengths per band, 1..6; or, as a float below 1, the largest error allowed: then each band takes as
            few as keep it over the 10,000 draws of the table above (6 where none does).

    Raises:
        ValueError: no such rule is stored; the message tells how to fit one.
    """
    path = files(__package__) / "tables" / f"quadrature_{sensor.lower()}_{leaf}.npz"
    if path.is_file():
        with path.open("rb") as stream:
            table = dict(np.load(stream))
        names = tuple(map(str, table["band"]))
        if isinstance(nodes, float) and 0 < nodes < 1:
            return _within(table, names, nodes)
        if f"wavelength_{nodes}" in table:
            return Quadrature(names, table[f"wavelength_{nodes}"].astype(int), table[f"weight_{nodes}"])
    raise ValueError(
        f"No stored quadrature with {nodes} nodes for sensor {sensor} and {leaf}: use nodes=None, or pass nodes="
        "fit_quadrature(spectra, sensor, nodes) of pi_vae.physics.quadrature with spectra of your own draws."
    )


def _within(table: dict[str, np.ndarray], names: tuple[str, ...], allowed: float) -> Quadrature:
    """The rule of each band with the fewest nodes whose stored error is below ``allowed``, padded with weights 0."""
    counts = sorted(int(key.removeprefix("error_")) for key in table if key.startswith("error_"))
    wavelength = np.zeros((len(names), counts[-1]), dtype=int)
    weight = np.zeros(wavelength.shape)
    for row in range(len(names)):
        count = next((k for k in counts if table[f"error_{k}"][row] < allowed), counts[-1])
        wavelength[row] = table[f"wavelength_{count}"][row, 0]
        wavelength[row, :count], weight[row, :count] = table[f"wavelength_{count}"][row], table[f"weight_{count}"][row]
    return Quadrature(names, wavelength, weight)


def fit_quadrature(spectra: Tensor, sensor: Sensor, nodes: int) -> Quadrature:
    """Fit wavelengths and weights to spectra.

    Args:
        spectra: reflectance, ``[draw, 2101]``, 400..2500 nm, float64, representative of what the operator will make.
        sensor: whose bands to approximate.
        nodes: wavelengths per band, >= 1. Bands with fewer wavelengths under their response get that many distinct
            ones.

    Returns:
        `Quadrature` of all bands of the sensor.

    Raises:
        ValueError: the spectra do not have 2101 columns, or ``nodes`` is below 1.
    """
    if spectra.shape[-1] != len(GRID) or nodes < 1:
        raise ValueError(f"Found {spectra.shape[-1]} wavelengths and {nodes} nodes: give 2101 and at least 1.")
    reflectance = spectra.detach().double()
    wavelength, weight = [], []
    for response in torch.from_numpy(sensor.response):
        under = torch.nonzero(response > 0).squeeze(-1)
        inside = reflectance[:, under]
        residual = inside - (inside @ response[under]).unsqueeze(-1)
        chosen, weights = _choose(residual.T @ residual / len(residual), min(nodes, len(under)))
        order = torch.argsort(chosen)
        padding = (0, nodes - len(chosen))
        picked = under[chosen[order]] + int(GRID[0])
        wavelength.append(torch.nn.functional.pad(picked, padding, value=int(picked[-1])))
        weight.append(torch.nn.functional.pad(weights[order], padding))
    return Quadrature(sensor.bands, torch.stack(wavelength).numpy(), torch.stack(weight).numpy())


def _choose(gram: Tensor, nodes: int, restarts: int = 4) -> tuple[Tensor, Tensor]:
    """Positions and weights of ``nodes`` columns with a small ``w' G w``: greedy and exchange, best of some starts."""
    everything = torch.arange(len(gram))
    greedy = torch.empty(0, dtype=torch.long)
    while len(greedy) < nodes:
        candidates = torch.cat([greedy.expand(len(gram), -1), everything.unsqueeze(-1)], -1)
        greedy = candidates[_solve(gram, candidates)[1].argmin()]
        greedy, error = _exchange(gram, greedy)
    best, least = greedy, error
    # exchange ends in a local optimum: try other starts, the same ones every time
    generator = torch.Generator().manual_seed(0)
    for _ in range(restarts):
        start = torch.randperm(len(gram), generator=generator)[:nodes]
        found, error = _exchange(gram, start)
        if error < least:
            best, least = found, error
    return best, _solve(gram, best.unsqueeze(0))[0][0]


def _exchange(gram: Tensor, chosen: Tensor) -> tuple[Tensor, float]:
    """Replace one column at a time while that lowers the error."""
    everything = torch.arange(len(gram))
    least, improved = float(_solve(gram, chosen.unsqueeze(0))[1]), True
    while improved:  # every pass lowers the error, over finitely many sets
        improved = False
        for place in range(len(chosen)):
            candidates = chosen.repeat(len(gram), 1)
            candidates[:, place] = everything
            error = _solve(gram, candidates)[1]
            if float(error.min()) < least * (1 - 1e-6):
                chosen, least, improved = candidates[error.argmin()], float(error.min()), True
    return chosen, least


def _solve(gram: Tensor, sets: Tensor) -> tuple[Tensor, Tensor]:
    """Best weights ``[set, node]`` and mean square errors ``[set]``; infinite for a negative weight or repetition."""
    size = sets.shape[-1]
    block = gram[sets.unsqueeze(-1), sets.unsqueeze(-2)]
    # neighbouring wavelengths are almost equal; the ridge keeps their weights from running off to opposite signs
    ridge = 1e-9 * block.diagonal(dim1=-2, dim2=-1).mean(-1, keepdim=True).unsqueeze(-1) + 1e-18
    ones = torch.ones(len(sets), size, 1, dtype=gram.dtype)
    raw = torch.linalg.solve(block + ridge * torch.eye(size, dtype=gram.dtype), ones)
    weights = raw.squeeze(-1) / raw.sum((-2, -1)).unsqueeze(-1)
    error = (weights.unsqueeze(-2) @ block @ weights.unsqueeze(-1)).squeeze(-1).squeeze(-1)
    ordered = sets.sort(-1).values
    repeated = (ordered.diff(dim=-1) == 0).any(-1) if size > 1 else torch.zeros(len(sets), dtype=torch.bool)
    return weights, torch.where(repeated | (weights < 0).any(-1), torch.inf, error)
