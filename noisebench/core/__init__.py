"""The base of the package: the language of losses and noises, registries, files, hardware."""
