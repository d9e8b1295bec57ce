"""What is wrong with some photos, ranked by what to do first. Nothing of the user's is touched."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from vgg_flax import console, ending
from vgg_flax.cache import cache_dir
from vgg_flax.doctor_settings import DoctorSettings
from vgg_flax.files import new_folder, sweep

if TYPE_CHECKING:  # JAX takes seconds to import
    from vgg_flax.insight.doctor import Examined


def main(settings: DoctorSettings) -> None:
    """Exit code 0 whatever is found."""
    from vgg_flax.insight import doctor, findings
    from vgg_flax.report import doctor as page

    with ending.listening() as check:
        try:
            examined = examine(settings, check)
            found = doctor.diagnose(examined, check)
        except ending.Stopped as stopped:
            console.say(f"stopped by {stopped}. What was computed is kept; start it again to go on.")
            raise SystemExit(stopped.code) from None
    folder = new_folder(settings.project, settings.name or "doctor")
    found.save(folder)
    page.write(folder, found, examined.dataset)
    for line in findings.in_words(found):
        console.show_line(line)
    names = ", ".join(sorted(path.name for path in folder.iterdir()))
    console.show_line(f"files in {folder}: {names}")


def examine(settings: DoctorSettings, check: Callable[[], None]) -> Examined:
    """Files read, pictures decoded, features computed, each once for all runs. `check` may raise to stop.

    Raises:
      UserError: there are no labelled photos, or no usable one.
    """
    import numpy as np

    from vgg_flax.commands.train import load_weights, make_network
    from vgg_flax.compilation import keep_compiled_programs
    from vgg_flax.data import copies, open_dataset
    from vgg_flax.data.photos import choose_size
    from vgg_flax.data.reading import content_keys, decode_all
    from vgg_flax.errors import UserError
    from vgg_flax.insight import files
    from vgg_flax.insight.doctor import Examined
    from vgg_flax.network.spec import BACKBONES, CUTS, Preprocessing
    from vgg_flax.store import FeatureStore

    sweep(cache_dir())
    keep_compiled_programs()
    training = settings.training
    weights = load_weights(training, BACKBONES[training.network.model])
    dataset = open_dataset(settings.data, label=settings.label, group=settings.group)
    for line in dataset.notes:
        console.say(line)
    seen = files.examine(dataset, check)
    size = choose_size(dataset, files.as_seen(seen), settings.image_size)
    reasons = {index: one.reason for index, one in enumerate(seen) if one.reason}
    pictures, wrong, _ = decode_all(dataset, files.as_seen(seen), Preprocessing(size), reasons, check)
    kept = np.setdiff1d(np.arange(len(seen)), list(reasons | wrong))
    if not len(kept):
        raise UserError(f"{settings.data}: none of its {len(seen)} pictures can be used, such as {dataset.names[0]}.")
    contents = np.array([seen[index].content for index in kept])
    keys = content_keys(contents.tolist())
    images = pictures.rows(keys, "image")
    spec, extractor = make_network(training, weights, CUTS["none"], size, len(dataset.classes))
    store = FeatureStore(extractor, training.augmentation, 0)
    store.fill(images, contents, 0, check)
    pooled = store.rows("pooled", contents)[:]
    _, first = np.unique(contents, return_index=True)
    likely = first[copies.near_pairs(pictures.rows([keys[i] for i in first], "hash")[:], lambda count: check())]
    return Examined(dataset, seen, reasons | wrong, kept, images, pooled, spec.backbone, likely)
