"""From shards to an encoder: order, data, augmentation, losses, backbones, the loop and its checkpoints."""
