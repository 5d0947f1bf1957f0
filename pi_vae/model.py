r"""The generative model and its guide: one Pyro program.

For every pixel, with union dates :math:`t_1 < \dots < t_T` of all modalities,

.. math::
    u_v(\cdot) &\sim GP(m_v, k_{\ell_v}), \quad z_v(t) = F_v^{-1}(\Phi(u_v(t)))      &&\text{dynamic variables}\\
    s_v &\sim N(0, 1), \quad z_v = F_v^{-1}(\Phi(s_v))                             &&\text{static variables}\\
    r_m(\cdot) &\sim GP(0, k_{\ell_m})                                             &&\text{exclusive residual of } m\\
    y_m(t) &\sim St_\nu\big(h_m(z(t), \theta_m) + W_m r_m(t), \sigma_m\big)        &&\text{at the dates of } m

with the observation operator :math:`h_m` of the modality. Global latents: lengthscales, coefficients, loadings and
noise scales. The guide is amortised: the encoder's sites make a chain of distributions of all latents of a pixel
(`pi_vae.chain`).
"""

from __future__ import annotations

from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from pi_vae.chain import ChainPosterior
from pi_vae.course import CommonCourse
from pi_vae.data.batches import Batch
from pi_vae.data.patches import Patches
from pi_vae.date_effect import DateEffect
from pi_vae.encoders import FusionEncoder, Sites
from pi_vae.latents import Latents
from pi_vae.law import LawTerm
from pi_vae.modality import Modality, Optical, Radar
from pi_vae.modules import ModuleDict
from pi_vae.priors import GlobalLatents, Marginals, SpatialPrior, TemporalGP
from pi_vae.residual import Residual
from pi_vae.season import SeasonalMean
from pi_vae.variables import Variable, changed, lookup

__all__ = ["PhysicsVAE"]

pyro.settings.set(module_local_params=True)
BUILT_IN = {"Optical": Optical, "Radar": Radar}


class PhysicsVAE(nn.Module):
    """Physics-informed variational autoencoder of a multi-modal image time series.

    Args:
        modalities: name of the cube's node -> modality. Default: ``{"s2": Optical(), "s1": Radar()}``.
        temporal: prior of the dynamic variables.
        lengthscale: prior median of their lengthscales in days, one for all or variable -> days.
        width: features of the encoder.
        layers: its attention layers.
        course: harmonics of the year in the mean :math:`m_v` that the processes of all pixels share
            (`pi_vae.course`); with 0 it is zero.
        phenology: seasons per year, 0, 1 or 2, that leaf area follows (`pi_vae.season`); with 0 it has no expected
            course.
        priors: what this model changes in the catalogue of variables, variable -> field -> value
            (`pi_vae.variables.changed`): another prior, a narrower support, static instead of dynamic or the reverse.

    Attributes:
        catalogue: name -> variable, with these changes; all that is said of a variable of this model stands there.
        dynamic, static: names of the variables that the model reads, in the order of their latents.

    Raises:
        ValueError: no modality reads leaf area, yet it shall follow a season; another number of seasons; a change of
            the catalogue that makes no sense, concerns a variable that no modality reads, or lets leaf area stand
            still or a date of the season move.

    Example:
        >>> from pi_vae import Optical, PhysicsVAE, Radar
        >>> model = PhysicsVAE({"s2": Optical(bands=["B03", "B04", "B08"], residual=1), "s1": Radar()})
        >>> model.dynamic
        ('lai', 'cab', 'cw', 'cbrown', 'soil_moisture', 'soil_brightness')
        >>> PhysicsVAE(priors={"ala": {"dynamic": True}, "cw": {"loc": 0.019, "scale": 0.0095}}).dynamic
        ('lai', 'cab', 'cw', 'cbrown', 'soil_moisture', 'soil_brightness', 'ala')
    """

    def __init__(
        self,
        modalities: Mapping[str, Modality] | None = None,
        temporal: TemporalGP | None = None,
        lengthscale: float | Mapping[str, float] | None = None,
        width: int = 64,
        layers: int = 2,
        course: int = 0,
        phenology: int = 0,
        priors: Mapping[str, Mapping[str, float | str | bool]] | None = None,
    ) -> None:
        super().__init__()
        self.modalities = ModuleDict(modalities if modalities is not None else {"s2": Optical(), "s1": Radar()})
        needed = {name for modality in self.modalities.values() for name in modality.variables}
        priors = priors if priors is not None else {}
        self.catalogue: dict[str, Variable] = changed(priors)
        self._priors = {v: {field: getattr(self.catalogue[v], field) for field in priors[v]} for v in priors}
        lookup(needed)
        self.season = SeasonalMean(phenology, self.catalogue) if phenology else None
        if self.season is not None:
            if "lai" not in needed:
                raise ValueError("No modality reads 'lai', whose season phenology describes: set phenology=0.")
            needed |= set(self.season.variables)
        variables = [v for v in self.catalogue.values() if v.name in needed]
        self.dynamic = tuple(v.name for v in variables if v.dynamic)
        self.static = tuple(v.name for v in variables if not v.dynamic)
        self._check_priors(needed)
        self.dynamic_marginals = Marginals(self.dynamic, self.catalogue)
        self.static_marginals = Marginals(self.static, self.catalogue)
        self.temporal = temporal if temporal is not None else TemporalGP()
        days = lengthscale if lengthscale is not None else {"soil_moisture": 30.0}
        days = days if isinstance(days, Mapping) else dict.fromkeys(self.dynamic, days)
        self.lengthscale = GlobalLatents([days.get(name, 60.0) for name in self.dynamic], 0.5)
        self.static_odds = GlobalLatents([0.3] * len(self.dynamic), 1.0)
        processes = {"dynamic": len(self.dynamic)} | {f"residual_{m}": r.rank for m, r in self._residuals.items()}
        self.course = CommonCourse(processes, course) if course else None
        self.encoder = FusionEncoder(
            channels={m: len(o.channels) for m, o in self.modalities.items()},
            geometry={m: o.angles for m, o in self.modalities.items()},
            processes=processes,
            static=len(self.static),
            width=width,
            layers=layers,
        )
        self.kl_weight = 1.0  # lowered by `fit` while it warms up
        self._options = {"width": width, "layers": layers, "course": course, "phenology": phenology}

    @property
    def settings(self) -> dict:
        """What `from_settings` needs to build a model of the same structure; plain data."""
        return {
            "modalities": {
                name: {"class": type(m).__name__, "laws": [law.settings for law in m.laws], **m.settings}
                for name, m in self.modalities.items()
            },
            "kernel": self.temporal.name,
            "backend": self.temporal.backend,
            "lengthscale": dict(zip(self.dynamic, self.lengthscale.prior_loc.exp().tolist(), strict=True)),
            **self._options,
            "priors": {name: dict(fields) for name, fields in self._priors.items()},
        }

    @classmethod
    def from_settings(cls, settings: Mapping) -> PhysicsVAE:
        """Build a model from `settings`.

        Raises:
            ValueError: a modality is of a class of the user's own; such a model has to be built by the user.
        """
        modalities = {}
        for name, arguments in settings["modalities"].items():
            arguments = dict(arguments)
            kind, laws = arguments.pop("class"), arguments.pop("laws")
            if kind not in BUILT_IN:
                raise ValueError(f"Modality {name!r} is a {kind}, unknown to pi_vae: build the model yourself.")
            modalities[name] = BUILT_IN[kind](**arguments)
            modalities[name].laws.extend(LawTerm.from_settings(law) for law in laws)
        temporal = TemporalGP(settings["kernel"], settings.get("backend", "auto"))
        names = ("lengthscale", "width", "layers", "course", "phenology", "priors")
        return cls(modalities, temporal, **{name: settings[name] for name in names})

    def model(self, batch: Batch) -> None:
        """Generative program; observes the seen observations of the batch's pixels."""
        shared = {site: pyro.sample(site, prior) for site, prior in self.globals("prior").items()}
        with pyro.plate("pixel", len(batch.pixels)), poutine.scale(scale=batch.scale * self.kl_weight):
            drawn = {site: pyro.sample(site, prior) for site, prior in self.local_priors(batch, shared).items()}
        latents = self.latents(drawn, batch.dates, shared)
        for name, observed in batch.modalities.items():
            if name not in self.modalities:
                continue
            footprints = batch.footprints(name)
            mean = self.expected(name, latents, batch, shared)[..., footprints, :, :].mean(-3)
            likelihood = self.modalities[name].likelihood(mean, shared[f"{name}_noise"])
            pixels = batch.pixels[footprints[:, 0]]
            with pyro.plate(f"{name}_footprint", len(pixels)), poutine.scale(scale=batch.scale):
                pyro.deterministic(f"{name}_mean", mean, event_dim=2)
                pyro.sample(name, likelihood.mask(observed.scored(pixels)).to_event(2), obs=observed.series(pixels))

    def guide(self, batch: Batch) -> ChainPosterior:
        """Amortised posterior: encoder -> sites -> Gaussian processes given the sites, one after the other."""
        shared = {site: pyro.sample(site, posterior) for site, posterior in self.globals("posterior").items()}
        posterior = self.posterior(self.encode(batch), batch.dates, shared)
        drawn: dict[str, Tensor] = {}
        with pyro.plate("pixel", len(batch.pixels)), poutine.scale(scale=batch.scale * self.kl_weight):
            for site in posterior.names:
                drawn[site] = pyro.sample(site, posterior.conditional(site, drawn))
        return posterior

    def encode(self, batch: Batch) -> Sites:
        """What the encoder says of the batch's pixels; known effects of dates are taken off what it reads."""
        found = {name: e for name, e in self._date_effects.items() if name in batch.modalities}
        return self.encoder(batch, {n: e.median(batch.dates[batch.modalities[n].index]) for n, e in found.items()})

    def posterior(self, sites: Sites, dates: Tensor, shared: Mapping[str, Tensor], draws: int = 1) -> ChainPosterior:
        """Joint posterior of every process (event `[V, T]`) and of ``"static"`` (event `[S]`) given the sites.

        Args:
            sites: what the encoder says of the pixels.
            dates, shared, draws: see `priors`; global latents come from `draw_globals`.
        """
        return ChainPosterior(sites, self.priors(dates, shared, len(sites.static_mean), draws))

    def priors(
        self, dates: Tensor, shared: Mapping[str, Tensor], pixels: int | None = None, draws: int = 1
    ) -> dict[str, dist.TorchDistribution]:
        """Prior of a pixel's latents by site name: the static ones, then every process at the dates.

        Args:
            dates: `[T]` union dates.
            shared: global latents by site name.
            pixels, draws: how many will be asked for, where it is known; it only helps to choose how to compute.
        """
        size = {"draws": draws} | ({} if pixels is None else {"series": pixels * len(self.dynamic)})
        identity = torch.eye(len(self.static), device=dates.device)
        priors = {"static": dist.MultivariateNormal(identity.new_zeros(len(self.static)), scale_tril=identity)}
        priors["dynamic"] = self.temporal.prior(dates, shared["lengthscale"], shared["static_odds"], **size)
        for name, residual in self._residuals.items():
            lengthscale, static_odds = shared[f"{name}_lengthscale"], shared[f"{name}_static_odds"]
            priors[f"residual_{name}"] = residual.temporal.prior(dates, lengthscale, static_odds, **size)
        return priors

    def local_priors(self, batch: Batch, shared: Mapping[str, Tensor]) -> dict[str, dist.TorchDistribution]:
        """Prior, batch `[N]`, of the local latents of a batch's pixels, which may depend on their neighbours'.

        Args:
            batch: a batch.
            shared: global latents by site name.
        """
        n = len(batch.pixels)
        priors = self.priors(batch.dates, shared, n)
        for name, residual in self._residuals.items():
            if residual.reach is not None:
                site = f"residual_{name}"
                priors[site] = SpatialPrior(priors[site], shared[f"{name}_reach"], batch.pixels, batch.shape)
        return {site: prior.expand([n]) for site, prior in priors.items()}

    def check_pixelwise(self) -> None:
        """Refuse what takes pixels one by one where a residual binds them.

        Raises:
            ValueError: a residual is smooth in space.
        """
        smooth = [name for name, residual in self._residuals.items() if residual.reach is not None]
        if smooth:
            raise ValueError(
                f"The residual of {smooth[0]!r} is smooth in space, and this takes pixels one by one: use the "
                "guide, or a model with smoothness=0."
            )

    def latents(self, drawn: Mapping[str, Tensor], dates: Tensor, shared: Mapping[str, Tensor]) -> Latents:
        """Latents from draws by site name: ``"dynamic"``, ``"static"``, ``"residual_<modality>"``.

        Args:
            drawn: draws `[..., V, T]`, `[..., S]` and `[..., K, T]`.
            dates: `[T]` union dates.
            shared: global latents by site name.
        """
        common = self.common(dates, shared)
        drawn = {site: value + common[site] if site in common else value for site, value in drawn.items()}
        dynamic = drawn["dynamic"]
        if self.season is not None:
            leaf = self.dynamic.index("lai")
            row = self.season(self._static_values(drawn["static"]), dates, dynamic[..., leaf, :])
            before, after = dynamic[..., :leaf, :], dynamic[..., leaf + 1 :, :]
            dynamic = torch.cat([before, row.unsqueeze(-2), after], -2)
        residual = {k.removeprefix("residual_"): r for k, r in drawn.items() if k.startswith("residual_")}
        return Latents(dynamic, drawn["static"], residual)

    def common(self, dates: Tensor, shared: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Means `[V, T]` that the processes of all pixels share, by site name; none without a course."""
        return self.course.means(shared["course"], dates) if self.course is not None else {}

    def variables(self, latents: Latents, index: Tensor | slice = slice(None)) -> dict[str, Tensor]:
        """Physical values of latents.

        Args:
            latents: standard-normal latents.
            index: which of the union dates.

        Returns:
            name -> `[..., T]` (dynamic) or `[..., 1]` (static), in the units of the catalogue.
        """
        dynamic = self.dynamic_marginals(latents.dynamic[..., index], dim=-2).unbind(-2)
        values = dict(zip(self.dynamic, dynamic, strict=True))
        return values | {name: value.unsqueeze(-1) for name, value in self._static_values(latents.static).items()}

    def _check_priors(self, needed: set[str]) -> None:
        """Refuse changes of the catalogue that this model has no use for."""
        unread = [name for name in self._priors if name not in needed]
        if unread:
            raise ValueError(
                f"No modality reads {', '.join(map(repr, unread))}, whose prior is given: leave it out, or add the "
                "modality or phenology that reads it."
            )
        if not self.dynamic or not self.static:
            missing = "static" if self.dynamic else "dynamic"
            raise ValueError(f"No variable of this model is {missing}: leave at least one so.")
        if self.season is not None:
            moving = [name for name in self.season.variables if name in self.dynamic]
            if moving:
                raise ValueError(f"{moving[0]!r} describes a whole season: leave it static.")
            if "lai" in self.static:
                raise ValueError("Leaf area follows a season and cannot be static: leave 'lai' dynamic.")

    def _static_values(self, static: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.static, self.static_marginals(static).unbind(-1), strict=True))

    def expected(
        self, name: str, latents: Latents, batch: Batch, shared: Mapping[str, Tensor], residual: bool = True
    ) -> Tensor:
        """Mean of a modality's likelihood at its dates, `[..., T_m, C]`; without its residual on request."""
        observed = batch.modalities[name]
        drivers = {k: d[observed.index] for k, d in batch.drivers.items()}
        values = self.variables(latents, observed.index)
        mean = self.physics(name, values, observed.angles(batch.pixels), drivers, shared)
        mean = mean + self.date_effect(name, batch.dates[observed.index], shared)
        if residual and name in latents.residual:
            mean = mean + self.residual(name, latents, shared)[..., observed.index, :]
        return mean

    def physics(
        self,
        name: str,
        variables: Mapping[str, Tensor],
        angles: Mapping[str, Tensor],
        drivers: Mapping[str, Tensor],
        shared: Mapping[str, Tensor],
    ) -> Tensor:
        """`Modality.expected` of a modality with what the global latents say of its coefficients and laws."""
        modality = self.modalities[name]
        laws = [shared.get(f"{name}_law{i}") for i in range(len(modality.laws))]
        return modality.expected(variables, angles, drivers, shared.get(f"{name}_coefficients"), laws)

    def date_effect(self, name: str, dates: Tensor, shared: Mapping[str, Tensor]) -> Tensor | float:
        """What single dates do to all pixels of a modality, `[T, C]` at `[T]` dates; 0 where it has no such effect."""
        effect = self.modalities[name].date_effect
        return effect(shared[f"{name}_effect"], shared[f"{name}_size"], dates) if effect is not None else 0.0

    def know_dates(self, data: Patches) -> None:
        """Tell the effects of single dates, where there are any, when a cube was observed; other dates stay known."""
        for name, effect in self._date_effects.items():
            effect.know(data.dates[data.index[name]])

    def residual(self, name: str, latents: Latents, shared: Mapping[str, Tensor]) -> Tensor:
        """Contribution of a modality's exclusive residual at the union dates, `[..., T, C]`."""
        decoder = shared[f"{name}_loading"], shared[f"{name}_relevance"], shared.get(f"{name}_network")
        return self._residuals[name].contribution(latents.residual[name], *decoder)

    def draw_globals(self, which: str = "posterior") -> dict[str, Tensor]:
        """One draw of the global latents from their ``"posterior"`` or ``"prior"``, by site name."""
        return {site: distribution.rsample() for site, distribution in self.globals(which).items()}

    def median_globals(self) -> dict[str, Tensor]:
        """Posterior medians of the global latents, by site name."""
        return {
            site: d.base_dist.loc.exp() if site in self.global_latents else d.mean
            for site, d in self.globals("posterior").items()
        }

    @property
    def global_latents(self) -> dict[str, GlobalLatents]:
        """The positive global latents by site name: all but course, effects of dates, loadings, networks, laws."""
        sites = {"lengthscale": self.lengthscale, "static_odds": self.static_odds}
        for name, modality in self.modalities.items():
            sites[f"{name}_noise"] = modality.noise
            if modality.coefficients is not None:
                sites[f"{name}_coefficients"] = modality.coefficients
            if modality.residual is not None:
                sites[f"{name}_lengthscale"] = modality.residual.lengthscale
                sites[f"{name}_static_odds"] = modality.residual.static_odds
        sites |= {f"{name}_relevance": r.relevance for name, r in self._residuals.items()}
        sites |= {f"{name}_reach": r.reach for name, r in self._residuals.items() if r.reach is not None}
        return sites | {f"{name}_size": effect.size for name, effect in self._date_effects.items()}

    def globals(self, which: str) -> dict[str, dist.TorchDistribution]:
        """Prior or posterior of every global site."""
        sites, residuals = {}, self._residuals
        for site, latents in self.global_latents.items():
            sites[site] = getattr(latents, which)()
            name = site.removesuffix("_static_odds")
            if name in residuals:  # the last of a residual but one; the order decides what a seed draws
                sites[f"{name}_loading"] = getattr(residuals[name].loading, which)()
        for name, residual in residuals.items():
            if residual.network is not None:
                sites[f"{name}_network"] = getattr(residual.network, which)()
        if self.course is not None:
            sites["course"] = getattr(self.course, which)()
        for name, modality in self.modalities.items():
            sites |= {f"{name}_law{i}": getattr(law, which)() for i, law in enumerate(modality.laws) if law.names}
        return sites | {f"{name}_effect": getattr(e.value, which)() for name, e in self._date_effects.items()}

    @property
    def _date_effects(self) -> dict[str, DateEffect]:
        return {name: m.date_effect for name, m in self.modalities.items() if m.date_effect is not None}

    @property
    def _residuals(self) -> dict[str, Residual]:
        return {name: m.residual for name, m in self.modalities.items() if m.residual is not None}
