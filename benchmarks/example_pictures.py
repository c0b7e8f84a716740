"""Example pictures whose history is known: `python -m benchmarks.example_pictures DIR`.

Made by code, except one photograph that scikit-image ships in its wheel under a free licence.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import skimage
from PIL import Image, PngImagePlugin

from benchmarks.camera import FloatArray, Sensor, from_file, photo, to_jpeg

HEIGHT, WIDTH = 768, 1024
PHOTO_LICENCE = (
    "rocket.jpg of scikit-image: launch of DSCOVR on Falcon 9, photo by SpaceX, released into the public domain, says "
    "the documentation of skimage.data.rocket. Copied byte for byte from the installed package."
)


def camera_photo() -> bytes:
    """A photo of the synthetic camera, saved once, with the metadata of a camera that does not exist."""
    return to_jpeg(photo(HEIGHT, WIDTH, seed=7), 92, exif=_camera_exif())


def spliced() -> tuple[bytes, tuple[int, int, int, int]]:
    """Part of a noisier photo of lower JPEG quality, pasted into another photo that was a JPEG before, saved again.

    Returns:
        The file and the pasted rectangle's x, y, width and height in pixels.
    """
    host = from_file(to_jpeg(photo(HEIGHT, WIDTH, seed=11), 88)).copy()
    donor = from_file(to_jpeg(photo(HEIGHT, WIDTH, seed=12, sensor=Sensor(shot=4e-3, read=1.2e-2)), 70))
    x, y, width, height = 563, 301, 262, 214
    host[y : y + height, x : x + width] = donor[130 : 130 + height, 211 : 211 + width]
    return to_jpeg(host, 93), (x, y, width, height)


def copy_move() -> tuple[bytes, tuple[int, int, int, int], tuple[int, int]]:
    """A photo in which one region was copied to another place.

    Returns:
        The file; x, y, width and height of the source; x and y of the copy.
    """
    picture = photo(HEIGHT, WIDTH, seed=23)
    x, y, width, height = 120, 380, 210, 170
    to_x, to_y = 633, 149
    picture[to_y : to_y + height, to_x : to_x + width] = picture[y : y + height, x : x + width]
    return to_jpeg(picture, 94), (x, y, width, height), (to_x, to_y)


def synthesised(seed: int = 5) -> bytes:
    """A landscape out of noise functions, without sensor or lens, with the text chunk that image generators write."""
    rng = np.random.default_rng(seed)
    sky = np.linspace(0.0, 1.0, HEIGHT, dtype=np.float32)[:, None]
    clouds = np.clip(_fractal(rng, 2.0) * 1.6 - 0.5, 0, 1)[..., None]
    day = np.array([0.45, 0.66, 0.93], dtype=np.float32) * (1 - 0.5 * sky[..., None])
    picture = day * (1 - clouds) + np.array([0.97, 0.95, 0.93], dtype=np.float32) * clouds
    for layer in range(5):
        ridge = 0.42 + 0.11 * layer + (0.26 - 0.03 * layer) * (_ridge(rng) - 0.5)
        ground = np.arange(HEIGHT, dtype=np.float32)[:, None] / HEIGHT > ridge[None, :]
        shade = 0.75 + 0.5 * (_fractal(rng, 1.4) - 0.5)
        colour = np.array([0.42, 0.50, 0.62], np.float32) * (1 - layer / 4) + np.array([0.13, 0.27, 0.11]) * (layer / 4)
        picture = np.where(ground[..., None], colour * shade[..., None], picture)
    pixels = np.rint(255 * np.clip(picture, 0, 1)).astype(np.uint8)
    text = PngImagePlugin.PngInfo()
    text.add_text(
        "parameters",
        "layered mountains under a cloudy sky, made by noise functions in imitation of a generator\n"
        f"Negative prompt: camera\nSteps: 5, Sampler: Fractal noise, CFG scale: 1.0, Seed: {seed}, "
        f"Size: {WIDTH}x{HEIGHT}, Model: maifs-example-pictures",
    )
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", pnginfo=text)
    return buffer.getvalue()


def _fractal(rng: np.random.Generator, roughness: float) -> FloatArray:
    """Noise of falling amplitude over octaves, shape (HEIGHT, WIDTH), 0..1."""
    total = np.zeros((HEIGHT, WIDTH), dtype=np.float32)
    for octave in range(1, 8):
        grid = rng.random((3 * 2**octave // 2, 4 * 2**octave // 2), dtype=np.float32)
        large = np.asarray(cv2.resize(grid, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC), dtype=np.float32)
        total += large / np.float32(roughness**octave)
    total -= total.min()
    return np.asarray(total / total.max(), dtype=np.float32)


def _ridge(rng: np.random.Generator) -> FloatArray:
    """A mountain line, shape (WIDTH,), 0..1."""
    row = _fractal(rng, 2.1)[HEIGHT // 2]
    return np.asarray((row - row.min()) / max(float(np.ptp(row)), 1e-6), dtype=np.float32)


def _camera_exif() -> bytes:
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "MAIFS", "MAIFS synthetic camera"
    exif[0x0131], exif[0x0132] = "MAIFS synthetic camera 1.0", "2026:05:17 10:24:31"
    exif[0x0112] = 1
    details = exif.get_ifd(0x8769)
    details[0x829A], details[0x829D], details[0x8827] = 1 / 250, 2.8, 100
    details[0x9003] = details[0x9004] = "2026:05:17 10:24:31"
    details[0x920A], details[0xA002], details[0xA003] = 35.0, WIDTH, HEIGHT
    return exif.tobytes()


def write(folder: Path) -> list[Path]:
    """Makes all pictures and README.txt; returns the pictures' paths."""
    folder.mkdir(parents=True, exist_ok=True)
    splice, pasted = spliced()
    copied, source, copy = copy_move()
    files = {
        "camera_photo.jpg": camera_photo(),
        "spliced.jpg": splice,
        "copy_move.jpg": copied,
        "synthesised.png": synthesised(),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    real = folder / "real_photo.jpg"
    shutil.copyfile(Path(skimage.__file__).parent / "data" / "rocket.jpg", real)
    (folder / "README.txt").write_text(_readme(pasted, source, copy), "utf-8")
    return [*(folder / name for name in files), real]


def _readme(pasted: tuple[int, ...], source: tuple[int, ...], copy: tuple[int, ...]) -> str:
    return f"""Example pictures of MAIFS, made by `python -m benchmarks.example_pictures`

camera_photo.jpg  A scene rendered by code, exposed by a synthetic Bayer sensor with noise, demosaiced, saved once as
                  JPEG of quality 92, with EXIF of a camera that does not exist.
spliced.jpg       A photo of the synthetic camera (JPEG, quality 88), into which {pasted[2]} x {pasted[3]} pixels at
                  x {pasted[0]}, y {pasted[1]} of a second, noisier photo (JPEG, quality 70) were pasted; saved again
                  at quality 93.
copy_move.jpg     A photo of the synthetic camera in which {source[2]} x {source[3]} pixels at x {source[0]},
                  y {source[1]} were copied to x {copy[0]}, y {copy[1]}; saved at quality 94.
synthesised.png   Made of noise functions, without any camera. Its "parameters" text chunk imitates what image
                  generators write; no generative model was used.
real_photo.jpg    {PHOTO_LICENCE}
"""


def main() -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.example_pictures", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="where to write")
    for path in write(parser.parse_args().folder):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
