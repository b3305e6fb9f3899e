"""Score a checkpoint on a data folder: python eval.py --help."""

import hydra
from omegaconf import DictConfig

from src.tasks import entry


@hydra.main(config_path="configs", config_name="eval")
def main(config: DictConfig) -> float | None:
    """Run the task; its result, if any, is what a sweep maximises."""
    return entry.run("eval", config)


if __name__ == "__main__":
    entry.start("eval", main)
