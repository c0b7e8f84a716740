"""The frequency tool."""

from vision_service.domain import Tool, ToolName

TOOL = Tool(ToolName.FREQUENCY, "0.1.0", ())
