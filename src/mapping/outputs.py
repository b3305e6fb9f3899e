"""Which files come of mapping a scene, where they go, and that none of them takes the place of one that is read."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from src.errors import UserError
from src.fingerprints import archive_of, companions
from src.input_files import GEOTIFFS
from src.mapping.map_paths import areas_path, layer_file_path, map_report_path, maps_in
from src.mapping.map_record import record_path
from src.mapping.options import MapOptions
from src.mapping.strips import CLASSES, PROBABILITIES, UNCERTAINTY
from src.run_folder import DESCRIPTION, holds_training
from src.score_files import MEANINGS, score_prefix

OTHER_FORMATS = {
    *(".bil", ".bip", ".bsq", ".csv", ".dat", ".fgb", ".geojson", ".gpkg", ".grd", ".h5", ".hdf", ".hdr", ".img"),
    *(".jp2", ".jpeg", ".jpg", ".kml", ".nc", ".parquet", ".pdf", ".png", ".shp", ".vrt", ".zarr", ".zip"),
}
"""Suffixes by which ``output`` is known to be a file of a kind that maps are not."""
OF_A_TRAINING = (DESCRIPTION, "report.html")
"""Files of a training by whose names those of a map can be called."""


def layer_path(output: Path, layer: str) -> Path:
    """Name a map's further rasters: ``map.tif`` → ``map_probabilities.tif``."""
    return output if layer == CLASSES else output.with_name(f"{output.stem}_{layer}{output.suffix}")


def polygons_path(output: Path) -> Path:
    """Name a map's polygons: ``map.tif`` → ``map_polygons.gpkg``, since QGIS takes ``map.qml`` for the raster's."""
    return output.with_name(f"{output.stem}_polygons.gpkg")


def map_files(output: Path, options: MapOptions) -> list[Path]:
    """Name every file that :func:`~src.mapping.scene_map.map_scene` writes, the class map first."""
    layers = (CLASSES, PROBABILITIES, UNCERTAINTY) if options.probabilities else (CLASSES,)
    files = [layer_path(output, layer) for layer in layers] + [polygons_path(output)] * options.vector
    return [*files, *(file.with_suffix(".qml") for file in files), record_path(output)]


def choose_outputs(images: Sequence[str], output: str | None, run_folder: Path) -> list[Path]:
    """Name a map for every scene.

    One scene: ``output``, a file; or ``map.tif`` in the run's folder. Several: ``<scene>_map.tif`` in ``output``, a
    folder; or in the run's.

    Raises:
        UserError: A file is given for several maps or one that is no GeoTIFF, or a map's name is a folder's.
    """
    if len(images) == 1 and (output is None or Path(output).suffix.lower() in GEOTIFFS):
        outputs = [Path(output) if output else run_folder / "map.tif"]
    else:
        folder = Path(output) if output else run_folder
        if folder.suffix.lower() in OTHER_FORMATS and not folder.is_dir():
            raise UserError(f"output={output} is no GeoTIFF; maps are. Name a file that ends in .tif, or a folder.")
        if folder.suffix.lower() in GEOTIFFS:
            raise UserError(f"output={output} is one file for {len(images)} scenes; expected a folder. Name one.")
        outputs = maps_in(folder, images)
    check_no_folder(outputs)
    return outputs


def check_no_folder(outputs: Iterable[Path]) -> None:
    """Raise UserError if a map's name is a folder's."""
    if folders := [path for path in outputs if path.is_dir()]:
        raise UserError(f"output={folders[0]} is a folder; expected a file to write. Choose another name.")


def written(output: Path, options: MapOptions, *, scored: bool) -> list[Path]:
    """Name the files that come of a scene, its map first; all that could be where it is scored."""
    scores = [output.with_name(f"{score_prefix(output)}{name}") for name in MEANINGS] if scored else []
    return [*map_files(output, options), areas_path(output), layer_file_path(output), *scores]


def report_path(outputs: Sequence[Path], output: str | None) -> Path:
    """Name the report: ``report.html`` beside several maps, ``<map>_report.html`` beside one whose place was given.

    Its links are relative, so it lies where the maps lie; and such a place may hold the maps of several runs.
    """
    named = output is not None and len(outputs) == 1
    return map_report_path(outputs[0]) if named else outputs[0].with_name("report.html")


def check_replaces_nothing(
    outputs: Sequence[Path], *, scenes: Iterable[str], labels: Iterable[str], checkpoint: Path
) -> None:
    """Refuse to write over what a map is made of or scored against, and over what a training has left.

    Args:
        outputs: All files that are to be written.
        scenes: The images.
        labels: What is scored against.
        checkpoint: The network's file.

    Raises:
        UserError: One of the files is one of these, or belongs to one of these.
    """
    check_overwriting(outputs, {"scene": scenes, "label": labels, "checkpoint": [str(checkpoint)]})
    check_no_training(outputs)


def check_overwriting(outputs: Iterable[Path], inputs: Mapping[str, Iterable[str]]) -> None:
    """Refuse to write over what is read, or over a file that is read with it.

    Args:
        outputs: The files that are to be written.
        inputs: Those that are read, by what they are.

    Raises:
        UserError: One of them is both.
    """
    places = {path.resolve() for path in outputs}
    for what, files in inputs.items():
        for given in dict.fromkeys(files):
            for file in dict.fromkeys((given, str(archive_of(given)), *companions(given, rewritable=True))):
                if Path(file).resolve() in places:
                    itself = "itself" if file == given else f"{given} is made of"
                    raise UserError(
                        f"output would write {file}, which is the {what} {itself}; expected another file. Choose "
                        "another name."
                    )


def check_no_training(outputs: Iterable[Path]) -> None:
    """Refuse to write over the report of a training, or what describes it, in the folder of its run.

    Raises:
        UserError: One of the files would be.
    """
    for path in outputs:
        if path.name in OF_A_TRAINING and holds_training(path.parent):
            raise UserError(
                f"output would write {path}, but {path.parent} is the folder of a training, whose {path.name} that is; "
                "expected a place of its own. Give another output."
            )


def check_not_among_scenes(outputs: Iterable[Path], given: Iterable[str]) -> None:
    """Refuse maps that a folder or a glob of scenes would stand for as well, when the command is given again.

    Raises:
        UserError: One of the maps lies there.
    """
    places = [(output, Path(os.path.abspath(output))) for output in outputs]  # noqa: PTH100  a glob does not resolve
    for text in given:
        folder = Path(text).is_dir()
        if not folder and not glob.has_magic(text):
            continue
        pattern = Path(os.path.abspath(text))  # noqa: PTH100
        for output, place in places:
            if place.parent == pattern if folder else place.match(str(pattern)):
                raise UserError(
                    f"output would write {output} among the scenes that image={text} stands for, and be taken for one "
                    "next time; expected another place. Give another output."
                )
