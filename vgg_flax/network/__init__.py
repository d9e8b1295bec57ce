"""The network: what it is (`spec`), its layers (`model`), its input (`preprocess`, `augment`), the frozen part (`extract`)."""
