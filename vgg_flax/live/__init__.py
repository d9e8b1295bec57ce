"""A model at work on moving pictures.

    Source ──> Pump ──> Latest ──> Worker: view -> features -> head -> judge, smoothing, heat map
                 └──────> Board: the newest State <──────┘
    Board ──> faces: Window, Terminal        only read
          └─> sinks: rows of JSON and CSV, the film; threads of their own, bounded queues
    keys, mouse, signals ──> Control ──> switches of State, snapshots, recordings, the end

`session` says who runs in which thread. `sources` brings frames: `recorded` all of them, `newest` the latest of
anything live, be it from `cameras`, `web` with `streams` of `jpegs`, `pipes`, or FFMPEG. `painter` makes a picture of
a State: `scene` and `panel` say what stands where, `drawing` and `text` draw it.
"""
