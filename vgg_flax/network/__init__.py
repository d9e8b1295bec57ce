"""The network: `spec` says what it is, `model` has its layers, `preprocess` and `augment` its input."""
