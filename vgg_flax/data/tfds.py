"""Any image-classification set of TensorFlow Datasets, read without TensorFlow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vgg_flax.data.dataset import Dataset
from vgg_flax.data.splitnames import SYNONYMS
from vgg_flax.errors import UserError


def open_dataset(name: str) -> Dataset:
    """A registered name such as `tf_flowers`, or the folder of a prepared data set in ArrayRecord format.

    Raises:
      UserError: unknown name, no network for the first download, or no image and label in it.
    """
    import tensorflow_datasets as tfds

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
        builder.download_and_prepare()
        return builder
    except tfds.core.DatasetNotFoundError:
        raise UserError(f"TensorFlow Datasets knows no {name!r}: see its catalogue for the names.") from None
    except (OSError, ConnectionError, tfds.core.download.DownloadError) as error:
        raise UserError(f"tfds:{name} could not be downloaded: {error}.") from None
