"""The spatial tool: copies within the picture, uneven sharpness, uneven blocking, foreign histories."""

from vision_service.domain import Tool, ToolName
from vision_service.tools.spatial import blocking, blur, copy_move
from vision_service.tools.spatial.fingerprint import fingerprint

TOOL = Tool(ToolName.SPATIAL, "0.3.0", (copy_move.TEST, blur.TEST, blocking.TEST, fingerprint.TEST))
