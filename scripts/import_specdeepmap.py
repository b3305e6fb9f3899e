"""Convert a checkpoint of SpecDeepMap's own trainer, without running anything that is in it.

    python scripts/import_specdeepmap.py model.ckpt out.ckpt

eval.py and predict.py take the result like any other checkpoint. It keeps architecture, encoder, classes, chip size,
scaler, normalisation and weights, and feeds nodata values to the network as SpecDeepMap does.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # scripts run from the checkout, where src is not installed

from src.errors import UserError  # noqa: E402
from src.models.checkpoint import save_network  # noqa: E402
from src.models.specdeepmap import import_checkpoint  # noqa: E402


def main(arguments: Sequence[str] | None = None) -> None:
    """Convert one checkpoint and say what was kept and what was dropped."""
    parser = argparse.ArgumentParser(description="Convert a checkpoint of SpecDeepMap's own trainer.")
    parser.add_argument("source", type=Path, help="its .ckpt")
    parser.add_argument("target", type=Path, help="the .ckpt to write")
    given = parser.parse_args(arguments)
    try:
        if given.target.exists() and given.target.samefile(given.source):
            raise UserError(f"{given.target} is the checkpoint to convert; give another name for the result.")
        imported = import_checkpoint(given.source)
        given.target.parent.mkdir(parents=True, exist_ok=True)
        save_network(given.target, imported.network, imported.spec, {"imported_from": given.source.name})
    except (UserError, OSError) as error:
        sys.exit(f"import_specdeepmap.py: error: {error}")
    spec = imported.spec
    encoder = "" if spec.encoder == "none" else f" with {spec.encoder}"
    print(
        f"Kept     {spec.architecture}{encoder}, {len(spec.bands)} bands, chips of {spec.chip_size[0]} × "
        f"{spec.chip_size[1]} px, class values {', '.join(map(str, spec.classes.values))}"
    )
    standardised = any(spec.normalization.mean) or any(std != 1 for std in spec.normalization.std)
    print(f"         scaler {spec.normalization.scale:g}, {'' if standardised else 'not '}normalised, nodata as data")
    for words in imported.dropped:
        print(f"Dropped  {words}")
    print(given.target)


if __name__ == "__main__":
    main()
