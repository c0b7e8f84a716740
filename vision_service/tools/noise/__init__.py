"""The noise tool: noise level, its statistics and the traces of the sensor."""

from vision_service.domain import Tool, ToolName
from vision_service.tools.noise.cfa import CFA
from vision_service.tools.noise.level_map import LEVEL_MAP
from vision_service.tools.noise.low_noise_regions import LOW_NOISE_REGIONS
from vision_service.tools.noise.prnu import PRNU
from vision_service.tools.noise.residual_statistics import RESIDUAL_STATISTICS
from vision_service.tools.noise.synthesis.cue import SYNTHESIS

TOOL = Tool(ToolName.NOISE, "0.3.0", (LEVEL_MAP, LOW_NOISE_REGIONS, RESIDUAL_STATISTICS, CFA, PRNU, SYNTHESIS))
