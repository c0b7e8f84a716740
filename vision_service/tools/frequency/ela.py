"""Error level analysis: a picture for the eye, no evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vision_service.domain import HeatMap, Measurement, Observation, Outcome, Test, not_applicable
from vision_service.tools.frequency.block_dct import BLOCK
from vision_service.tools.frequency.requantised import QUALITIES, losses

if TYPE_CHECKING:
    from vision_service.substrate import Substrate

_ID = "frequency.ela"
_QUALITY = 90
_FULL_SCALE = 2.0
"""Root mean squared loss in grey levels that is drawn brightest."""


def run(substrate: Substrate) -> Observation:
    """Draws how much each block changes when the picture is saved again as JPEG 90.

    The score is always 0 and nothing is ever detected: what is bright is above all what is textured.
    """
    found = losses(substrate)
    if found is None:
        return not_applicable("too_small", f"{substrate.width_px} x {substrate.height_px} px hold too few JPEG blocks")
    level = np.sqrt(found.values[QUALITIES.index(_QUALITY)])
    values = np.zeros((-(-substrate.height_px // BLOCK), -(-substrate.width_px // BLOCK)), dtype=np.uint8)
    rows, columns = min(level.shape[0], values.shape[0]), min(level.shape[1], values.shape[1])
    values[:rows, :columns] = np.rint(255 * np.clip(level / _FULL_SCALE, 0, 1))[:rows, :columns]
    return Observation(
        Outcome.TESTED,
        score_meaning="Always 0: error level analysis is a picture, not a test",
        explanation_key=f"{_ID}.picture",
        measurements=(Measurement("median_error_level", float(np.median(level)), "grey levels"),),
        heat_map=HeatMap(values, BLOCK, "How much the cell changes when saved again as JPEG 90; proves nothing"),
    )


TEST = Test(
    _ID,
    "How much each part changes when saved again as JPEG 90; for the eye only",
    "Krawetz: A Picture's Worth, Black Hat USA 2007",
    run,
)
