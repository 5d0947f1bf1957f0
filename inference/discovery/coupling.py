"""A law found becomes part of the operator."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable

from inference.discovery.dataset import DRIVERS
from inference.discovery.law import Law, Laws
from pi_vae import PhysicsVAE

__all__ = ["couple"]

log = logging.getLogger(__name__)


def couple(model: PhysicsVAE, laws: Law | Laws | Iterable[Law], widen: float = 0.3) -> PhysicsVAE:
    """Copy of a model whose operators are corrected by laws; refit it with `inference.fit`.

    Args:
        model: a fitted model; it stays as it is.
        laws: what `discover` found; of `Laws` the best ones are taken. No law gives an equal copy.
        widen: share of each coefficient that is added in quadrature to what discovery leaves open, as its prior:
            physical variables have taken over what they could, so that what was left may be a part of the effect. With
            0 the prior is discovery's posterior.

    Returns:
        The copy, with one `pi_vae.law.LawTerm` per law in ``model.modalities[target].laws``.

    Raises:
        ValueError: a law is of a modality or channel that the model lacks, or reads what the model does not give to
            laws: variables of the model, angles of the modality and the weather, but no calendar.
    """
    laws = [laws] if isinstance(laws, Law) else list(laws.best if isinstance(laws, Laws) else laws)
    coupled = copy.deepcopy(model)
    for law in laws:
        if law.modality not in coupled.modalities:
            raise ValueError(
                f"The law is of modality {law.modality!r}, and the model has {', '.join(coupled.modalities)}: couple "
                "it to a model with that modality."
            )
        modality = coupled.modalities[law.modality]
        if law.channel not in modality.channels:
            raise ValueError(
                f"The law is of channel {law.channel!r} of {law.modality}, and the model has "
                f"{', '.join(modality.channels)}: couple it to a model with that channel."
            )
        given = {*coupled.dynamic, *coupled.static, *modality.angles, *DRIVERS}
        missing = [name for name in law.inputs if name not in given]
        if missing:
            raise ValueError(
                f"The law of {law.modality} {law.channel} reads {missing[0]!r}, which the model does not give to laws: "
                f"discover it anew with inputs among {', '.join(sorted(given))}."
            )
        if not law.passes:
            log.warning("The law of %s %s did not pass the null: %s.", law.modality, law.channel, law)
        term = law.term(modality.channels, widen)
        modality.laws.append(term.to(modality.noise.prior_loc.device))
    return coupled
