"""The spatial tool: copies, seams and uneven sharpness."""

from vision_service.domain import Tool, ToolName
from vision_service.tools.spatial import copy_move

TOOL = Tool(ToolName.SPATIAL, "0.1.0", (copy_move.TEST,))
