"""Compiled programs survive their process."""

import os
import subprocess
import sys

START = """
import collections
import jax
from vgg_flax.compilation import keep_compiled_programs
seen = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: seen.update([event.rpartition("/")[2]]))
keep_compiled_programs()
jax.jit(lambda x: x + 1)(1.0)  # however small
print(seen["compile_requests_use_cache"], seen["cache_hits"])
"""


def test_the_second_start_compiles_nothing(cache):
    environment = os.environ | {"VGG_FLAX_CACHE": str(cache), "JAX_PLATFORMS": "cpu"}
    answers = [
        subprocess.run([sys.executable, "-c", START], env=environment, capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    (asked, found), (asked_again, found_again) = [map(int, answer.stdout.split()) for answer in answers]
    assert asked == asked_again > 0
    assert (found, found_again) == (0, asked)
