"""The frequency tool: traces of JPEG compression, resampling and synthesis in the DCT and Fourier domains."""

from vision_service.domain import Tool, ToolName
from vision_service.tools.frequency import double_jpeg, foreign_grid

TOOL = Tool(ToolName.FREQUENCY, "0.1.0", (foreign_grid.TEST, double_jpeg.TEST))
