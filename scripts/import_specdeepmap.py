"""Convert a checkpoint of SpecDeepMap's own trainer, without running anything that is in it.

    python scripts/import_specdeepmap.py model.ckpt out.ckpt
    python scripts/import_specdeepmap.py model.ckpt out.ckpt --class-names '[forest, grassland, water]'

eval.py and predict.py take the result like any other checkpoint. It keeps architecture, encoder, classes, chip size,
scaler, normalisation and weights, and feeds nodata values to the network as SpecDeepMap does. Such checkpoints hold no
names of classes: without --class-names maps read class_1, class_2, ….
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # scripts run from the checkout, where src is not installed

from src.errors import UserError  # noqa: E402
from src.labels import ClassTable  # noqa: E402
from src.models.checkpoint import save_network  # noqa: E402
from src.models.specdeepmap import import_checkpoint  # noqa: E402


def main(arguments: Sequence[str] | None = None) -> None:
    """Convert one checkpoint and say what was kept and what was dropped."""
    parser = argparse.ArgumentParser(description="Convert a checkpoint of SpecDeepMap's own trainer.")
    parser.add_argument("source", type=Path, help="its .ckpt")
    parser.add_argument("target", type=Path, help="the .ckpt to write")
    parser.add_argument("--class-names", help="as of prepare.py: '[forest, water]' or '{1: forest, 5: water}'")
    parser.add_argument("--class-colors", help='in the same way: \'{1: "#006400", 5: "#1e5adc"}\'')
    given = parser.parse_args(arguments)
    try:
        if given.target.exists() and given.target.samefile(given.source):
            raise UserError(f"{given.target} is the checkpoint to convert; give another name for the result.")
        names, colors = _read("--class-names", given.class_names), _read("--class-colors", given.class_colors)
        imported = import_checkpoint(given.source, names, colors)
        given.target.parent.mkdir(parents=True, exist_ok=True)
        save_network(given.target, imported.network, imported.spec, {"imported_from": given.source.name})
    except (UserError, OSError) as error:
        sys.exit(f"import_specdeepmap.py: error: {error}")
    spec = imported.spec
    encoder = "" if spec.encoder == "none" else f" with {spec.encoder}"
    print(
        f"Kept     {spec.architecture}{encoder}, {len(spec.bands)} bands, chips of {spec.chip_size[0]} × "
        f"{spec.chip_size[1]} px, class values {_listed(spec.classes, named=given.class_names is not None)}"
    )
    standardised = any(spec.normalization.mean) or any(std != 1 for std in spec.normalization.std)
    print(f"         scaler {spec.normalization.scale:g}, {'' if standardised else 'not '}normalised, nodata as data")
    for words in imported.dropped:
        print(f"Dropped  {words}")
    print(given.target)


def _read(option: str, text: str | None) -> Any:
    """Read a list or a mapping as Hydra's command lines have them; raises UserError if it cannot be read."""
    try:
        return None if text is None else yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(
            f"{option} {text} cannot be read; write a list or a mapping, '[forest, water]' or '{{1: forest}}', and "
            "colours in quotes: '{1: \"#006400\"}'."
        ) from error


def _listed(classes: ClassTable, *, named: bool) -> str:
    return ", ".join(f"{entry.value} {entry.name}" if named else str(entry.value) for entry in classes.classes)


if __name__ == "__main__":
    main()
