"""Water-cloud coefficients from data: `WaterCloud` beside the published form, residual in dB.

    python benchmarks/watercloud_fit.py [--data ../shared/data/cropradar_wcm] [--json watercloud_fit.json]

Two tables of the book *Radar Remote Sensing for Crop Biophysical Parameter Estimation* (Mandal et al. 2021):
``sec43_hh_hv_vv``, C-band backscatter of soybean with plant area index and soil moisture measured in the field (29
points), and ``wheat_simulated`` (47 points). No incidence is given with either; 35 degrees is used throughout.

Published form, five coefficients a channel, least squares in linear power as published, and once more in dB:
``A V^E cos(theta) (1 - T2) + D exp(C m) cos(theta) T2``. Ours: the soil is Oh (2004) of moisture and of one rms height
for all channels; three coefficients a channel (A, B, E), or two (E = 1), least squares in dB.

Where wet biomass is given (wheat) the published form lets plant area scatter and biomass attenuate, ``T2 = exp(-2 B W^F
/ cos(theta))``, six coefficients. The VV channel of that table is such a cloud, so dense that no soil is seen: A and E
are known to eight digits, the rest not at all. Its VH channel is none: it depends on biomass, and the best cloud of six
coefficients (global search over the exponents) stays 0.1 dB away.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pi_vae.physics import WaterCloud

FOLDER = Path(__file__).parents[1].parent / "shared" / "data" / "cropradar_wcm"
ANGLE = 35.0
COSINE = math.cos(math.radians(ANGLE))


def read(folder: Path) -> dict[str, dict[str, Tensor]]:
    """Name -> ``lai`` and ``moisture`` ``[point]`` and the power of each channel."""
    field, wheat = folder / "sec43_hh_hv_vv", folder / "wheat_simulated"
    crop = np.loadtxt(field / "calibrationcrop.csv", delimiter=",")
    soybean = {"lai": crop[:, 0], "moisture": crop[:, 1]}
    soybean |= {pol: np.loadtxt(field / f"calibration{name}.csv") for pol, name in
                (("HH", "HH"), ("VH", "HV"), ("VV", "VV"))}  # fmt: skip
    crop = np.loadtxt(wheat / "calibrationcrop.csv", delimiter=",", skiprows=1)
    power = np.loadtxt(wheat / "LUT_sigma0.csv", delimiter=",", skiprows=1)
    simulated = {"lai": crop[:, 0], "biomass": crop[:, 1], "moisture": crop[:, 2], "VH": power[:, 0], "VV": power[:, 1]}
    return {name: {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in table.items()}
            for name, table in (("soybean, observed", soybean), ("wheat, simulated", simulated))}  # fmt: skip


def decibel(power: Tensor) -> Tensor:
    return 10 * torch.log10(power.clamp_min(1e-9))


def minimise(loss: Callable[[Tensor], Tensor], starts: Tensor) -> Tensor:
    """Best of several quasi-Newton descents."""
    best, least = starts[0], math.inf
    for start in starts:
        x = start.clone().requires_grad_()
        optimizer = torch.optim.LBFGS([x], max_iter=400, line_search_fn="strong_wolfe")

        def closure(x: Tensor = x, optimizer: torch.optim.Optimizer = optimizer) -> Tensor:
            optimizer.zero_grad()
            value = loss(x)
            value.backward()
            return value

        optimizer.step(closure)
        value = float(loss(x).detach())
        if value < least:
            best, least = x.detach(), value
    return best


def random_starts(centre: list[float], number: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    middle = torch.tensor(centre, dtype=torch.float64)
    return middle + 0.7 * torch.randn(number, len(centre), generator=generator, dtype=torch.float64)


def published(table: dict[str, Tensor], pol: str, in_db: bool) -> tuple[Tensor, dict]:
    """Modelled power of a channel by the published form, and its coefficients; biomass attenuates where it is given."""
    v, m, seen = table["lai"], table["moisture"], table[pol]
    two = "biomass" in table

    def model(x: Tensor) -> Tensor:
        a, b, d = x[:3].exp()
        transmitted = torch.exp(-2 * b * (table["biomass"] ** x[5] if two else v) / COSINE)
        return a * v ** x[4] * COSINE * (1 - transmitted) + d * torch.exp(x[3] * m) * COSINE * transmitted

    def loss(x: Tensor) -> Tensor:
        if in_db:
            return (decibel(model(x)) - decibel(seen)).square().mean()
        return 1e3 * (model(x) - seen).square().mean()

    starts = random_starts([-2.5, -1.5, -3.0, 1.0, 0.0])
    if two:  # attenuation that grows, hardly depends, or falls with biomass
        power = torch.tensor([1.0, -1.0, -5.0], dtype=starts.dtype).repeat(4).unsqueeze(-1)
        starts = torch.cat([starts, power], -1)
    x = minimise(loss, starts)
    names = dict(zip("ABD", x[:3].exp().tolist(), strict=True)) | dict(zip("CEF", x[3:].tolist(), strict=False))
    return model(x), names


def ours(table: dict[str, Tensor], pols: list[str], exponent: bool) -> tuple[Tensor, dict]:
    """Modelled power ``[point, pol]`` by `WaterCloud` with one roughness, and its coefficients."""
    op = WaterCloud(pols=pols, exponent=exponent)
    seen = torch.stack([table[pol] for pol in pols], -1)
    geometry = {"incidence": torch.tensor(ANGLE, dtype=torch.float64)}

    def named(x: Tensor) -> dict[str, Tensor]:
        values = {n: v if n.startswith("e_") else v.exp() for n, v in zip(op.coefficients, x, strict=False)}
        return values | {"roughness": 0.3 + 4.7 * torch.sigmoid(x[-1])}  # within the data of Oh (2004)

    def model(x: Tensor) -> Tensor:
        return op({"lai": table["lai"], "soil_moisture": table["moisture"], **named(x)}, geometry)

    count = len(pols)
    centre = [-2.5] * count + [-1.5] * count + [0.0] * count * exponent + [0.0]
    x = minimise(lambda x: (decibel(model(x)) - decibel(seen)).square().mean(), random_starts(centre))
    return model(x), {name: float(value) for name, value in named(x).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=FOLDER)
    parser.add_argument("--json", type=Path, default=Path("watercloud_fit.json"))
    args = parser.parse_args()
    if not args.data.is_dir():
        raise SystemExit(f"No data in {args.data}: give the folder cropradar_wcm with --data.")
    results: dict[str, dict] = {}
    for name, table in read(args.data).items():
        pols = [pol for pol in ("HH", "VH", "VV") if pol in table]
        print(f"\n{name}, {len(table['lai'])} points: root mean square residual in dB")
        print(f"{'form':44}{'coefficients':>13}" + "".join(f"{pol:>8}" for pol in pols))
        forms: dict[str, tuple[Tensor, dict, int]] = {}
        for label, in_db in (("published, least squares in power", False), ("published, least squares in dB", True)):
            fits = [published(table, pol, in_db) for pol in pols]
            coefficients = {pol: fit[1] for pol, fit in zip(pols, fits, strict=True)}
            forms[label] = torch.stack([f for f, _ in fits], -1), coefficients, sum(map(len, coefficients.values()))
        for label, exponent in (("WaterCloud over Oh 2004, A B E", True), ("WaterCloud over Oh 2004, A B", False)):
            forms[label] = *ours(table, pols, exponent), (2 + exponent) * len(pols) + 1
        seen = torch.stack([table[pol] for pol in pols], -1)
        forms["mean of the channel"] = seen.log().mean(0).exp().expand_as(seen), {}, len(pols)
        for label, (power, coefficients, count) in forms.items():
            residual = (decibel(power) - decibel(seen)).square().mean(0).sqrt().tolist()
            results[f"{name}/{label}"] = {
                "rms_db": dict(zip(pols, residual, strict=True)),
                "coefficients": coefficients,
            }
            print(f"{label:44}{count:13d}" + "".join(f"{value:8.2f}" for value in residual), flush=True)
    args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
