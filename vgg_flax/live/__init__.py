"""A model at work on moving pictures.

`sources` brings frames (`recorded`: all of them, `newest`: the latest), `overlay` draws what the model says of them,
and `window`, `output` and `progress` show it on the screen, in files and in the terminal.
"""
