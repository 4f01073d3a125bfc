"""A map file -> the reference: bright, background 0, even cube, pixel size known."""

from cryoet_core.config.import_reference import ImportReference
from cryoet_core.errors import UserInputError
from cryoet_core.io.mrc import read_mrc, write_mrc
from cryoet_core.picking.reference import particle_diameter_angst, prepare_reference
from cryoet_core.step import step

with step(snakemake) as s:
    config = s.model(ImportReference)
    volume, header_pixel = read_mrc(s.input.map)
    pixel = config.pixel_size_angst or header_pixel
    if not 0.01 <= pixel <= 1000:
        raise UserInputError(
            "E-REF-04", "the map's header has no pixel size", file=s.input.map, field="pixel size", found=pixel,
            expected="0.01 to 1000 A", fix="set import_reference.pixel_size_angst",
        )
    reference = prepare_reference(volume, invert=config.invert, centre=config.centre)
    write_mrc(s.output.reference, reference, pixel)
    s.write_summary({
        "box_px": reference.shape[0], "pixel_size_angst": pixel, "header_pixel_size_angst": header_pixel,
        "diameter_angst": particle_diameter_angst(reference, pixel), "inverted": config.invert,
    })
