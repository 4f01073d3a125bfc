"""Config of one averaging round: its steps' sections and where its particles and first reference come from."""

from __future__ import annotations

from typing import Literal

from cryoet_core.config.base import StepModel, key
from cryoet_core.config.extract_subtomos import ExtractSubtomos
from cryoet_core.config.initial_model import InitialModel
from cryoet_core.config.postprocess import Postprocess
from cryoet_core.config.reconstruct_particle import ReconstructParticle
from cryoet_core.config.refine import Refine


class AveragingRound(StepModel):
    """One round: extract the particles, (make an initial model,) refine, reconstruct, postprocess."""

    name: str = key(
        meaning="name of the round; its results are in <step>/<name>/", pattern=r"^[A-Za-z0-9][\w.-]*$", max_length=100
    )
    reference: Literal["initial_model", "template", "previous"] = key(
        "initial_model",
        meaning="first reference: an initial model made in this round, the matched template, or the previous round's map",
    )
    extract_subtomos: ExtractSubtomos = key(ExtractSubtomos(), meaning="extraction of pseudo-subtomograms")
    initial_model: InitialModel = key(InitialModel(), meaning="used only when reference is initial_model")
    refine: Refine = key(Refine(), meaning="gold-standard refinement")
    reconstruct_particle: ReconstructParticle = key(ReconstructParticle(), meaning="reconstruction at the final poses")
    postprocess: Postprocess = key(Postprocess(), meaning="mask, FSC, sharpening")
