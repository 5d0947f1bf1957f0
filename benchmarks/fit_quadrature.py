"""Fit the reduced mode of Prosail and measure its error on fresh draws.

    python benchmarks/fit_quadrature.py [--write] [--leaf prospect-d] [--fit 8000] [--fresh 10000]

Draws are half uniform on the supports of the catalogue and half from its priors, soils from dark to bright and dry to
wet, sun zenith 15..75, view zenith 0..15 and relative azimuth 0..180 degrees. Prints, for every sensor, leaf model and
K, the largest and the root mean square error over bands and draws, the worst band, then the same on further draws for
rules that allow each band an error; and writes them to ``fit_quadrature.json``. ``--write`` replaces the tables of
``pi_vae/physics/tables`` (and their checksums in SOURCES.md have to follow).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pi_vae.physics import Prosail
from pi_vae.physics.quadrature import Quadrature, fit_quadrature, load_quadrature
from pi_vae.physics.sensors import load_sensor
from pi_vae.variables import CATALOGUE, Variable

TABLES = Path(__file__).parents[1] / "pi_vae" / "physics" / "tables"
NODES = range(1, 7)
BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")


def draw(names: tuple[str, ...], size: int, seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Variables and geometry of ``size`` canopies, each ``[draw]``, float64."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, n: int = size) -> Tensor:
        return low + (high - low) * torch.rand(n, generator=generator, dtype=torch.float64)

    def prior(v: Variable, n: int) -> Tensor:
        if v.prior == "uniform":
            return uniform(v.low, v.high, n)
        cdf = torch.special.ndtr(torch.tensor([(v.low - v.loc) / v.scale, (v.high - v.loc) / v.scale]).double())
        return v.loc + v.scale * torch.special.ndtri(uniform(float(cdf[0]), float(cdf[1]), n))

    variables = {"soil_wetness": uniform(0, 1)}
    for name in names:
        if name != "soil_wetness":
            v = CATALOGUE[name]
            variables[name] = torch.cat([uniform(v.low, v.high, size // 2), prior(v, size - size // 2)])
    geometry = {"sza": uniform(15, 75), "vza": uniform(0, 15), "raa": uniform(0, 180)}
    return variables, geometry


def spectra(leaf: str, size: int, seed: int) -> Tensor:
    """Reflectance ``[draw, 2101]``, computed in pieces that fit the cache."""
    op = Prosail(leaf)
    variables, geometry = draw(op.variables, size, seed)
    pieces = [slice(i, i + 100) for i in range(0, size, 100)]
    cut = lambda values, piece: {name: value[piece] for name, value in values.items()}  # noqa: E731
    with torch.no_grad():
        return torch.cat([op.spectrum(cut(variables, piece), cut(geometry, piece)) for piece in pieces])


def errors(rule: Quadrature, truth: Tensor, fresh: Tensor) -> dict:
    """Error over draws and bands of the rule against the exact band values ``truth`` ``[draw, band]``."""
    error = fresh @ torch.from_numpy(rule.response(rule.bands)).T - truth
    per_band = error.abs().amax(0)
    worst = int(per_band.argmax())
    return {
        "max": float(per_band[worst]),
        "rms": float(error.square().mean().sqrt()),
        "worst_band": rule.bands[worst],
        "max_by_band": dict(zip(rule.bands, per_band.tolist(), strict=True)),
        "rms_by_band": dict(zip(rule.bands, error.square().mean(0).sqrt().tolist(), strict=True)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--leaf", nargs="+", default=["prospect-d", "prospect-5", "prospect-pro"])
    parser.add_argument("--fit", type=int, default=8000)
    parser.add_argument("--fresh", type=int, default=10000)
    parser.add_argument("--json", type=Path, default=Path("fit_quadrature.json"))
    args = parser.parse_args()
    table: dict[str, dict] = {}
    print(f"{'sensor':8}{'leaf':12}{'K':>3}{'max':>12}{'RMS':>12}  worst band")
    for leaf in args.leaf:
        train, fresh, other = (
            spectra(leaf, size, seed) for size, seed in ((args.fit, 1), (args.fresh, 2), (args.fresh, 3))
        )
        for name in ("S2A", "S2B"):
            sensor = load_sensor(name)
            truth = fresh @ torch.from_numpy(sensor.response).T
            arrays: dict[str, np.ndarray] = {"band": np.array(sensor.bands)}
            for nodes in NODES:
                rule = fit_quadrature(train, sensor, nodes)
                arrays[f"wavelength_{nodes}"] = rule.wavelength.astype(np.int16)
                arrays[f"weight_{nodes}"] = rule.weight
                found = errors(rule, truth, fresh)
                arrays[f"error_{nodes}"] = np.array([found["max_by_band"][band] for band in sensor.bands])
                table[f"{name}/{leaf}/{nodes}"] = found
                print(
                    f"{name:8}{leaf:12}{nodes:3d}{found['max']:12.2e}{found['rms']:12.2e}  {found['worst_band']}",
                    flush=True,
                )
            if args.write:
                np.savez_compressed(TABLES / f"quadrature_{name.lower()}_{leaf}.npz", **arrays)
            columns = [sensor.bands.index(band) for band in BANDS]
            for allowed in (1e-3, 5e-4, 2e-4):
                stored = load_quadrature(name, leaf, allowed)
                rule = Quadrature(BANDS, stored.wavelength[columns], stored.weight[columns])
                found = errors(rule, (other @ torch.from_numpy(sensor.response).T)[:, columns], other)
                count = int((rule.weight > 0).sum())
                table[f"{name}/{leaf}/{allowed}"] = found | {"nodes": count}
                print(f"{name:8}{leaf:12}{allowed:7g}{found['max']:9.2e}{found['rms']:12.2e}  {count} nodes, 10 bands")
    args.json.write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
