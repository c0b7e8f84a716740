"""Decoding of good, odd and bad files: the right pixels, or a clear error."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from serving.errors import MaifsError, Reason
from vision_service.decode import decode
from vision_service.limits import DecodeLimits
from vision_service.substrate import Substrate

RNG = np.random.default_rng(7)
NOISE = RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8)


def encode(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def read(data: bytes, limits: DecodeLimits | None = None) -> Substrate:
    return decode(data, limits or DecodeLimits())


def refused(data: bytes, limits: DecodeLimits | None = None) -> MaifsError:
    with pytest.raises(MaifsError) as caught:
        read(data, limits)
    return caught.value


def outcome(data: bytes) -> tuple[int, ...] | None:
    """Shape of the pixels, or None when the file is refused as it should be; anything else is raised."""
    try:
        return read(data).rgb.shape
    except MaifsError:
        return None


def png_header(width: int, height: int) -> bytes:
    """A PNG that announces a size and has almost no pixels."""
    parts = [b"\x89PNG\r\n\x1a\n"]
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")):
        parts.append(struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)))
    return b"".join(parts)


def test_an_empty_file_is_refused() -> None:
    assert refused(b"").reason is Reason.EMPTY_FILE


def test_text_that_is_called_jpeg_is_refused_with_its_first_bytes() -> None:
    error = refused(b"Dear reader, this is no picture.")
    assert error.reason is Reason.NOT_AN_IMAGE
    assert "44 65 61 72" in error.message


def test_a_file_beyond_the_byte_limit_is_refused_before_it_is_opened() -> None:
    assert refused(b"x" * 100, DecodeLimits(max_image_bytes=99)).reason is Reason.IMAGE_TOO_LARGE


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_a_file_that_is_cut_short_is_refused(file_format: str) -> None:
    data = encode(Image.fromarray(NOISE), file_format)
    for keep in (0.3, 0.6, 0.9):
        assert refused(data[: int(len(data) * keep)]).reason in {Reason.CORRUPT_IMAGE, Reason.NOT_AN_IMAGE}


@pytest.mark.parametrize(("width", "height"), [(50_000, 50_000), (40_000, 10), (2**31 - 1, 2**31 - 1)])
def test_a_decompression_bomb_is_refused_by_its_header(width: int, height: int) -> None:
    error = refused(png_header(width, height))
    assert error.reason is Reason.TOO_MANY_PIXELS
    assert f"{width:,}" in error.message


def test_a_text_chunk_that_unpacks_to_a_bomb_is_refused() -> None:
    body = b"parameters\0\0" + zlib.compress(b"a" * (64 * 1024 * 1024))
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    data = encode(Image.fromarray(NOISE), "PNG")
    assert refused(data[:33] + chunk + data[33:]).reason is Reason.CORRUPT_IMAGE


def test_a_right_png_gives_its_very_pixels() -> None:
    substrate = read(encode(Image.fromarray(NOISE), "PNG"))
    np.testing.assert_array_equal(substrate.rgb, NOISE)
    assert (substrate.container.format, substrate.container.mode, substrate.container.bit_depth) == ("PNG", "RGB", 8)


def test_grey_is_repeated_over_the_channels() -> None:
    substrate = read(encode(Image.fromarray(NOISE[:, :, 0]), "PNG"))
    np.testing.assert_array_equal(substrate.rgb, np.repeat(NOISE[:, :, :1], 3, axis=2))
    assert substrate.container.mode == "L"


def test_sixteen_bit_grey_is_scaled_to_eight() -> None:
    deep = (NOISE[:, :, 0].astype(np.uint16)) * 257
    substrate = read(encode(Image.fromarray(deep), "PNG"))
    np.testing.assert_array_equal(substrate.rgb[:, :, 1], NOISE[:, :, 0])
    assert substrate.container.bit_depth == 16


def test_alpha_is_dropped_without_touching_the_colours() -> None:
    rgba = np.dstack([NOISE, np.full(NOISE.shape[:2], 3, dtype=np.uint8)])
    np.testing.assert_array_equal(read(encode(Image.fromarray(rgba), "PNG")).rgb, NOISE)


def test_a_palette_with_transparency_gives_its_colours() -> None:
    indexed = Image.fromarray(NOISE).quantize(16)
    substrate = read(encode(indexed, "PNG", transparency=3))
    np.testing.assert_array_equal(substrate.rgb, np.asarray(indexed.convert("RGB")))
    assert "transparency" not in substrate.container.text


def test_cmyk_jpeg_is_converted() -> None:
    substrate = read(encode(Image.new("CMYK", (32, 24), (0, 255, 255, 0)), "JPEG"))
    assert substrate.rgb.shape == (24, 32, 3)
    assert substrate.rgb[:, :, 0].min() > 200
    assert substrate.rgb[:, :, 1].max() < 60
    assert substrate.container.mode == "CMYK"


def test_the_first_frame_of_an_animation_is_read() -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "green")]
    for file_format in ("GIF", "PNG", "WEBP"):
        data = encode(frames[0], file_format, save_all=True, append_images=frames[1:], lossless=True)
        substrate = read(data)
        assert substrate.container.frame_count == 3
        assert tuple(substrate.rgb[8, 8]) == (255, 0, 0)


def test_exif_rotation_is_told_but_not_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    substrate = read(encode(Image.fromarray(NOISE), "JPEG", exif=exif))
    assert substrate.container.orientation == 6
    assert (substrate.width_px, substrate.height_px) == (60, 40)


@pytest.mark.parametrize("value", [0, 9, 77])
def test_an_orientation_that_does_not_exist_counts_as_none(value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    assert read(encode(Image.fromarray(NOISE), "JPEG", exif=exif)).container.orientation == 1


@pytest.mark.parametrize(("width", "height"), [(1, 1), (8000, 1), (1, 8000)])
def test_extreme_shapes_are_read(width: int, height: int) -> None:
    assert read(encode(Image.new("RGB", (width, height)), "PNG")).rgb.shape == (height, width, 3)


def test_a_name_decides_nothing_and_the_content_everything() -> None:
    for file_format in ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF"):
        assert read(encode(Image.fromarray(NOISE), file_format)).container.format == file_format


def test_text_after_the_pixels_of_a_png_is_read() -> None:
    data, body = encode(Image.fromarray(NOISE), "PNG"), b"parameters\0a cat"
    chunk = struct.pack(">I", len(body)) + b"tEXt" + body + struct.pack(">I", zlib.crc32(b"tEXt" + body))
    assert read(data[:-12] + chunk + data[-12:]).container.text["parameters"] == "a cat"


def test_the_user_comment_is_decoded_in_both_byte_orders() -> None:
    for order in ("utf-16-be", "utf-16-le"):
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + "Größe 20".encode(order)
        assert read(encode(Image.fromarray(NOISE), "JPEG", exif=exif)).container.text["UserComment"] == "Größe 20"


def test_broken_exif_does_not_hide_the_picture() -> None:
    data = encode(Image.fromarray(NOISE), "JPEG", exif=b"Exif\0\0" + b"MM\0*\xff\xff\xff\xff" + b"\x13" * 40)
    assert read(data).rgb.shape == NOISE.shape


def test_random_damage_never_raises_anything_but_a_clear_error() -> None:
    rng = np.random.default_rng(1)
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    originals = [encode(Image.fromarray(NOISE), f, exif=exif) for f in ("JPEG", "PNG", "WEBP", "TIFF")]
    for data in originals:
        for _ in range(60):
            damaged = np.frombuffer(data, dtype=np.uint8).copy()
            places = rng.integers(0, len(damaged), 4)
            damaged[places] = rng.integers(0, 256, 4)
            shape = outcome(damaged.tobytes())
            assert shape is None or len(shape) == 3
