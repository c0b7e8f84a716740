"""The noise tool."""

from vision_service.domain import Tool, ToolName

TOOL = Tool(ToolName.NOISE, "0.1.0", ())
