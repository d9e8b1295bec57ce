"""Transfer learning with VGG16 and VGG19 in JAX/Flax: photos in, a trained head and a live label out."""

__version__ = "0.1.0"
