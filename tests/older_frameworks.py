"""Writes files with an older framework, for tests/test_convert_older_frameworks.py, in an environment of its own:

    python tests/older_frameworks.py FOLDER keras2      # TensorFlow with Keras 2, and tf2onnx
    python tests/older_frameworks.py FOLDER keras3      # Keras 3 before 3.7 on the path
    python tests/older_frameworks.py FOLDER typed LINE  # what a message says, in the program that built a model

FOLDER/photos.npy, uint8 [n, 64, 64, 3], is there. Each file gets what the framework says of them, NAME.npy float32
[n, outputs], where NAME is the file's name without its suffixes.
"""

import os
import pathlib
import sys

os.environ.update(KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="2", CUDA_VISIBLE_DEVICES="")

import numpy as np
import tensorflow as tf

FOLDER, FRAMEWORK = pathlib.Path(sys.argv[1]), sys.argv[2]
if FRAMEWORK == "keras3":
    import keras
elif tf.version.VERSION.startswith("2.15."):
    keras = tf.keras
else:
    import tf_keras as keras
layers, vgg16, Sequential = keras.layers, keras.applications.vgg16, keras.Sequential
PHOTOS = np.load(FOLDER / "photos.npy").astype("float32")
UNIT, CAFFE = PHOTOS / np.float32(255), PHOTOS[..., ::-1] - np.array([103.939, 116.779, 123.68], "float32")
SHAPE = (64, 64, 3)


def base():
    """VGG16 without its top."""
    return keras.applications.VGG16(weights=None, include_top=False, input_shape=SHAPE)


def flat(model):
    """Its layers, those of models inside it, too."""
    return [one for layer in model.layers for one in (flat(layer) if hasattr(layer, "layers") else [layer])]


def shaken(model, inputs):
    """Random values everywhere, so that nothing that is left out goes unseen; probabilities that tell."""
    random = np.random.RandomState(0)
    for layer in flat(model):
        if isinstance(layer, (layers.Conv2D, layers.Dense)):
            kernel, *bias = layer.get_weights()
            kernel *= 1.4 * random.uniform(0.5, 1.5, kernel.shape)
            layer.set_weights([kernel, *(random.normal(0, 0.01, one.shape) for one in bias)])
        elif isinstance(layer, layers.BatchNormalization):
            layer.set_weights([random.uniform(0.5, 1.5, one.shape) for one in layer.get_weights()])
    last = [layer for layer in flat(model) if isinstance(layer, layers.Dense)][-1]
    activation, last.activation = last.activation, keras.activations.linear
    logits = np.array(model(inputs, training=False))
    kernel, bias = last.get_weights()
    scale = 3 * logits.std()  # a little, or else rounding is all that shows
    last.set_weights([kernel / scale, (bias - logits.mean(0)) / scale])
    last.activation = activation
    return model


def trained(model, inputs):
    """One step of Adam, so that its state is in the file."""
    outputs = model.output_shape[-1]
    targets = np.arange(len(inputs)) % 2 if outputs == 1 else np.eye(outputs)[np.arange(len(inputs)) % outputs]
    loss = "binary_crossentropy" if outputs == 1 else "categorical_crossentropy"
    model.compile(keras.optimizers.Adam(1e-5), loss, metrics=["accuracy"])
    model.fit(inputs, targets, batch_size=len(inputs), verbose=0)
    return model


def answered(name, model, inputs):
    """The framework's own answers, beside the file."""
    np.save(FOLDER / f"{name}.npy", np.asarray(model.predict(inputs, verbose=0), "float32"))
    return model


def notebook():
    frozen = base()
    frozen.trainable = False
    model = Sequential()
    for layer in (frozen, layers.Flatten(), layers.Dense(64, "relu"), layers.Dropout(0.5), layers.Dense(3, "softmax")):
        model.add(layer)
    return trained(shaken(model, CAFFE), CAFFE)


def functional(before):
    inputs = keras.Input(SHAPE)
    x = layers.GlobalAveragePooling2D()(base()(before(inputs), training=False))
    return shaken(keras.Model(inputs, layers.Dense(3, "softmax")(layers.Dropout(0.2)(x))), PHOTOS)


def augmented():
    frozen = base()
    frozen.trainable = False
    augment = Sequential([layers.RandomFlip("horizontal"), layers.RandomRotation(0.1), layers.RandomZoom(0.1)])
    head = (layers.Flatten(), layers.BatchNormalization(), layers.Dense(1, "sigmoid"))
    model = Sequential([keras.Input(SHAPE), augment, layers.Rescaling(1 / 255), frozen, *head])
    return trained(shaken(model, PHOTOS), PHOTOS)


def numbered():
    """Layers called conv2d_13 and so on, each with a batch norm: a cell that ran twice."""
    for _ in range(2):
        model = Sequential([keras.Input(SHAPE)])
        for channels, convolutions in ((4, 2), (4, 2), (5, 3), (6, 3), (6, 3)):
            for _ in range(convolutions):
                model.add(layers.Conv2D(channels, 3, padding="same"))
                model.add(layers.BatchNormalization())
                model.add(layers.ReLU())
            model.add(layers.MaxPooling2D())
        for layer in (layers.Flatten(), layers.Dense(8, "relu"), layers.Dense(3, "softmax")):
            model.add(layer)
    return trained(shaken(model, UNIT), UNIT)


def mixed():
    """Computed in half precision; its answers are those of the same weights in float32."""
    found = []
    for policy in ("mixed_bfloat16", "float32"):
        keras.mixed_precision.set_global_policy(policy)
        inputs = keras.Input(SHAPE)
        x = layers.GlobalAveragePooling2D()(base()(layers.Rescaling(1 / 255)(inputs)))
        outputs = layers.Activation("softmax", dtype="float32")(layers.Dense(3)(x))
        found.append(keras.Model(inputs, outputs))
    half, full = found
    full.set_weights(shaken(half, PHOTOS).get_weights())
    return half, full


class Subclass(keras.Model):
    """A network with `call`."""

    def __init__(self):
        super().__init__()
        self.backbone, self.pool, self.top = base(), layers.GlobalAveragePooling2D(), layers.Dense(3, "softmax")

    def call(self, inputs, training=False):
        return self.top(self.pool(self.backbone(inputs, training=training)))


def subclass():
    model = Subclass()
    model(CAFFE)
    return shaken(model, CAFFE)


def reverse(x):
    red, green, blue = tf.split(tf.cast(x, tf.float32), 3, axis=-1)
    return tf.concat([blue, green, red], axis=-1) - tf.constant([103.939, 116.779, 123.68])


def keras2():
    import tf2onnx

    model = answered("notebook", notebook(), CAFFE)
    model.save(FOLDER / "notebook.h5")
    model.save(FOLDER / "notebook.keras")
    model.save_weights(FOLDER / "notebook.weights.h5")
    (FOLDER / "notebook.json").write_text(model.to_json())
    model = answered("traced", functional(vgg16.preprocess_input), PHOTOS)
    model.save(FOLDER / "traced.h5")
    model.save(FOLDER / "saved")
    model.save_weights(FOLDER / "kept" / "cp.ckpt")
    tf2onnx.convert.from_keras(model, output_path=str(FOLDER / "traced.onnx"))
    answered("reverse", functional(reverse), PHOTOS).save(FOLDER / "reverse.h5")
    answered("augmented", augmented(), PHOTOS).save(FOLDER / "augmented.keras")
    answered("numbered", numbered(), UNIT).save(FOLDER / "numbered.keras")


def keras3():
    answered("traced3", functional(vgg16.preprocess_input), PHOTOS).save(FOLDER / "traced3.keras")
    answered("numbered3", numbered(), UNIT).save(FOLDER / "numbered3.keras")
    half, full = mixed()
    answered("mixed3", full, PHOTOS)
    half.save(FOLDER / "mixed3.keras")
    answered("subclass3", subclass(), CAFFE).save_weights(FOLDER / "subclass3.weights.h5")


def typed():
    os.chdir(FOLDER)
    exec(sys.argv[3], {"tf": tf, "model": functional(vgg16.preprocess_input)})


{"keras2": keras2, "keras3": keras3, "typed": typed}[FRAMEWORK]()
