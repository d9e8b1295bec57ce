"""Any image-classification set of TensorFlow Datasets, read without TensorFlow."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vgg_flax.console import say
from vgg_flax.data.dataset import Dataset
from vgg_flax.data.splitnames import SYNONYMS
from vgg_flax.errors import UserError

PATIENCE = 10.0  # seconds for a first answer from where a data set is fetched; tfds itself would try for 200


def open_dataset(name: str) -> Dataset:
    """A registered name such as `tf_flowers`, or the folder of a prepared data set in ArrayRecord format.

    Raises:
      UserError: unknown name, no network for the first download, or no image and label in it.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(
            f"tfds:{name} needs the package {error.name or 'tensorflow-datasets'}: run pip install "
            f"{(error.name or 'tensorflow-datasets').partition('.')[0]}, or give --data a folder of photos."
        ) from None
    builder = _prepared(tfds, name)
    features = builder.info.features
    label = features["label"] if "label" in features else None  # noqa: SIM401, it has no get
    if not isinstance(label, tfds.features.ClassLabel) or "image" not in features:
        raise UserError(f"tfds:{name} has features {list(features)}, expected 'image' and 'label'.")
    sources, labels, splits = [], [], []
    for split in builder.info.splits:
        records = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
        sources += [(records, i) for i in range(len(records))]
        labels += [int(records[i]["label"]) for i in range(len(records))]
        splits += [SYNONYMS.get(split, "")] * len(records)
    if set(splits) == {"train"}:
        splits = [""] * len(splits)

    def read(index: int) -> bytes:
        records, position = sources[index]
        return records[position]["image"]

    order = sorted(range(len(label.names)), key=label.names.__getitem__)
    rank = np.argsort(order)
    return Dataset(
        source=f"tfds:{name}",
        classes=tuple(label.int2str(i) for i in order),
        names=tuple(f"{name} {i}" for i in range(len(labels))),
        labels=rank[np.asarray(labels, np.int64)].astype(np.int32),
        own_splits=np.asarray(splits, "<U5"),
        read=read,
    )


def _prepared(tfds: Any, name: str) -> Any:
    try:
        if Path(name).is_dir():
            return tfds.builder_from_directory(name)
        builder = tfds.builder(name, file_format="array_record")
        if not Path(builder.data_dir).is_dir():
            _download(tfds, builder, name)
        return builder
    except tfds.core.DatasetNotFoundError:
        raise UserError(f"TensorFlow Datasets knows no {name!r}: see its catalogue for the names.") from None
    except (OSError, tfds.core.download.DownloadError) as error:
        raise UserError(f"tfds:{name} could not be downloaded: {str(error).splitlines()[0]}") from None


def _download(tfds: Any, builder: Any, name: str) -> None:
    urls = list(getattr(builder, "url_infos", None) or {})
    if urls and (reason := _unreachable(urls[0])):
        host = urllib.parse.urlsplit(urls[0]).netloc
        raise UserError(
            f"tfds:{name} could not be downloaded: {host} does not answer ({reason}). Connect this machine to the "
            f"network, or copy a prepared data set to {builder.data_dir}."
        )
    say(f"downloading tfds:{name} to {builder.data_dir}")
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # a warning for each of ten attempts
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):  # it announces itself in bold letters
        builder.download_and_prepare()


def _unreachable(url: str, fetch: Callable[..., Any] = urllib.request.urlopen) -> str:
    """Why nothing answers at `url` within PATIENCE, or ""; any answer will do, a refusal too."""
    found = [f"no answer within {PATIENCE:.0f} seconds"]

    def ask() -> None:
        try:
            fetch(url, timeout=PATIENCE).close()
            found.append("")
        except urllib.error.HTTPError:
            found.append("")
        except (OSError, ValueError) as error:
            found.append(str(getattr(error, "reason", error)))

    asking = threading.Thread(target=ask, daemon=True)  # a name server that is silent can't be given a time limit
    asking.start()
    asking.join(PATIENCE)
    return found[-1]
