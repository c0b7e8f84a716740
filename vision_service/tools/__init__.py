"""The four tools."""

from vision_service.domain import Tool
from vision_service.tools.frequency import TOOL as FREQUENCY
from vision_service.tools.noise import TOOL as NOISE
from vision_service.tools.spatial import TOOL as SPATIAL
from vision_service.tools.watermark import TOOL as WATERMARK

TOOLS: tuple[Tool, ...] = (FREQUENCY, NOISE, WATERMARK, SPATIAL)
"""In the order of reports."""
