"""From a composed configuration to plain Python calls: the only place that knows Hydra."""
