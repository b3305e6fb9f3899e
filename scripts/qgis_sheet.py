"""Let QGIS open a map's layer file and paint every layer, side by side: what its users will see.

    /usr/bin/python3 scripts/qgis_sheet.py map.qlr sheet.png      with QGIS's own Python (Debian: python3-qgis)

Prints a JSON line: name, validity, coordinate system and renderer of every layer, and how many colours it has there.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from qgis.core import (
    QgsApplication,
    QgsLayerDefinition,
    QgsMapRendererSequentialJob,
    QgsMapSettings,
    QgsProject,
)
from qgis.PyQt.QtCore import QSize
from qgis.PyQt.QtGui import QImage, QPainter

WIDTH, HEIGHT, TITLE, ACROSS = 384, 300, 22, 3
"""Of a layer's picture and its title in pixels, and pictures beside each other."""


def main(layers_file: str, output: str) -> None:
    """Paint the sheet."""
    application = QgsApplication([], True)
    application.initQgis()
    project = QgsProject.instance()
    loaded, message = QgsLayerDefinition.loadLayerDefinition(layers_file, project, project.layerTreeRoot())
    if not loaded:
        raise SystemExit(f"{layers_file} cannot be opened: {message}")
    layers = [node.layer() for node in project.layerTreeRoot().findLayers()]
    sheet = QImage(WIDTH * ACROSS, (HEIGHT + TITLE) * -(-len(layers) // ACROSS), QImage.Format_RGB32)
    sheet.fill(0xFFFFFF)
    painter = QPainter(sheet)
    rows = []
    for place, layer in enumerate(layers):
        picture = _painted(layer, layers[0])
        left, top = place % ACROSS * WIDTH, place // ACROSS * (HEIGHT + TITLE)
        painter.drawText(left + 4, top + TITLE - 6, layer.name())
        painter.drawImage(left, top + TITLE, picture)
        colors = {picture.pixel(x, y) for x in range(0, WIDTH, 4) for y in range(0, HEIGHT, 4)}
        rows.append([layer.name(), layer.isValid(), layer.crs().authid(), type(layer.renderer()).__name__, len(colors)])
    painter.end()
    if not sheet.save(output):
        raise SystemExit(f"{output} cannot be written")
    print(json.dumps(rows), flush=True)
    os._exit(0)  # QGIS crashes when Python takes it apart


def _painted(layer: Any, grid: Any) -> Any:
    """Return a layer as QGIS paints it in the extent of another."""
    settings = QgsMapSettings()
    settings.setLayers([layer])
    settings.setOutputSize(QSize(WIDTH, HEIGHT))
    settings.setDestinationCrs(grid.crs())
    settings.setExtent(grid.extent())
    job = QgsMapRendererSequentialJob(settings)
    job.start()
    job.waitForFinished()
    return job.renderedImage()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("expected a layer file and the picture to draw: qgis_sheet.py map.qlr sheet.png")
    main(*(str(Path(name).resolve()) for name in sys.argv[1:]))
