"""Transfer learning with VGG16 and VGG19 in JAX/Flax: photos in, a trained head and a live label out."""

import os

__version__ = "0.1.0"

# A JPEG of one kilobyte can claim a gigapixel. OpenCV reads this limit once, when it is imported.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(100_000_000))
