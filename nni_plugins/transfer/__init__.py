"""From a trained classifier to other tasks: its network as a backbone, heads on it, and its name in timm."""
