"""Whether a network was trained on ground that a scene shows: then its scores there are not those of a new scene."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import shapely

from src.chip_names import place_in_name
from src.datafolder import DATASET, read_dataset, trained_images
from src.errors import UserError
from src.grid import Window
from src.input_files import find_files
from src.models.checkpoint import TrainedOn
from src.raster.georeference import NoWayError, apply_transform, has_place, same_crs, transform_points
from src.raster.read import RasterInfo, describe
from src.spec import DatasetSpec, SceneSpec

Points = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TrainedGround:
    """The ground that a network was trained on, as far as anybody knows: read once, asked for each scene.

    Attributes:
        scenes: The scenes of its data folder, each with the windows of the chips that it was trained on; or those that
            windows were drawn from, each whole: which of its blocks validated is not known.
        drawn: Whether it is the latter.
    """

    scenes: tuple[tuple[SceneSpec, list[Window]], ...] = ()
    drawn: bool = False

    @classmethod
    def of(cls, trained_on: TrainedOn) -> TrainedGround:
        """Read what a checkpoint's data folder or scenes say; nothing where they are gone or do not say.

        A data folder has to have its ``dataset.json``.
        """
        folder = trained_on.folder
        with suppress(UserError, OSError):  # what is wrong with another command's files is not ours to say
            if folder is not None and (folder / DATASET).is_file():
                spec = read_dataset(folder / DATASET)
                windows = _windows(spec, folder, refit=trained_on.refit)
                return cls(tuple((scene, windows.get(scene.name, [])) for scene in spec.scenes))
            infos = [describe(path) for path in find_files(trained_on.scenes, "image")] if trained_on.scenes else []
            return cls(tuple((info.scene(), [info.window]) for info in infos), drawn=True)
        return cls()

    def caution(self, scene: RasterInfo) -> str | None:
        """Say in one sentence that the network was trained on a scene's ground; None if not, or if nobody knows."""
        share = self.share(scene)
        if not share:
            return None
        if self.drawn:
            return (
                "the network was trained on windows of scenes that show this ground; scores of pixels that it has seen "
                "are not scores of a map of a new scene"
            )
        seen = f"{100 * share:.0f} %" if share >= 0.01 else "less than 1 %"
        return (
            f"the network was trained on chips of this scene, which show {seen} of its ground; scores of pixels that "
            "it has seen are not scores of a map of a new scene"
        )

    def share(self, scene: RasterInfo) -> float:
        """Return the share of a scene's extent that the chips cover; 0 below one pixel."""
        extent = shapely.box(0, 0, scene.width, scene.height)
        covered = float(shapely.intersection(self._seen(scene), extent).area)
        return min(1.0, covered / extent.area) if covered >= 1 else 0.0

    def showing(self, images: Sequence[Path], data: DatasetSpec) -> int:
        """Count the chips of a data folder that show a pixel of it or more.

        Args:
            images: Their files.
            data: What the folder says of its scenes.
        """
        names, (width, height), count = {scene.name: scene for scene in data.scenes}, data.chip_size, 0
        windows: dict[str, list[Window]] = {}
        for image in images:
            with suppress(UserError):  # a name that does not tell its place
                name, x, y = place_in_name(image.stem, set(names))
                windows.setdefault(name, []).append(Window(y, x, height, width))
        for name, chips in windows.items():
            if (scene := names.get(name)) is not None:
                shared = shapely.intersection(shapely.polygons(_corners(scene, chips)), self._seen(scene))
                count += int((shapely.area(shared) >= 1).sum())
        return count

    def _seen(self, scene: RasterInfo | SceneSpec) -> shapely.Geometry:
        """Return all of it within a scene, in its pixels."""
        extent, seen = shapely.box(0, 0, scene.width, scene.height), []
        for source, windows in self.scenes:
            corners = _on(scene, source, _corners(source, windows))
            outlines = shapely.polygons(corners[np.isfinite(corners).all((1, 2))])
            seen += outlines[shapely.is_valid(outlines) & shapely.intersects(outlines, extent)].tolist()
        return shapely.union_all(seen)


def _windows(spec: DatasetSpec, folder: Path, *, refit: bool) -> dict[str, list[Window]]:
    """Return the windows of the chips that were trained on by the name of their scene."""
    names, (width, height) = {scene.name for scene in spec.scenes}, spec.chip_size
    found: dict[str, list[Window]] = {}
    for image in trained_images(folder, refit=refit):
        name, x, y = place_in_name(image.stem, names)
        found.setdefault(name, []).append(Window(y, x, height, width))
    return found


def _corners(source: SceneSpec, windows: Sequence[Window]) -> Points:
    """Return the corners (column, row) of windows within their scene, n × 4 × 2."""
    whole = Window(0, 0, source.height, source.width)
    edges = [(w.column, w.row, w.column_stop, w.row_stop) for w in (window.intersection(whole) for window in windows)]
    corners = [((left, top), (right, top), (right, low), (left, low)) for left, top, right, low in edges]
    return np.array(corners, np.float64).reshape(-1, 4, 2)


def _on(scene: RasterInfo | SceneSpec, source: SceneSpec, corners: Points) -> Points:
    """Turn pixels of a data folder's scene into pixels of another raster; none where nobody knows how.

    The same file has the same pixels, with or without a place on earth.
    """
    if Path(source.path).resolve() == Path(scene.path).resolve():
        return corners
    if not (has_place(source) and has_place(scene)) or (source.crs is None) != (scene.crs is None):
        return corners[:0]
    points = apply_transform(source.transform, corners.reshape(-1, 2))
    if source.crs is not None and scene.crs is not None and not same_crs(source.crs, scene.crs):
        try:
            points = transform_points(points, source.crs, scene.crs)
        except NoWayError:
            return corners[:0]
    a, b, c, d, e, f = scene.transform
    x, y = points[:, 0] - c, points[:, 1] - f
    return np.column_stack([e * x - b * y, a * y - d * x]).reshape(corners.shape) / (a * e - b * d)
