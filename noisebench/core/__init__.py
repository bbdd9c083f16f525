"""What every part stands on: the language of losses and noises, registries, files, hardware."""
