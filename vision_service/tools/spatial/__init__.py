"""The spatial tool: copies within the picture, uneven sharpness, uneven blocking."""

from vision_service.domain import Tool, ToolName
from vision_service.tools.spatial import blocking, blur, copy_move

TOOL = Tool(ToolName.SPATIAL, "0.2.1", (copy_move.TEST, blur.TEST, blocking.TEST))
