"""Programs killed at every step and at random moments, judged by what they leave once they are run again."""
