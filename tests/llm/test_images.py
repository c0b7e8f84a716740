"""Pictures for vision-language models, decoded within limits."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from llm_service.images import decode_image
from serving.errors import MaifsError, Reason


def encoded(kind: str, width: int = 20, height: int = 10, mode: str = "RGB") -> bytes:
    """A one-coloured picture file."""
    stream = io.BytesIO()
    Image.new(mode, (width, height), 100).save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_picture_is_decoded_to_rgb(kind: str) -> None:
    picture = decode_image(encoded(kind), "images[0]")
    assert (picture.mode, picture.size) == ("RGB", (20, 10))


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "I;16"])
def test_any_kind_of_pixels_becomes_rgb(mode: str) -> None:
    assert decode_image(encoded("PNG", mode=mode), "images[0]").mode == "RGB"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Reason.EMPTY_FILE),
        (b"file:///etc/passwd", Reason.NOT_AN_IMAGE),
        (encoded("GIF", mode="L"), Reason.NOT_AN_IMAGE),
        (encoded("PNG", 2049, 2048, "1"), Reason.TOO_MANY_PIXELS),
        (encoded("PNG", 30_000, 30_000, "1"), Reason.TOO_MANY_PIXELS),
        (encoded("JPEG", 200, 200)[:400], Reason.CORRUPT_IMAGE),
    ],
)
def test_bad_picture_is_refused_with_the_field(data: bytes, reason: Reason) -> None:
    with pytest.raises(MaifsError, match=r"messages\[0\].images\[1\]") as caught:
        decode_image(data, "messages[0].images[1]")
    assert caught.value.reason is reason
