"""Cut scenes and labels into a data folder: python prepare.py --help."""

import hydra
from omegaconf import DictConfig

from src.tasks import entry


@hydra.main(config_path="configs", config_name="prepare")
def main(config: DictConfig) -> float | None:
    """Run the task; its result, if any, is what a sweep maximises."""
    return entry.run("prepare", config)


if __name__ == "__main__":
    entry.start("prepare", main)
