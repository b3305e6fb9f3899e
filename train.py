"""Train a network on a data folder: python train.py --help."""

import hydra
from omegaconf import DictConfig

from src.tasks import entry


@hydra.main(config_path="configs", config_name="train")
def main(config: DictConfig) -> float | None:
    """Run the task; its result, if any, is what a sweep maximises."""
    return entry.run("train", config)


if __name__ == "__main__":
    entry.start("train", main)
