"""A fine-tuned Keras model comes in with its head, and then says what Keras says."""

import io
import zipfile

import h5py
import keras
import numpy as np
import pytest
from test_convert_files import KERAS_NOISE, SMALL16, keras_backbone

from vgg_flax.data import open_dataset
from vgg_flax.errors import UserError
from vgg_flax.network.spec import BackboneSpec, HeadSpec
from weights_convert import convert, guess, import_model, optimiser, readers, tables
from weights_convert.pixels import Inside
from weights_convert.recipes import FEATUREWISE, RECIPES, recipe

FIXED = [name for name in RECIPES if not name.endswith(FEATUREWISE)]
pytestmark = pytest.mark.filterwarnings(*KERAS_NOISE)
layers = keras.layers
WIDE = BackboneSpec("vgg16", ((8,) * 2, (16,) * 2, (32,) * 3, (64,) * 3, (64,) * 3))


def nested(*head, before=()):
    return keras.Sequential([keras.Input((64, 64, 3)), *before, keras_backbone(SMALL16, 64), *head])


def flat(*head):
    return keras.Sequential([keras.Input((64, 64, 3)), *keras_backbone(SMALL16, 64).layers[1:], *head])


def functional(*head, before=()):
    inputs = keras.Input((64, 64, 3))
    x = inputs
    for layer in (*before, keras_backbone(SMALL16, 64), *head):
        x = layer(x)
    return keras.Model(inputs, x)


def notebook():
    return [layers.Flatten(), layers.Dense(9, "relu"), layers.Dense(8, "relu"), layers.Dense(2, "softmax")]


MODELS = {
    "notebook": lambda: nested(*notebook()),
    "functional": lambda: functional(*notebook()),
    "flat": lambda: flat(*notebook()),
    "logits": lambda: nested(layers.GlobalAveragePooling2D(), layers.Dropout(0.2), layers.Dense(3)),
    "one sigmoid": lambda: nested(layers.GlobalAveragePooling2D(), layers.Dense(1, "sigmoid")),
    "max pooling": lambda: nested(layers.BatchNormalization(), layers.GlobalMaxPooling2D(), layers.Dense(2, "softmax")),
    "no bias": lambda: nested(layers.Flatten(), layers.Dense(3, "softmax", use_bias=False)),
    "norms everywhere": lambda: functional(
        layers.BatchNormalization(),
        layers.Flatten(),
        layers.Dense(9),
        layers.BatchNormalization(scale=False),
        layers.Activation("relu"),
        layers.BatchNormalization(center=False),
        layers.Dropout(0.5),
        layers.Dense(2),
        layers.Softmax(),
    ),
    "rescaling and augmentation": lambda: functional(
        layers.GlobalAveragePooling2D(),
        layers.Dense(2, "softmax"),
        before=(layers.RandomFlip("horizontal"), layers.Rescaling(1 / 127.5, offset=-1)),
    ),
    "standardised features": lambda: nested(
        layers.GlobalAveragePooling2D(),
        layers.Normalization(mean=[0.1] * 6, variance=[0.2, 0.3, 0.4, 0.5, 0.6, 0.7]),
        layers.BatchNormalization(),
        layers.Dense(2, "softmax"),
    ),
    "two linear layers": lambda: nested(layers.Flatten(), layers.Dense(3), layers.Dense(2)),
    "pool as large as the map": lambda: nested(layers.AveragePooling2D(2), layers.Flatten(), layers.Dense(2)),
    "largest of the map": lambda: nested(layers.MaxPooling2D(2), layers.Reshape((6,)), layers.Dense(2)),
    "activations apart": lambda: nested(
        layers.ReLU(),
        layers.GlobalMaxPooling2D(),
        layers.Reshape((1, 1, 6)),
        layers.Flatten(),
        layers.Dense(5),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Activation("relu"),
        layers.Dense(4, "relu"),
        layers.BatchNormalization(),
        layers.Dense(3),
        layers.Dense(2),
        layers.Activation("log_softmax"),
    ),
    "normalization by colour": lambda: nested(
        layers.GlobalAveragePooling2D(),
        layers.Dense(2, "softmax"),
        before=(layers.Rescaling(1 / 255), layers.Normalization(mean=[0.5, 0.4, 0.3], variance=[0.04, 0.05, 0.06])),
    ),
}


def shaken(model, inputs):
    """Random values in every variable, so that a skipped batch norm shows; logits of a size that tells."""
    rng = np.random.default_rng(7)
    for variable in model.variables:
        if "seed" not in variable.path:
            shift = 0.1 if "beta" in variable.path or "mean" in variable.path else 0
            variable.assign(np.asarray(variable) * rng.uniform(0.5, 1.5, variable.shape) + shift)
    last = [layer for layer in model.layers if isinstance(layer, layers.Dense)][-1]
    features = np.asarray(keras.Model(model.inputs[0], last.input)(inputs, training=False))
    kernel, *bias = last.get_weights()
    kernel = kernel / np.std(features @ kernel)
    last.set_weights([kernel, -np.mean(features @ kernel, 0)] if bias else [kernel])
    return model


def imported(path, name, classes):
    """Bundle with the recipe `name`."""
    with readers.open_source(path) as source:
        plan = convert.plan(source, SMALL16)
        backbone, head = import_model.read(source, plan)
        how = import_model.preparation(name, head.image_size or 64, head)
        return import_model.make_bundle(plan, backbone, head, classes, how, {})


def prepared(photos, name):
    """Photos prepared by our recipe's name, in plain NumPy."""
    order, scaling = name.split("-")
    x = photos.astype("f4")
    mean = {"caffe": (123.68, 116.779, 103.939), "torch": np.multiply((0.485, 0.456, 0.406), 255)}.get(scaling, 0)
    std = {"torch": np.multiply((0.229, 0.224, 0.225), 255), "unit": 255, "symmetric": 127.5}.get(scaling, 1)
    x = ((x - (127.5 if scaling == "symmetric" else mean)) / std).astype("f4")
    return x[..., ::-1] if order == "bgr" else x


def keras_probabilities(model, inputs):
    """What Keras says."""
    out = np.asarray(model(inputs, training=False))
    if out.shape[1] == 1:
        return np.concatenate([1 - out, out], 1)
    return out if np.allclose(out.sum(1), 1) else np.exp(out) / np.exp(out).sum(1, keepdims=True)


# Both formats where their variables' names differ most; for the other kinds one, in turn, to save time.
PAIRS = [(kind, ("h5", "keras")[i % 2]) for i, kind in enumerate(MODELS)]
PAIRS += [("norms everywhere", "h5"), ("notebook", "keras")]


@pytest.mark.parametrize(("kind", "suffix"), dict.fromkeys(PAIRS))
def test_whole_model_says_what_keras_says(tmp_path, kind, suffix):
    from vgg_flax.answers.predictor import Predictor

    photos = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)
    name = FIXED[len(kind) % len(FIXED)] if "by colour" not in kind and "rescaling" not in kind else "bgr-raw"
    inputs = prepared(photos, name)
    keras.utils.set_random_seed(0)
    model = shaken(MODELS[kind](), inputs)
    model.save(tmp_path / f"m.{suffix}")
    expected = keras_probabilities(model, inputs)
    bundle = imported(tmp_path / f"m.{suffix}", name, tuple("abc"[: expected.shape[1]]))
    found = Predictor(bundle, engine="xla").probabilities(photos)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.ptp(expected, axis=0).max() > 0.01, "the test photos must not all look alike to the model"


REFUSED = {
    "max pooling of turned signs": (
        lambda: nested(layers.Rescaling(-1.0), layers.GlobalMaxPooling2D(), layers.Dense(2)),
        "GlobalMaxPooling2D",
    ),
    "tanh": (lambda: nested(layers.Flatten(), layers.Dense(3, "tanh"), layers.Dense(2)), "activation tanh"),
    "relu over one output": (lambda: nested(layers.Flatten(), layers.Dense(1, "relu")), "ends in relu over one output"),
    "softmax over one output": (
        lambda: nested(layers.Flatten(), layers.Dense(1, "softmax")),
        "ends in softmax over one output",
    ),
    "a number": (lambda: nested(layers.Flatten(), layers.Dense(1)), "If it is a logit: --logit"),
    "a pool of a part": (lambda: nested(layers.MaxPooling2D(1), layers.Flatten(), layers.Dense(2)), "MaxPooling2D"),
    "pools that overlap": (
        lambda: nested(layers.AveragePooling2D(1, 2), layers.Flatten(), layers.Dense(2)),
        "AveragePooling2D",
    ),
    "a relu behind a norm": (
        lambda: nested(layers.BatchNormalization(), layers.ReLU(), layers.Flatten(), layers.Dense(2)),
        "activation relu",
    ),
    "multi-label": (lambda: nested(layers.Flatten(), layers.Dense(3, "sigmoid")), "ends in sigmoid over 3 classes"),
    "upside down": (
        lambda: nested(layers.Flatten(), layers.Dense(2), before=(layers.Rescaling(-1.0),)),
        "one positive scale",
    ),
    "permuted input": (
        lambda: nested(layers.Flatten(), layers.Dense(2), before=(layers.Permute((2, 1, 3)),)),
        "permute: the first convolution reads something else",
    ),
    "another convolution": (
        lambda: nested(layers.Conv2D(3, 1, name="extra"), layers.Flatten(), layers.Dense(2)),
        "Conv2D|MaxPooling2D",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_carried_over_is_named(tmp_path, kind):
    build, message = REFUSED[kind]
    build().save(tmp_path / "m.keras")
    with pytest.raises(UserError, match=message):
        imported(tmp_path / "m.keras", "rgb-unit", ("a", "b"))


def test_one_output_is_a_logit_where_the_person_says_so(tmp_path):
    from vgg_flax.answers.predictor import Predictor

    photos = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)
    model = shaken(nested(layers.GlobalAveragePooling2D(), layers.Dense(1)), prepared(photos, "bgr-caffe"))
    model.save(tmp_path / "m.keras")
    with readers.open_source(tmp_path / "m.keras") as source:
        settings = import_model.Settings("a,b", "bgr-caffe", logit=True)
        import_model.import_model(source, convert.plan(source, SMALL16), tmp_path / "b", settings, [].append)
    found = Predictor.load(tmp_path / "b", engine="xla").probabilities(photos)
    expected = 1 / (1 + np.exp(-np.asarray(model(prepared(photos, "bgr-caffe")))))
    np.testing.assert_allclose(found[:, 1:], expected, atol=1e-5)


def unnamed(path):
    """The archive as Keras before 3.7 wrote it: members numbered by class in the order of the layers, without names."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    inner = io.BytesIO(members["model.weights.h5"])
    with h5py.File(inner, "r+") as file:
        groups = []
        file.visititems(lambda name, thing: groups.append(thing) if "name" in thing.attrs else None)
        for group in groups:
            del group.attrs["name"]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in (members | {"model.weights.h5": inner.getvalue()}).items():
            archive.writestr(name, data)


def misnamed_backbone():
    """Convolutions whose names are those that Keras gives to others, as a cell that ran twice leaves them."""
    names = [f"conv2d_{i}" for i in (*range(1, 13), 0)]
    inputs = x = keras.Input((64, 64, 3))
    for i, block in enumerate(SMALL16.blocks, 1):
        for out in block:
            x = layers.Conv2D(out, 3, padding="same", activation="relu", name=names.pop(0).removesuffix("_0"))(x)
        x = layers.MaxPooling2D(2, name=f"block{i}_pool")(x)
    return keras.Model(inputs, x, name="vgg16")


def two_dense(first, second):
    return (
        layers.Flatten(),
        layers.Dense(6, "relu", name=first),
        layers.BatchNormalization(name="batch_normalization_1"),
        layers.Dense(6, "relu", name=second),
        layers.BatchNormalization(name="batch_normalization"),
        layers.Dense(2, "softmax", name="dense_5"),
    )


NUMBERED = {
    "nested": lambda: functional(*two_dense("dense_1", "dense")),
    "in a Sequential": lambda: nested(*two_dense("z", "a")),
    "flat": lambda: flat(*two_dense("dense_2", "dense_1")),
    "misnamed": lambda: keras.Sequential([keras.Input((64, 64, 3)), misnamed_backbone(), *two_dense("b", "dense")]),
}


@pytest.mark.parametrize("kind", NUMBERED)
def test_an_archive_without_names_is_read_by_position(tmp_path, kind):
    from vgg_flax.answers.predictor import Predictor

    photos = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)
    keras.utils.set_random_seed(0)
    model = shaken(NUMBERED[kind](), prepared(photos, "bgr-caffe"))
    model.save(tmp_path / "m.keras")
    unnamed(tmp_path / "m.keras")
    expected = keras_probabilities(model, prepared(photos, "bgr-caffe"))
    found = Predictor(imported(tmp_path / "m.keras", "bgr-caffe", ("a", "b")), engine="xla").probabilities(photos)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.ptp(expected, axis=0).max() > 0.01


def backbone_of(step, **options):
    """A VGG16 whose convolutions are made by `step`."""
    inputs = x = keras.Input((64, 64, 3))
    for i, block in enumerate(SMALL16.blocks, 1):
        for j, out in enumerate(block, 1):
            x = step(x, out, f"block{i}_conv{j}")
        x = layers.MaxPooling2D(2, name=f"block{i}_pool", **options)(x)
    return keras.Model(inputs, x, name="vgg16")


def conv(out, name, **options):
    return layers.Conv2D(out, 3, name=name, **{"padding": "same", "activation": "relu", **options})


SAME_FUNCTION = {
    "batch norms": lambda x, out, name: layers.ReLU()(
        layers.BatchNormalization(epsilon=0.01)(conv(out, name, activation=None)(x))
    ),
    "batch norms without parts": lambda x, out, name: layers.Activation("relu")(
        layers.BatchNormalization(scale=False, center=out > 4)(conv(out, name, activation=None, use_bias=False)(x))
    ),
    "activations apart": lambda x, out, name: layers.Activation("relu")(conv(out, name, activation="linear")(x)),
    "padding apart": lambda x, out, name: conv(out, name, padding="valid")(layers.ZeroPadding2D(1)(x)),
    "without bias": lambda x, out, name: conv(out, name, use_bias=False)(x),
}
OTHER_FUNCTION = {
    "leaky": (lambda x, out, name: layers.LeakyReLU(0.1)(conv(out, name, activation=None)(x)), "LeakyReLU leaky_re_lu"),
    "elu": (lambda x, out, name: conv(out, name, activation="elu")(x), "Conv2D block1_conv1"),
    "valid": (
        lambda x, out, name: layers.ZeroPadding2D(1)(conv(out, name, padding="valid")(x)),
        "Conv2D block1_conv1",
    ),
    "norms behind": (lambda x, out, name: layers.BatchNormalization()(conv(out, name)(x)), "BatchNormalization batch"),
    "strides": (lambda x, out, name: conv(out, name, dilation_rate=2)(x), "Conv2D block1_conv1"),
}


@pytest.mark.parametrize("kind", SAME_FUNCTION)
def test_a_backbone_alone_computes_what_keras_computes(tmp_path, kind):
    """Without its head, too: batch norms folded, layers that are written apart taken together."""
    import jax

    from vgg_flax.network.model import bind_backbone

    keras.utils.set_random_seed(0)
    model = nested(layers.Flatten(), layers.Dense(2))
    backbone = backbone_of(SAME_FUNCTION[kind])
    model = keras.Sequential([keras.Input((64, 64, 3)), backbone, layers.Flatten(), layers.Dense(2)])
    inputs = np.random.default_rng(1).normal(size=(2, 64, 64, 3)).astype("f4")
    shaken(model, inputs)
    model.save(tmp_path / "m.keras")
    with readers.open_source(tmp_path / "m.keras") as source:
        plan = convert.plan(source, SMALL16)
        params = plan.read()
        assert len(plan.left_out) == 2, plan.left_out
    with jax.default_matmul_precision("float32"):
        found = np.asarray(bind_backbone(SMALL16, "float32", params)(inputs[..., ::-1])["block5"])
    expected = np.asarray(backbone(inputs, training=False))
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    assert np.ptp(expected) > 0


@pytest.mark.parametrize("kind", OTHER_FUNCTION)
def test_a_backbone_that_computes_something_else_is_refused(tmp_path, kind):
    step, message = OTHER_FUNCTION[kind]
    keras.backend.clear_session()
    model = keras.Sequential([keras.Input((64, 64, 3)), backbone_of(step), layers.Flatten(), layers.Dense(2)])
    for suffix in ("keras", "h5"):
        model.save(tmp_path / f"m.{suffix}")
        with (
            readers.open_source(tmp_path / f"m.{suffix}") as source,
            pytest.raises(UserError, match=f"{message}.* is no layer of a VGG backbone"),
        ):
            convert.plan(source, SMALL16)


def test_pools_that_pad_are_refused(tmp_path):
    keras.Sequential(
        [keras.Input((72, 72, 3)), *backbone_of(lambda x, o, n: conv(o, n)(x), padding="same").layers[1:]]
    ).save(tmp_path / "m.keras")
    with (
        readers.open_source(tmp_path / "m.keras") as source,
        pytest.raises(UserError, match="MaxPooling2D block1_pool is no layer of a VGG"),
    ):
        convert.plan(source, SMALL16)


def test_names_of_classes_come_from_a_list_of_any_length_or_a_file(tmp_path):
    names = tuple(f"class {i}" for i in range(1000))  # longer than a file's name may be
    assert import_model.class_names(",".join(names), None, 1000) == names
    (tmp_path / "names.txt").write_bytes("ant\nbée\n".encode("utf-8-sig"))
    assert import_model.class_names(str(tmp_path / "names.txt"), None, 2) == ("ant", "bée")
    (tmp_path / "names.txt").write_bytes("ant\nbée\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"names\.txt can't be read as UTF-8 text"):
        import_model.class_names(str(tmp_path / "names.txt"), None, 2)
    assert import_model.class_names("\ufeffant,bee", None, 2) == ("ant", "bee")
    with pytest.raises(UserError, match=r"gone\.txt: there is no such file"):
        import_model.class_names(str(tmp_path / "gone.txt"), None, 2)
    with pytest.raises(UserError, match="names ant twice"):
        import_model.class_names("ant,ant", None, 2)


def test_a_branch_is_no_chain(tmp_path):
    inputs = keras.Input((64, 64, 3))
    features = layers.GlobalAveragePooling2D()(keras_backbone(SMALL16, 64)(inputs))
    outputs = layers.Dense(2)(layers.Concatenate()([features, features]))
    keras.Model(inputs, outputs).save(tmp_path / "m.keras")
    with pytest.raises(UserError, match="Concatenate"):
        imported(tmp_path / "m.keras", "rgb-unit", ("a", "b"))


def coloured(count, seed=0):
    """Pictures of two kinds that differ in colour and in the direction of their edges, and their labels."""
    rng = np.random.default_rng(seed)
    ramp = np.arange(64)
    photos, labels = [], []
    for i in range(count):
        kind = i % 2
        stripes = 40 * np.sign(np.sin(ramp / rng.uniform(1, 4)))
        photo = rng.uniform(40, 160, 3) + rng.normal(0, 15, (64, 64, 3))
        photo = photo + (stripes[:, None, None] if kind else stripes[None, :, None])
        photo[..., kind * 2] += 35
        photos.append(np.clip(photo, 0, 255).astype(np.uint8))
        labels.append(kind)
    return np.stack(photos), np.asarray(labels)


def trained(how, photos, labels, method, keep=True):
    """A model whose head Keras has really trained on photos prepared by a recipe; its optimiser's state is kept."""
    inputs = (photos - np.asarray(how.preprocessing.mean, "f4")) / np.asarray(how.preprocessing.std, "f4")
    inputs = inputs[..., ::-1] if how.bgr else inputs
    keras.utils.set_random_seed(0)
    backbone = keras_backbone(WIDE, 64)
    for layer in backbone.layers:
        if weights := layer.get_weights():  # He's scale, so that pictures still differ at the end
            layer.set_weights([weights[0] / 0.3 * (2 / weights[0][..., 0].size) ** 0.5, weights[1] * 0.1])
    backbone.trainable = False
    features = np.asarray(backbone(inputs, training=False))
    head = [layers.Flatten(), layers.Dense(64, "relu"), layers.Dense(2)]
    top = keras.Sequential([keras.Input(features.shape[1:]), *head])
    # From the logits: on JAX a saturated softmax has no gradient, and large inputs saturate it at once.
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    top.compile(method, loss)
    top.fit(features, labels, batch_size=16, epochs=20, verbose=0)
    model = keras.Sequential([keras.Input((64, 64, 3)), backbone, *head])
    if keep:
        model.compile(top.optimizer, loss)
    return model


def scored(path, photos, labels):
    measured = tuple(photos.mean((0, 1, 2))), tuple(photos.std((0, 1, 2)))
    with readers.open_source(path) as source:
        plan = convert.plan(source, WIDE)
        arrays, found = import_model.read(source, plan)
        moments = optimiser.second_moments(source, found.reads)
    recipes = [recipe(one, 64, measured=measured) for one in RECIPES]
    return guess.score(
        lambda one: import_model.make_bundle(plan, arrays, found, ("a", "b"), one, {}), recipes, photos, labels, moments
    )


TOLD = ["rgb-unit", "bgr-unit", "bgr-symmetric", "bgr-caffe", "rgb-torch", "bgr-featurewise"]


@pytest.mark.parametrize("name", TOLD)
def test_a_trained_model_tells_its_recipe(tmp_path, name):
    """The recipe is first, or named among those within chance of the first."""
    photos, labels = coloured(64)
    how = recipe(name, 64, measured=(tuple(photos.mean((0, 1, 2))), tuple(photos.std((0, 1, 2)))))
    trained(how, photos, labels, "adam", keep=False).save(tmp_path / "m.keras")
    scores = scored(tmp_path / "m.keras", photos, labels)
    named = [score.recipe.name for score in scores if score.tied]
    assert name in named, [(s.recipe.name, s.accuracy, s.loss, s.tied) for s in scores]
    assert scores[0].agreement is None


@pytest.mark.parametrize("method", ["adam", "rmsprop"])
@pytest.mark.parametrize("suffix", ["h5", "keras"])
@pytest.mark.parametrize("name", TOLD)
def test_the_optimisers_state_tells_the_recipe(tmp_path, name, suffix, method):
    """Of twelve recipes the second moments in the file leave it and at most one that is much like it."""
    photos, labels = coloured(64)
    how = recipe(name, 64, measured=(tuple(photos.mean((0, 1, 2))), tuple(photos.std((0, 1, 2)))))
    trained(how, photos, labels, method).save(tmp_path / f"m.{suffix}")
    scores = scored(tmp_path / f"m.{suffix}", *coloured(64, seed=1))
    named = [score.recipe.name for score in scores if score.tied]
    assert name in named and len(named) <= 2, [(s.recipe.name, s.agreement, s.tied) for s in scores]


def test_an_optimiser_without_second_moments_says_nothing(tmp_path):
    photos, labels = coloured(32)
    trained(recipe("rgb-unit", 64), photos, labels, keras.optimizers.SGD(1e-3, 0.9)).save(tmp_path / "m.h5")
    with readers.open_source(tmp_path / "m.h5") as source:
        assert [tensor.shape for tensor in source.optimiser] == [(256, 64), (64, 2)]  # momenta
        assert optimiser.second_moments(source, (256, 64)) is None


def test_a_normalised_head_does_not_read_the_features_as_they_are(tmp_path):
    """What an optimiser says of its first kernel is then not about the features."""
    for head, reads in (
        ([layers.Flatten(), layers.Dense(3, "relu"), layers.Dense(2)], (4 * 6, 3)),
        ([layers.GlobalAveragePooling2D(), layers.Dropout(0.5), layers.Dense(1, "sigmoid")], (6, 1)),
        ([layers.Flatten(), layers.BatchNormalization(), layers.Dense(3, "relu"), layers.Dense(2)], None),
    ):
        nested(*head).save(tmp_path / "m.keras")
        with readers.open_source(tmp_path / "m.keras") as source:
            assert import_model.read(source, convert.plan(source, SMALL16))[1].reads == reads


def test_an_untrained_model_tells_nothing(tmp_path):
    import cv2

    photos, labels = coloured(40)
    for i, photo in enumerate(photos):
        (tmp_path / "data" / "ab"[labels[i]]).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "data" / "ab"[labels[i]] / f"{i}.png"), photo[..., ::-1])
    head = layers.Dense(2, kernel_initializer="zeros", bias_initializer=keras.initializers.Constant([5.0, 0.0]))
    nested(layers.Flatten(), head).save(tmp_path / "m.keras")
    settings = import_model.Settings(data=open_dataset(str(tmp_path / "data")))
    with readers.open_source(tmp_path / "m.keras") as source:
        plan = convert.plan(source, SMALL16)
        with pytest.raises(UserError, match="under no recipe is the model better than chance on 40 photos"):
            import_model.import_model(source, plan, tmp_path / "bundle", settings, [].append)
    assert not (tmp_path / "bundle").exists()


def test_statistics_are_those_of_all_pixels(tmp_path):
    import cv2

    photos, labels = coloured(6)
    for i, photo in enumerate(photos):
        (tmp_path / "ab"[labels[i]]).mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "ab"[labels[i]] / f"{i}.png"), photo[..., ::-1])
    mean, std = guess.statistics(open_dataset(str(tmp_path)), 64)
    np.testing.assert_allclose(mean, photos.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(std, photos.astype("f8").std((0, 1, 2)), rtol=1e-6)
    head = import_model.Head(HeadSpec(2, (5,), ("average",)), {}, 64, Inside())
    assert import_model.preparation("bgr-featurewise", 64, head, open_dataset(str(tmp_path))).bgr
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in tmp_path.rglob("*.png"):
            archive.write(path, path.relative_to(tmp_path))
    assert guess.statistics(open_dataset(str(tmp_path / "photos.zip")), 64) == (mean, std)
    with pytest.raises(UserError, match="give --data FOLDER"):
        import_model.preparation("bgr-featurewise", 64, head)


def test_labelled_photos_find_the_recipe(tmp_path, capsys):
    """A model whose head separates two kinds of photos only when they are prepared as in its training."""
    import cv2

    rng = np.random.default_rng(0)
    photos, labels = [], []
    for i in range(24):
        photo = rng.integers(0, 60, (64, 64, 3)).astype(np.uint8)
        photo[..., i % 2 * 2] += 120  # red or blue: only the right colour order tells them apart
        name = tmp_path / "data" / ("red", "teal")[i % 2] / f"{i}.png"
        name.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(name), photo[..., ::-1])
        photos.append(photo)
        labels.append(i % 2)
    model = nested(layers.GlobalAveragePooling2D(), layers.Dense(2, "softmax"))
    features = np.asarray(keras.Sequential(model.layers[:-1])(np.stack(photos)[..., ::-1] / np.float32(255)))
    middle, spread = features.mean(0), features.std(0) + 1e-6
    rows = (features - middle) / spread
    kernel = np.linalg.lstsq(rows, np.where(np.equal(labels, 1), 4.0, -4.0), rcond=None)[0] / spread
    kernel, bias = np.stack([-kernel, kernel], 1), np.array([1, -1]) * (middle @ kernel)
    model.layers[-1].set_weights([kernel.astype("f4"), bias.astype("f4")])
    model.save(tmp_path / "m.h5")
    with readers.open_source(tmp_path / "m.h5") as source:
        plan = convert.plan(source, SMALL16)
        settings = import_model.Settings(data=open_dataset(str(tmp_path / "data")))
        done = import_model.import_model(source, plan, tmp_path / "bundle", settings, tables.scores)
    assert done.recipe.name == "bgr-unit" and done.chosen.startswith("best of 12 by 24 photos of ")
    out = capsys.readouterr().out
    assert "bgr-unit" in out.splitlines()[4], out
    from vgg_flax.answers.predictor import Predictor

    predictor = Predictor.load(tmp_path / "bundle", engine="xla")
    assert predictor.classes == ("red", "teal")
    answers = [predictor.predict(photo[None])[0] for photo in photos[:2]]
    assert [one.label for one in answers] == ["red", "teal"]
    assert all(one.familiarity and set(one.nearest) <= {f"{c}/{i}.png" for c in ("red", "teal") for i in range(24)}
               for one in answers)  # fmt: skip
    assert predictor.bundle.judge.temperature == 1.0 and predictor.bundle.judge.sure > 0
