"""One file for each library, with a class `Contender` that `benchmarks.worker` drives.

A file is imported in its library's own environment, so none may import another library, nor `vgg_flax` except ours.
"""
