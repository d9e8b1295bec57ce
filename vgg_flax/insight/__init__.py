"""What predictions are worth: metrics, and how they hold up in front of a camera."""
