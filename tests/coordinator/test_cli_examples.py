"""The example pictures of the demo are what their README says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from benchmarks import camera, example_pictures
from coordinator.cli.sources import collect


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("examples")
    example_pictures.write(path)
    return path


def test_the_folder_holds_five_pictures_and_their_history(folder: Path) -> None:
    found = collect([str(folder)])
    readme = (folder / "README.txt").read_text("utf-8")
    assert len(found.sources) == 5
    assert found.skipped_count == 1
    assert all(source.path.name in readme for source in found.sources)


def test_the_camera_photo_carries_the_metadata_of_a_made_up_camera(folder: Path) -> None:
    image = Image.open(folder / "camera_photo.jpg")
    assert image.size == (example_pictures.WIDTH, example_pictures.HEIGHT)
    assert image.getexif()[ExifTags.Base.Model] == "MAIFS synthetic camera"
    assert image.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExifImageWidth] == example_pictures.WIDTH


def test_the_copy_is_a_copy_up_to_compression() -> None:
    data, (x, y, width, height), (to_x, to_y) = example_pictures.copy_move()
    pixels = np.asarray(camera.from_file(data), dtype=np.float64)
    source = pixels[y + 8 : y + height - 8, x + 8 : x + width - 8]
    copy = pixels[to_y + 8 : to_y + height - 8, to_x + 8 : to_x + width - 8]
    assert np.abs(source - copy).mean() < 3


def test_the_pasted_part_is_noisier_than_its_new_surroundings() -> None:
    data, (x, y, width, height) = example_pictures.spliced()
    grey = np.asarray(camera.from_file(data), dtype=np.float64).mean(axis=2)
    residual = np.abs(np.diff(grey, axis=1))
    inside = np.median(residual[y : y + height, x : x + width - 1])
    assert inside > 1.5 * np.median(residual)


def test_the_synthesised_picture_says_that_it_imitates_a_generator(folder: Path) -> None:
    image = Image.open(folder / "synthesised.png")
    image.load()
    assert "in imitation of a generator" in image.info["parameters"]
    assert "no generative model was used" in (folder / "README.txt").read_text("utf-8").replace("\n", " ")
