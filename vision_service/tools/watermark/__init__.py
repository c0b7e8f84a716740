"""The watermark tool: Content Credentials, metadata of cameras, editors and generators, invisible watermarks."""

from vision_service.domain import Tool, ToolName
from vision_service.tools.watermark import (
    closed_schemes,
    content_credentials,
    dwt_marks,
    metadata_consistency,
    metadata_software,
    metadata_source,
    rivagan,
)


def make_tool(trust_anchors_pem: str = "") -> Tool:
    """The tool with a trust list for Content Credentials (PEM text; empty: no signer is trusted)."""
    return Tool(
        ToolName.WATERMARK,
        "0.2.0",
        (
            content_credentials.make_test(trust_anchors_pem),
            metadata_source.TEST,
            metadata_software.TEST,
            metadata_consistency.TEST,
            *dwt_marks.TESTS,
            rivagan.TEST,
            closed_schemes.TEST,
        ),
    )


TOOL = make_tool()
