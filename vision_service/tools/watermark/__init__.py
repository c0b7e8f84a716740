"""The watermark tool: Content Credentials, metadata of cameras, editors and generators, invisible watermarks."""

from collections.abc import Sequence

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
from vision_service.tools.watermark.payloads import Payload


def make_tool(trust_anchors_pem: str = "", owned: Sequence[Payload] = ()) -> Tool:
    """The tool with its settings.

    Args:
        trust_anchors_pem: trusted issuers of Content Credentials, PEM text; empty: no signer is trusted.
        owned: RivaGAN payloads of the service's owners.
    """
    return Tool(
        ToolName.WATERMARK,
        "0.2.0",
        (
            content_credentials.make_test(trust_anchors_pem),
            metadata_source.TEST,
            metadata_software.TEST,
            metadata_consistency.TEST,
            *dwt_marks.TESTS,
            rivagan.make_test(owned),
            closed_schemes.TEST,
        ),
    )


TOOL = make_tool()
