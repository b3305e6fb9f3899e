"""QGIS layer files (.qlr): scene, labels, map and uncertainty as one group, opened by dragging one file in."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as Xml

from src.atomic import write_text
from src.mapping.styles import composite_style
from src.quicklook import limits, shown_bands
from src.raster.georeference import crs_label
from src.raster.read import info_of, open_raster
from src.spec import NetworkSpec

_SAMPLE = 1000
"""Pixels of the longer side of the reading that a scene's brightness is measured on."""


@dataclass(frozen=True)
class ShownLayer:
    """One layer of a group.

    Attributes:
        name: What the legend calls it.
        path: File, or anything that GDAL opens.
        style: Its QML; empty for QGIS's own choice.
        shown: Whether it is switched on.
        vector: Whether it has features instead of pixels.
        crs: WKT; None for none.
        layer: Layer of a vector file; None for its only one.
    """

    name: str
    path: str
    style: str = ""
    shown: bool = True
    vector: bool = False
    crs: str | None = None
    layer: str | None = None


def write_layer_file(path: str | Path, group: str, layers: Sequence[ShownLayer]) -> None:
    """Write a layer file; paths in it are relative to its folder, so that the folder can be moved as a whole.

    Args:
        path: The ``.qlr``.
        group: Name of the group.
        layers: Uppermost first.
    """
    path = Path(path)
    root = Xml.Element("qlr")
    tree = Xml.SubElement(root, "layer-tree-group", name="", expanded="1", checked="Qt::Checked")
    inner = Xml.SubElement(tree, "layer-tree-group", name=group, expanded="1", checked="Qt::Checked")
    kept = Xml.SubElement(root, "maplayers")
    for number, layer in enumerate(layers):
        ident = f"specdeepmap_{path.stem}_{number}"
        provider = "ogr" if layer.vector else "gdal"
        source = _relative(layer.path, path.parent) + (f"|layername={layer.layer}" if layer.layer else "")
        node = {"id": ident, "name": layer.name, "source": source, "providerKey": provider, "expanded": "0"}
        Xml.SubElement(inner, "layer-tree-layer", node, checked="Qt::Checked" if layer.shown else "Qt::Unchecked")
        kept.append(_map_layer(ident, layer, source, provider))
    Xml.indent(root)
    text = Xml.tostring(root, encoding="unicode")
    write_text(path, f"<!DOCTYPE qgis-layer-definition>\n{text}\n")


def scene_layer(path: str, name: str = "Scene", spec: NetworkSpec | None = None) -> ShownLayer:
    """Show a scene in the bands nearest to red, green and blue, stretched by the percentiles of a small reading.

    Args:
        path: The scene.
        name: What the legend calls it.
        spec: A network that knows a nodata value too; None for the scene's own only.
    """
    with open_raster(path) as dataset:
        info = info_of(dataset)
        bands, image, valid = shown_bands(dataset, _SAMPLE, spec=spec)
    style = composite_style(bands, [limits(band, valid) for band in image])
    return ShownLayer(name, path, style, crs=info.crs)


def _map_layer(ident: str, layer: ShownLayer, source: str, provider: str) -> Xml.Element:
    kind = {"type": "vector", "geometry": "Polygon"} if layer.vector else {"type": "raster"}
    element = Xml.Element("maplayer", kind)
    for tag, text in (("id", ident), ("datasource", source), ("layername", layer.name), ("provider", provider)):
        Xml.SubElement(element, tag).text = text
    if layer.crs:
        system = Xml.SubElement(Xml.SubElement(element, "srs"), "spatialrefsys")
        Xml.SubElement(system, "wkt").text = layer.crs
        Xml.SubElement(system, "description").text = crs_label(layer.crs)
    if layer.style:
        # Ours, written a moment ago: no entity and no address to worry about.
        element.extend(Xml.fromstring(layer.style))
    return element


def _relative(path: str, folder: Path) -> str:
    """Path from the layer file's folder as QGIS writes it; addresses and what is not on this disk stay as they are."""
    if "://" in path or path.startswith("/vsi"):
        return path
    relative = Path(os.path.relpath(Path(path).resolve(), folder.resolve())).as_posix()
    return relative if relative.startswith("../") else f"./{relative}"
