"""Map a scene with a checkpoint: python predict.py --help."""

import hydra
from omegaconf import DictConfig

from src.tasks import entry


@hydra.main(config_path="configs", config_name="predict")
def main(config: DictConfig) -> float | None:
    """Run the task; its result, if any, is what a sweep maximises."""
    return entry.run("predict", config)


if __name__ == "__main__":
    entry.start("predict", main)
