"""The reference on the tomogram's grid, low-passed, and its soft mask."""

from cryoet_core.config.resize_reference import ResizeReference
from cryoet_core.io.mrc import read_mrc, write_mrc
from cryoet_core.metadata import read_tilt_series
from cryoet_core.picking.reference import particle_diameter_angst, resize_reference
from cryoet_core.step import step

with step(snakemake) as s:
    config = s.model(ResizeReference)
    volume, pixel_in = read_mrc(s.input.reference)
    pixel = read_tilt_series(s.input.table).pixel_size_angst
    reference, mask = resize_reference(
        volume, pixel_in, pixel, box_px=config.box_px, low_pass_angst=config.low_pass_angst,
        mask_dilate_px=config.mask_dilate_px, mask_edge_px=config.mask_edge_px,
    )
    write_mrc(s.output.reference, reference, pixel)
    write_mrc(s.output.mask, mask, pixel)
    s.write_summary({
        "box_px": reference.shape[0], "pixel_size_angst": pixel,
        "diameter_angst": particle_diameter_angst(reference, pixel), "mask_volume_angst3": float(mask.sum()) * pixel**3,
    })
