"""Types of STAR labels. What a label holds is decided by its name, never guessed from one file's values."""

from __future__ import annotations

import re

INTEGER_LABELS = frozenset("""
rlnOpticsGroup rlnRandomSubset rlnClassNumber rlnGroupNumber rlnImageSize rlnImageSizeX rlnImageSizeY rlnImageSizeZ
rlnImageDimensionality rlnTomoSizeX rlnTomoSizeY rlnTomoSizeZ rlnTomoFrameCount rlnTomoTiltMovieFrameCount
rlnTomoSubTomosAre2DStacks rlnCtfDataAreCtfPremultiplied rlnMicrographFrameNumber rlnMicrographStartFrame
rlnMotionModelVersion rlnNrOfSignificantSamples rlnParticleNumber rlnSpectralIndex rlnCurrentIteration
rlnNumberOfIterations rlnHelicalTubeID rlnBeamTiltClass rlnTomoDeformationGridSizeX rlnTomoDeformationGridSizeY
rlnCtfPremultiplied rlnIsFlip rlnReferenceDimensionality rlnDataDimensionality rlnOriginalImageSize
tlTiltId tlExcluded tlImageSizeX tlImageSizeY tlFrame tlIteration tlSection tlRow tlColumn
""".split())

FLOAT_LABELS = frozenset("""
rlnVoltage rlnSphericalAberration rlnAmplitudeContrast rlnMicrographOriginalPixelSize rlnTomoTiltSeriesPixelSize
rlnTomoHand rlnTomoTomogramBinning rlnTomoSubtomogramBinning rlnImagePixelSize rlnMicrographPixelSize
rlnDetectorPixelSize rlnMagnification rlnMicrographPreExposure rlnMicrographDoseRate rlnTomoImportFractionalDose
rlnTomoNominalStageTiltAngle rlnTomoNominalTiltAxisAngle rlnTomoNominalDefocus rlnDefocusU rlnDefocusV
rlnDefocusAngle rlnCtfAstigmatism rlnPhaseShift rlnCtfBfactor rlnCtfScalefactor rlnCtfMaxResolution
rlnCtfFigureOfMerit rlnCtfIceRingDensity rlnCtfBfactorPerElectronDose rlnTomoDefocusSlope
rlnTomoXTilt rlnTomoYTilt rlnTomoZRot rlnTomoXShiftAngst rlnTomoYShiftAngst
rlnCenteredCoordinateXAngst rlnCenteredCoordinateYAngst rlnCenteredCoordinateZAngst
rlnCoordinateX rlnCoordinateY rlnCoordinateZ rlnOriginX rlnOriginY rlnOriginZ
rlnOriginXAngst rlnOriginYAngst rlnOriginZAngst rlnAngleRot rlnAngleTilt rlnAnglePsi
rlnAngleRotPrior rlnAngleTiltPrior rlnAnglePsiPrior
rlnTomoSubtomogramRot rlnTomoSubtomogramTilt rlnTomoSubtomogramPsi rlnLCCmax rlnAutopickFigureOfMerit
rlnLogLikeliContribution rlnMaxValueProbDistribution rlnNormCorrection rlnResolution rlnAngstromResolution
rlnFourierShellCorrelation rlnFourierShellCorrelationCorrected rlnFourierShellCorrelationUnmaskedMaps
rlnFourierShellCorrelationMaskedMaps rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps
rlnMicrographShiftX rlnMicrographShiftY rlnMicrographBinning rlnFinalResolution tlExposure
tlValue tlValueEven tlValueOdd
""".split())

_STRING_ENDING = re.compile(r"(Name|NameEven|NameOdd|File|Image|Type|Directory|Label|Version|Frames|Matrix|"
                            r"Group[N]ame|Symmetry|SymmetryGroup|Map[12]?|Map1File|Map2File|Job|Status|"
                            r"Tomogram|TomogramHalf[12]|Reason|Species|Proj[XYZW]|Coefficients)$")
_CLEAR_INTEGER = re.compile(r"(0|-?[1-9]\d{0,17})$")
_CLEAR_FLOAT = re.compile(r"-?(0|[1-9]\d*)\.\d*([eE][+-]?\d{1,3})?$")
_NOT_FINITE = {"nan", "-nan", "inf", "-inf"}


def label_type(label: str, values: list[str]) -> type:
    """int, float or str for a column: from the label where it is known, else from the values.

    Unknown columns are numbers only where every value is clearly one: "001", "1e5", "" and "1-2" stay strings.
    """
    if label in INTEGER_LABELS:
        return int
    if label in FLOAT_LABELS:
        return float
    if _STRING_ENDING.search(label) or not values:
        return str
    if all(_CLEAR_INTEGER.match(value) for value in values):
        return int
    if label.startswith("tl") and all(value in _NOT_FINITE for value in values):
        return float
    if any(_CLEAR_FLOAT.match(value) for value in values) and all(_is_clear_number(value) for value in values):
        return float
    return str


def _is_clear_number(value: str) -> bool:
    return bool(_CLEAR_FLOAT.match(value) or _CLEAR_INTEGER.match(value) or value.lower() in _NOT_FINITE)
