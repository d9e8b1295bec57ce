"""What a model is worth beyond its test accuracy: how it holds where a camera does not show the training photos."""
