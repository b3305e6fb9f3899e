"""QGIS styles: a map and its polygons open with the classes' colours and names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import quoteattr

from src.labels import ClassTable, LandClass

_HEAD = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"


def raster_style(classes: ClassTable, sources: Mapping[int | str, int] | None = None) -> str:
    """Return the QML of a class map: one entry per class, everything else transparent.

    Args:
        classes: The classes.
        sources: The class value that each value of the file stands for; None where they are the same.
    """
    entries = "".join(
        f'<paletteEntry value="{source}" color="{c.color}" alpha="255" label={quoteattr(label)}/>'
        for source, label, c in _entries(classes, sources)
        if isinstance(source, int)
    )
    return (
        f'{_HEAD}<qgis version="3.16" styleCategories="Symbology"><pipe>'
        '<rasterrenderer type="paletted" band="1" opacity="1" alphaBand="-1" nodataColor="">'
        f"<rasterTransparency/><colorPalette>{entries}</colorPalette></rasterrenderer></pipe></qgis>\n"
    )


def composite_style(bands: tuple[int, int, int], limits: Sequence[tuple[float, float]]) -> str:
    """Return the QML of a scene in red, green and blue.

    Args:
        bands: 0-based band numbers.
        limits: For each of them the values that are drawn darkest and brightest.
    """
    names = ("red", "green", "blue")
    chosen = " ".join(f'{name}Band="{band + 1}"' for name, band in zip(names, bands, strict=True))
    contrast = "".join(
        f"<{name}ContrastEnhancement><minValue>{low:.9g}</minValue><maxValue>{high:.9g}</maxValue>"
        f"<algorithm>StretchToMinimumMaximum</algorithm></{name}ContrastEnhancement>"
        for name, (low, high) in zip(names, limits, strict=True)
    )
    return (
        f'{_HEAD}<qgis version="3.16" styleCategories="Symbology"><pipe>'
        f'<rasterrenderer type="multibandcolor" {chosen} opacity="1" alphaBand="-1" nodataColor="">'
        f"<rasterTransparency/>{contrast}</rasterrenderer></pipe></qgis>\n"
    )


def share_style(grey: bool) -> str:
    """Return the QML of shares from 0 to 1, from dark to light: in grey (probabilities) or viridis (uncertainty).

    QGIS applies the file's scale, so the style is in shares too.
    """
    ramp = ("#440154", "#3b528b", "#21918c", "#5ec962", "#fde725")
    if grey:
        ramp = ("#000000", "#404040", "#808080", "#bfbfbf", "#ffffff")
    items = "".join(
        f'<item value="{i / 4:g}" color="{color}" alpha="255" label="{i * 25} %"/>' for i, color in enumerate(ramp)
    )
    return (
        f'{_HEAD}<qgis version="3.16" styleCategories="Symbology"><pipe>'
        '<rasterrenderer type="singlebandpseudocolor" band="1" opacity="1" alphaBand="-1" nodataColor="" '
        'classificationMin="0" classificationMax="1"><rasterTransparency/><rastershader>'
        '<colorrampshader colorRampType="INTERPOLATED" classificationMode="1" minimumValue="0" maximumValue="1" '
        f'clip="0">{items}</colorrampshader></rastershader></rasterrenderer></pipe></qgis>\n'
    )


def polygon_style(classes: ClassTable, attribute: str = "value", sources: Mapping[int | str, int] | None = None) -> str:
    """Return the QML of polygons: filled by an attribute, without outlines.

    Args:
        classes: The classes.
        attribute: What holds the class.
        sources: The class value that each number or text there stands for; None where they are the same.
    """
    entries = _entries(classes, sources)
    categories = "".join(
        f'<category value={quoteattr(str(source))} symbol="{i}" label={quoteattr(label)} render="true" '
        f'type="{"long" if isinstance(source, int) else "string"}"/>'
        for i, (source, label, _) in enumerate(entries)
    )
    symbols = "".join(_fill(i, c.rgb) for i, (_, _, c) in enumerate(entries))
    return (
        f'{_HEAD}<qgis version="3.16" styleCategories="Symbology"><renderer-v2 type="categorizedSymbol" '
        f'attr={quoteattr(attribute)} symbollevels="0" enableorderby="0" forceraster="0">'
        f"<categories>{categories}</categories><symbols>{symbols}</symbols></renderer-v2>"
        "<layerGeometryType>2</layerGeometryType></qgis>\n"
    )


def _entries(classes: ClassTable, sources: Mapping[int | str, int] | None) -> list[tuple[int | str, str, LandClass]]:
    """List what stands in the file, what the legend calls it, and its class; by class, as the legend of the map is."""
    if sources is None:
        return [(c.value, c.name, c) for c in classes.classes]
    return [
        (source, c.name if str(source).casefold() == c.name.casefold() else f"{c.name} ({source})", c)
        for c in classes.classes
        for source, value in sources.items()
        if value == c.value
    ]


def _fill(name: int, rgb: tuple[int, int, int]) -> str:
    color = ",".join(map(str, (*rgb, 255)))
    options = {"color": color, "style": "solid", "outline_style": "no", "joinstyle": "bevel"}
    listed = "".join(f'<Option type="QString" name="{key}" value="{value}"/>' for key, value in options.items())
    properties = "".join(f'<prop k="{key}" v="{value}"/>' for key, value in options.items())
    return (
        f'<symbol name="{name}" type="fill" alpha="1" clip_to_extent="1" force_rhr="0">'
        f'<layer class="SimpleFill" enabled="1" locked="0" pass="0"><Option type="Map">{listed}</Option>{properties}'
        "</layer></symbol>"
    )
