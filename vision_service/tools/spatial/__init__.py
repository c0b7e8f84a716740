"""The spatial tool."""

from vision_service.domain import Tool, ToolName

TOOL = Tool(ToolName.SPATIAL, "0.1.0", ())
