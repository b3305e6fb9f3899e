"""Export a checkpoint as ONNX: python export.py --help."""

import hydra
from omegaconf import DictConfig

from src.tasks import entry


@hydra.main(config_path="configs", config_name="export")
def main(config: DictConfig) -> float | None:
    """Run the task."""
    return entry.run("export", config)


if __name__ == "__main__":
    entry.start("export", main)
