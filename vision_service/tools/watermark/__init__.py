"""The watermark tool."""

from vision_service.domain import Tool, ToolName

TOOL = Tool(ToolName.WATERMARK, "0.1.0", ())
