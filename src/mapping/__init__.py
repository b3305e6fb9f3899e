"""From a scene and a network to a map of it."""
