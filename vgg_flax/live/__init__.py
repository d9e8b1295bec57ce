"""A model at work on moving pictures.

`sources` brings frames: `recorded` all of them, `newest` the latest of anything live, be it from `cameras`, `web` with
`streams` of `jpegs`, `pipes`, or FFMPEG. `overlay` draws what the model says of them, and `window`,
`output`, `recording` and `progress` show it on the screen, in files and in the terminal.
"""
