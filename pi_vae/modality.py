"""Modalities: an observation operator, its likelihood, its coefficients and its exclusive residual, in one place.

A new sensor is a subclass with an operator and a likelihood, and catalogue entries for its variables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pi_vae.date_effect import DateEffect
from pi_vae.law import LawTerm
from pi_vae.modules import ModuleList
from pi_vae.physics import Prosail, WaterCloud
from pi_vae.priors import GlobalLatents
from pi_vae.residual import Residual

__all__ = ["Modality", "Optical", "Radar"]

S2_BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")


class Modality(nn.Module):
    """What every modality offers the model.

    Args:
        operator: forward model, ``operator(variables, geometry) -> [..., C]``, with ``variables`` names; where it has
            names of ``drivers``, it finds these in the geometry too.
        channels: names of its `C` bands or polarisations.
        geometry: names of the angles it reads.
        coefficients: global latents of the operator: name -> prior median.
        noise: prior median of the noise scale of each channel, in the units of the likelihood.
        residual: exclusive residual, or none.
        degrees_of_freedom: of the Student-t likelihood.
        date_effect: what single dates do to all pixels, or none.
    """

    unit = "1"
    settings: dict  # arguments of the constructor, so that a checkpoint can rebuild the modality

    def __init__(
        self,
        operator: nn.Module,
        channels: Sequence[str],
        geometry: Sequence[str],
        coefficients: Mapping[str, float],
        noise: float,
        residual: Residual | None,
        degrees_of_freedom: float,
        date_effect: DateEffect | None = None,
    ) -> None:
        super().__init__()
        self.operator, self.residual, self.date_effect = operator, residual, date_effect
        self.channels, self.angles = tuple(channels), tuple(geometry)
        self.variables: tuple[str, ...] = tuple(operator.variables)  # type: ignore[arg-type]  # of any module
        self.drivers: tuple[str, ...] = tuple(getattr(operator, "drivers", ()))
        self.coefficient_names = tuple(coefficients)
        self.coefficients = GlobalLatents(list(coefficients.values()), 0.5) if coefficients else None
        self.noise = GlobalLatents([noise] * len(self.channels), 0.5)
        self.degrees_of_freedom = degrees_of_freedom
        self.laws: ModuleList[LawTerm] = ModuleList()

    def expected(
        self,
        variables: Mapping[str, Tensor],
        geometry: Mapping[str, Tensor],
        drivers: Mapping[str, Tensor],
        coefficients: Tensor | None,
        laws: Sequence[Tensor | None] | None = None,
    ) -> Tensor:
        """What physics and the laws found say the sensor sees, without residual.

        Args:
            variables: name -> `[..., T]` physical values.
            geometry: angle -> `[T]` or `[..., T]` degrees.
            drivers: name -> `[T]` weather, for laws and for operators that ask for it.
            coefficients: `[G]` coefficients of the operator.
            laws: coefficients of every law; where there are none, their posterior means are taken.

        Returns:
            `[..., T, C]` in the units of the likelihood.

        Raises:
            ValueError: the operator needs a driver that is not given.
        """
        named = dict(variables)
        if coefficients is not None:
            named.update(zip(self.coefficient_names, coefficients.unbind(-1), strict=True))
        lacking = [name for name in self.drivers if name not in drivers]
        if lacking:
            raise ValueError(
                f"The operator of {', '.join(self.channels)} needs the driver {lacking[0]!r}: add it to the node "
                "'drivers' of the cube."
            )
        weather = {name: drivers[name] for name in self.drivers}
        signal = self.to_likelihood(self.operator(named, {**geometry, **weather}))
        for law, constants in zip(self.laws, laws if laws is not None else [None] * len(self.laws), strict=True):
            signal = signal + law({**variables, **geometry, **drivers}, constants)
        return signal

    def to_likelihood(self, signal: Tensor) -> Tensor:
        """Operator output -> units of the likelihood."""
        return signal

    def likelihood(self, mean: Tensor, noise: Tensor) -> dist.TorchDistribution:
        """Student-t around the mean, so that an outlier does not bend the fit; batch shape `[..., C]`."""
        return dist.StudentT(self.degrees_of_freedom, mean, noise)


class Optical(Modality):
    """Sentinel-2 surface reflectance by PROSAIL; the soil darkens with the moisture that the radar sees too.

    Args:
        bands: names of the bands, in the order of the cube.
        sensor: ``"S2A"`` or ``"S2B"``.
        nodes: wavelengths per band of the reduced quadrature; ``None`` is exact and far slower.
        residual: rank of the exclusive residual that lasts, 0 for none.
        degrees_of_freedom: of the Student-t likelihood.
        transient: rank of the part of the residual that is new at every date and common to its bands (haze, adjacency,
            thin cloud, anisotropy), 0 for none; repeated observations of a field differ by 0.03 to 0.05 in this way.
        kernel: of the residual, see `TemporalGP`.
        network: hidden units of the residual's decoder, 0 for a linear one.
        smoothness: pixels over which the residual of neighbours goes together, 0 for none (`pi_vae.residual`).
        date_effect: whether single dates have an effect of their own on all pixels (`pi_vae.date_effect`).
    """

    def __init__(
        self,
        bands: Sequence[str] = S2_BANDS,
        sensor: str = "S2A",
        nodes: int | None = 3,
        residual: int = 3,
        degrees_of_freedom: float = 3.0,
        transient: int = 0,
        kernel: str = "matern32",
        network: int = 0,
        smoothness: float = 0.0,
        date_effect: bool = False,
    ) -> None:
        bands = tuple(str(band) for band in bands)
        super().__init__(
            Prosail(leaf="prospect-d", sensor=sensor, bands=bands, nodes=nodes, soil="moisture"),
            bands,
            ("sza", "vza", "raa"),
            {},
            noise=0.015,
            residual=Residual(
                len(bands),
                residual,
                0.01,
                kernel=kernel,
                transient=transient,
                transient_scale=0.03,
                network=network,
                smoothness=smoothness,
            )
            if residual or transient
            else None,
            degrees_of_freedom=degrees_of_freedom,
            date_effect=DateEffect(len(bands), 0.005) if date_effect else None,
        )
        self.settings = {"bands": list(bands), "sensor": sensor, "nodes": nodes, "residual": residual}
        self.settings |= {"degrees_of_freedom": degrees_of_freedom, "transient": transient}
        self.settings |= {"kernel": kernel, "network": network, "smoothness": smoothness, "date_effect": date_effect}


class Radar(Modality):
    """Sentinel-1 backscatter in dB by a water cloud over a rough soil.

    The water-cloud coefficients are global latents; their prior medians are of the order that fits to C-band crops
    give for a cloud described by LAI (Bousbih et al. 2017; Baghdadi et al. 2017). The noise prior, 1 dB, is what an
    equivalent number of looks of about 19 leaves.

    Args:
        soil: scattering model of the soil, see `WaterCloud`.
        residual: rank of the exclusive residual that lasts, 0 for none.
        degrees_of_freedom: of the Student-t likelihood.
        transient: rank of the part of the residual that is new at every date and common to both polarisations (dew,
            rain on leaves, wind), 0 for none.
        kernel: of the residual, see `TemporalGP`.
        network: hidden units of the residual's decoder, 0 for a linear one.
        smoothness: pixels over which the residual of neighbours goes together, 0 for none (`pi_vae.residual`).
        date_effect: whether single dates have an effect of their own on all pixels (`pi_vae.date_effect`).
    """

    unit = "dB"

    def __init__(
        self,
        soil: str = "oh2004",
        residual: int = 2,
        degrees_of_freedom: float = 30.0,
        transient: int = 0,
        kernel: str = "matern32",
        network: int = 0,
        smoothness: float = 0.0,
        date_effect: bool = False,
    ) -> None:
        super().__init__(
            WaterCloud(soil=soil),
            ("VV", "VH"),
            ("incidence",),
            {"a_vv": 0.03, "a_vh": 0.006, "b_vv": 0.12, "b_vh": 0.12},
            noise=1.0,
            residual=Residual(
                2,
                residual,
                1.0,
                kernel=kernel,
                transient=transient,
                transient_scale=1.0,
                network=network,
                smoothness=smoothness,
            )
            if residual or transient
            else None,
            degrees_of_freedom=degrees_of_freedom,
            date_effect=DateEffect(2, 0.3) if date_effect else None,
        )
        self.settings = {
            "soil": soil,
            "residual": residual,
            "degrees_of_freedom": degrees_of_freedom,
            "transient": transient,
            "kernel": kernel,
            "network": network,
            "smoothness": smoothness,
            "date_effect": date_effect,
        }

    def to_likelihood(self, signal: Tensor) -> Tensor:
        """Linear power -> dB."""
        return 10 * torch.log10(signal.clamp_min(1e-6))
