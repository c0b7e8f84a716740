"""The frequency tool: traces of JPEG compression, resampling and synthesis in the DCT and Fourier domains."""

from vision_service.domain import Tool, ToolName
from vision_service.tools.frequency import (
    double_jpeg,
    double_jpeg_shifted,
    ela,
    foreign_grid,
    jpeg_ghost,
    resampling,
    upsampling_peaks,
)

TOOL = Tool(
    ToolName.FREQUENCY,
    "0.2.0",
    (
        foreign_grid.TEST,
        double_jpeg.TEST,
        double_jpeg_shifted.TEST,
        jpeg_ghost.TEST,
        resampling.TEST,
        upsampling_peaks.TEST,
        ela.TEST,
    ),
)
