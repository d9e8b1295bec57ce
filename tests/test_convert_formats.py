"""PyTorch, timm, safetensors and NumPy files come in bit for bit, each in its own layout, without torch."""

import io
import json
import pickle
import struct
import warnings
import zipfile

import numpy as np
import pytest
import safetensors.numpy
from test_convert_files import (
    KERAS_NOISE,
    SMALL16,
    SPECS,
    assert_same,
    expected_backbone,
    keras_backbone,
    random_backbone,
    random_top,
    read_top,
)

import weights_convert
from vgg_flax.errors import UserError


def load(path, spec=SMALL16):
    return weights_convert.load(str(path), spec, say=[].append)


def rgb(arrays):
    """The backbone as it is: no flip."""
    return {layer: {"kernel": kernel, "bias": bias} for layer, (kernel, bias) in arrays.items()}


def torch_state(spec, arrays, top=None, side=1, timm=False):
    """{name: array} as torchvision or timm name them, in torch's layouts, written apart from our own rules."""
    state, index = {}, 0
    for i, block in enumerate(spec.blocks, 1):
        for j in range(1, len(block) + 1):
            kernel, bias = arrays[f"block{i}_conv{j}"]
            state[f"features.{index}.weight"] = np.ascontiguousarray(np.einsum("hwio->oihw", kernel))
            state[f"features.{index}.bias"] = bias
            index += 2  # a ReLU follows
        index += 1  # a pool
    if top:
        names = ("pre_logits.fc1", "pre_logits.fc2", "head.fc")
        if not timm:
            names = ("classifier.0", "classifier.3", "classifier.6")
        channels = spec.blocks[-1][-1]
        for name, (kernel, bias) in zip(names, top.values(), strict=True):
            if name == "pre_logits.fc1":
                weight = np.einsum("hwio->oihw", kernel.reshape(side, side, channels, -1))
            elif name == "pre_logits.fc2":
                weight = kernel.T[:, :, None, None]
            elif name == "classifier.0":
                # rows in the order height, width, channel; torch flattens channel, height, width
                weight = kernel.reshape(side, side, channels, -1).transpose(3, 2, 0, 1).reshape(bias.size, -1)
            else:
                weight = kernel.T
            state[f"{name}.weight"] = np.ascontiguousarray(weight)
            state[f"{name}.bias"] = bias
    return state


def batch_norms(spec, seed=3):
    """{layer: (gamma, beta, mean, variance)}."""
    rng = np.random.default_rng(seed)
    widths = [width for block in spec.blocks for width in block]
    return [(*(rng.normal(size=n).astype("f4") for _ in range(3)), rng.uniform(0.5, 2, n).astype("f4")) for n in widths]


def with_norms(spec, state, norms):
    """vgg16_bn: each convolution followed by a batch norm, so indices are others."""
    convs = [name.removesuffix(".weight") for name in state if name.endswith(".weight") and "features" in name]
    found, index, k = {}, 0, 0
    for block in spec.blocks:
        for _ in block:
            found[f"features.{index}.weight"] = state[f"{convs[k]}.weight"]
            found[f"features.{index}.bias"] = state[f"{convs[k]}.bias"]
            parts = ("weight", "bias", "running_mean", "running_var")
            found |= {f"features.{index + 1}.{part}": a for part, a in zip(parts, norms[k], strict=True)}
            found[f"features.{index + 1}.num_batches_tracked"] = np.array(7)
            index, k = index + 3, k + 1
        index += 1
    return found


def torch_pickle(state, prefix="", wrap=None, legacy=False):
    """The pickle of a state_dict, put together opcode by opcode as torch writes it, and its storages."""
    out, storages = io.BytesIO(), []

    def text(value):
        raw = value.encode()
        out.write(b"X" + struct.pack("<I", len(raw)) + raw)

    def integers(values):
        out.write(b"(" + b"".join(b"J" + struct.pack("<i", v) for v in values) + b"t")

    out.write(b"\x80\x02")
    if wrap:
        out.write(b"}")
        text(wrap)
    out.write(b"ccollections\nOrderedDict\n)R(")
    for name, array in state.items():
        text(prefix + name)
        out.write(b"ctorch._utils\n_rebuild_tensor_v2\n((")
        text("storage")
        out.write(b"ctorch\n" + {"f4": b"FloatStorage", "f2": b"HalfStorage"}.get(array.dtype.str[1:], b"LongStorage"))
        out.write(b"\n")
        text(str(len(storages)))
        text("cpu")
        out.write(b"J" + struct.pack("<i", array.size) + (b"NtQK\0" if legacy else b"tQK\0"))
        integers(array.shape)
        integers([stride // array.itemsize for stride in array.strides])
        out.write(b"\x89ccollections\nOrderedDict\n)RtR")
        storages.append(array.tobytes())
    out.write(b"u}")
    text("_metadata")
    out.write(b"}sb" + (b"s." if wrap else b"."))
    return out.getvalue(), storages


def write_torch_zip(path, state, **options):
    data, storages = torch_pickle(state, **options)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/byteorder", "little")
        for i, storage in enumerate(storages):
            archive.writestr(f"archive/data/{i}", storage)
        archive.writestr("archive/version", "3\n")
    return path


def write_torch_legacy(path, state):
    """As torch before 1.6: five pickles, and then each storage behind its number of values."""
    data, storages = torch_pickle(state, legacy=True)
    facts = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    keys = [str(i) for i in range(len(storages))]
    parts = [pickle.dumps(part, protocol=2) for part in (0x1950A86A20F9469CFC6C, 1001, facts)]
    sizes = [array.size for array in state.values()]
    with path.open("wb") as file:
        file.write(b"".join([*parts, data, pickle.dumps(keys, protocol=2)]))
        for size, storage in zip(sizes, storages, strict=True):
            file.write(struct.pack("<q", size) + storage)
    return path


@pytest.mark.parametrize("model", ["vgg16", "vgg19"])
@pytest.mark.parametrize("timm", [False, True], ids=["torchvision", "timm"])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_torch_layouts(tmp_path, model, timm, suffix):
    spec = SPECS[model]
    arrays, top = random_backbone(spec), random_top(spec, size=64)
    state = torch_state(spec, arrays, top, side=2, timm=timm)
    path = tmp_path / f"w.{suffix}"
    write_torch_zip(path, state) if suffix == "pth" else safetensors.numpy.save_file(state, path)
    weights = load(path, spec)
    assert_same(weights.backbone, rgb(arrays))
    assert_same(read_top(path, spec), rgb(top))
    np.testing.assert_allclose(np.divide(weights.preprocessing.mean, 255), (0.485, 0.456, 0.406))


@pytest.mark.parametrize("options", [{"prefix": "module."}, {"wrap": "state_dict"}, {"prefix": "model.module."}])
def test_wrapped_state_dicts(tmp_path, options):
    arrays = random_backbone(SMALL16)
    path = write_torch_zip(tmp_path / "w.pth", torch_state(SMALL16, arrays), **options)
    assert_same(load(path).backbone, rgb(arrays))


def test_half_precision_widens_exactly(tmp_path):
    arrays = {k: tuple(a.astype("f2") for a in v) for k, v in random_backbone(SMALL16).items()}
    path = write_torch_zip(tmp_path / "w.pth", torch_state(SMALL16, arrays))
    assert_same(load(path).backbone, rgb({k: tuple(a.astype("f4") for a in v) for k, v in arrays.items()}))


def test_batch_norms_are_folded(tmp_path):
    """A convolution and its batch norm, evaluated apart in double precision, equal the folded convolution."""
    arrays, norms = random_backbone(SMALL16), batch_norms(SMALL16)
    state = with_norms(SMALL16, torch_state(SMALL16, arrays), norms)
    found = load(write_torch_zip(tmp_path / "w.pth", state)).backbone
    x = np.random.default_rng(5).normal(size=(3, 3, 3))
    kernel, bias = arrays["block1_conv1"]
    gamma, beta, mean, variance = norms[0]
    plain = np.einsum("hwi,hwio->o", x, kernel.astype("f8")) + bias
    expected = (plain - mean) / np.sqrt(variance + 1e-5) * gamma + beta
    folded = np.einsum("hwi,hwio->o", x, found["block1_conv1"]["kernel"]) + found["block1_conv1"]["bias"]
    np.testing.assert_allclose(folded, expected, rtol=1e-5)
    with pytest.raises(UserError, match=r"misses running_var of features\.8"):
        load(write_torch_zip(tmp_path / "x.pth", {k: v for k, v in state.items() if k != "features.8.running_var"}))


def test_our_own_safetensors_carry_their_statistics(tmp_path):
    arrays = random_backbone(SMALL16)
    flat = {f"backbone/{k}/{p}": a for k, v in arrays.items() for p, a in zip(("kernel", "bias"), v, strict=True)}
    metadata = {"mean": "[1, 2, 3]", "std": "[4, 5, 6]"}
    safetensors.numpy.save_file(flat, tmp_path / "w.safetensors", metadata)
    weights = load(tmp_path / "w.safetensors")
    assert_same(weights.backbone, rgb(arrays))
    assert (weights.preprocessing.mean, weights.preprocessing.std) == ((1, 2, 3), (4, 5, 6))


def caffe_name(layer):
    """block1_conv2 -> conv1_2, fc1 -> fc6."""
    fully = {"fc1": "fc6", "fc2": "fc7", "predictions": "fc8"}
    return fully.get(layer) or f"conv{layer[5]}_{layer[-1]}"


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_machrisaas_pickled_dict(tmp_path, protocol):
    arrays, top = random_backbone(SMALL16), random_top(SMALL16)
    thing = {caffe_name(layer): list(pair) for layer, pair in (arrays | top).items()}
    with (tmp_path / "vgg16.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        pickle.dump(np.array(thing, dtype=object), file, protocol=protocol)
    weights = load(tmp_path / "vgg16.npy")
    assert_same(weights.backbone, expected_backbone(arrays))  # this dialect is BGR
    assert_same(read_top(tmp_path / "vgg16.npy"), rgb(top))


def test_frossards_archive(tmp_path):
    arrays, top = random_backbone(SMALL16), random_top(SMALL16)
    flat = {f"{caffe_name(k)}_{part}": a for k, v in (arrays | top).items() for part, a in zip("Wb", v, strict=True)}
    np.savez(tmp_path / "vgg16_weights.npz", **flat)
    weights = load(tmp_path / "vgg16_weights.npz")
    assert_same(weights.backbone, rgb(arrays))  # and this one is RGB
    assert_same(read_top(tmp_path / "vgg16_weights.npz"), rgb(top))
    assert weights.preprocessing.mean == (123.68, 116.779, 103.939)


def test_compressed_archive_of_keras_names(tmp_path):
    arrays = random_backbone(SMALL16)
    flat = {f"{k}/{part}:0": a for k, v in arrays.items() for part, a in zip(("kernel", "bias"), v, strict=True)}
    np.savez_compressed(tmp_path / "w.npz", **flat)
    assert_same(load(tmp_path / "w.npz").backbone, expected_backbone(arrays))


def write_tfjs(folder, arrays, shard=700, **entry):
    """A tensorflow.js folder with small shards, so that tensors straddle them."""
    weights = [
        {"name": f"{layer}/{part}", "shape": list(array.shape), "dtype": "float32", **entry}
        for layer, pair in arrays.items()
        for part, array in zip(("kernel", "bias"), pair, strict=True)
    ]
    data = b"".join(array.tobytes() for pair in arrays.values() for array in pair)
    pieces = [data[i : i + shard] for i in range(0, len(data), shard)]
    paths = [f"group1-shard{i + 1}of{len(pieces)}.bin" for i in range(len(pieces))]
    folder.mkdir()
    for path, piece in zip(paths, pieces, strict=True):
        (folder / path).write_bytes(piece)
    manifest = [{"paths": paths, "weights": weights}]
    model = {"format": "layers-model", "modelTopology": {"model_config": {}}, "weightsManifest": manifest}
    (folder / "model.json").write_text(json.dumps(model))
    return folder


def test_tensorflow_js_folder(tmp_path):
    arrays = random_backbone(SMALL16)
    folder = write_tfjs(tmp_path / "web", arrays)
    assert_same(load(folder).backbone, expected_backbone(arrays))
    assert_same(load(folder / "model.json").backbone, expected_backbone(arrays))


def test_damaged_tensorflow_js_folders(tmp_path):
    arrays = random_backbone(SMALL16)
    with pytest.raises(UserError, match="is quantised"):
        load(write_tfjs(tmp_path / "q", arrays, quantization={"scale": 1, "min": 0, "dtype": "uint8"}))
    folder = write_tfjs(tmp_path / "web", arrays)
    first = next(folder.glob("group1-shard1of*"))
    whole = first.read_bytes()
    first.write_bytes(whole[:-4])
    with pytest.raises(UserError, match="Is a shard cut short"):
        load(folder)
    first.unlink()
    with pytest.raises(UserError, match="Bring the whole folder"):
        load(folder)
    (tmp_path / "outside").write_bytes(whole)
    first.symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match="is a link"):
        load(folder)
    text = (folder / "model.json").read_text()
    (folder / "model.json").write_text(text.replace(first.name, "../outside"))
    with pytest.raises(UserError, match="Expected the name of a file beside it"):
        load(folder)


@pytest.mark.filterwarnings(*KERAS_NOISE)
def test_keras_archive(tmp_path):
    import keras

    model = keras.Sequential([keras_backbone(SMALL16), keras.layers.Flatten(), keras.layers.Dense(2)])
    model.save(tmp_path / "m.keras")
    assert_same(load(tmp_path / "m.keras").backbone, expected_backbone(random_backbone(SMALL16)))


class TestAgainstTorch:
    """Files that torch itself writes, and what torch itself computes."""

    def module(self, spec, norm=False):
        torch = pytest.importorskip("torch")
        layers, channels = [], 3
        for block in spec.blocks:
            for out in block:
                layers.append(torch.nn.Conv2d(channels, out, 3, padding=1))
                layers += [torch.nn.BatchNorm2d(out)] if norm else []
                layers.append(torch.nn.ReLU())
                channels = out
            layers.append(torch.nn.MaxPool2d(2))
        torch.manual_seed(0)
        dense = torch.nn.Linear
        model = torch.nn.Module()
        model.features = torch.nn.Sequential(*layers)
        dropout = torch.nn.Dropout()
        top = [dense(channels * 4, 9), torch.nn.ReLU(), dropout, dense(9, 9), torch.nn.ReLU(), dropout, dense(9, 5)]
        model.classifier = torch.nn.Sequential(*top)
        if norm:
            for layer in layers:
                if isinstance(layer, torch.nn.BatchNorm2d):
                    layer.running_mean.uniform_(-0.1, 0.1)
                    layer.running_var.uniform_(0.5, 1.5)
        return model.eval()

    @pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
    @pytest.mark.parametrize("norm", [False, True], ids=["plain", "bn"])
    def test_network_computes_what_torch_computes(self, tmp_path, legacy, norm):
        torch = pytest.importorskip("torch")
        import jax

        from vgg_flax.network.model import bind
        from vgg_flax.network.preprocess import normalize
        from vgg_flax.network.spec import HeadSpec, ModelSpec

        module = self.module(SMALL16, norm)
        torch.save(module.state_dict(), tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
        weights = load(tmp_path / "w.pth")
        photos = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype("f4")
        scaled = (photos / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
        with torch.no_grad():
            features = module.features(torch.tensor(scaled.transpose(0, 3, 1, 2), dtype=torch.float32))
            expected = module.classifier(features.flatten(1)).numpy()
        spec = ModelSpec(SMALL16, HeadSpec(5, (5,), ("flatten",), (9, 9), standardize=False), 64)
        with jax.default_matmul_precision("float32"):
            model = bind(spec, {"backbone": weights.backbone, "head": read_top(tmp_path / "w.pth")})
            found = np.asarray(model.classify(model.features(normalize(photos, weights.preprocessing))))
        assert np.abs(found - expected).max() <= 2e-5 * np.abs(expected).max()

    def test_views_and_checkpoints(self, tmp_path):
        torch = pytest.importorskip("torch")
        module = self.module(SMALL16)
        state = dict(module.state_dict())
        state["features.0.weight"] = state["features.0.weight"].to(memory_format=torch.channels_last)
        optimiser = torch.optim.Adam(module.parameters())
        module.features(torch.zeros(1, 3, 64, 64)).sum().backward()
        optimiser.step()
        expected = {name: value.clone().numpy() for name, value in state.items()}
        checkpoint = {"epoch": 3, "state_dict": state, "optimizer": optimiser.state_dict()}
        torch.save(checkpoint, tmp_path / "c.pth")
        found = load(tmp_path / "c.pth").backbone["block1_conv1"]["kernel"]
        np.testing.assert_array_equal(found, expected["features.0.weight"].transpose(2, 3, 1, 0))

    def test_a_whole_pickled_model_is_refused_by_name(self, tmp_path):
        torch = pytest.importorskip("torch")
        torch.save(self.module(SMALL16), tmp_path / "m.pth")
        with pytest.raises(UserError, match=r"names torch\.nn\.modules.*torch\.save\(torch\.load\("):
            load(tmp_path / "m.pth")

    @pytest.mark.parametrize("norm", [False, True], ids=["plain", "bn"])
    def test_what_torch_exports_to_onnx(self, tmp_path, norm):
        torch = pytest.importorskip("torch")
        module = self.module(SMALL16, norm)
        network = torch.nn.Sequential(module.features, torch.nn.Flatten(), module.classifier).eval()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of the exporter that needs no further package
            torch.onnx.export(network, torch.zeros(1, 3, 64, 64), tmp_path / "m.onnx", dynamo=False)
        torch.save(module.state_dict(), tmp_path / "w.pth")
        found, expected = load(tmp_path / "m.onnx"), load(tmp_path / "w.pth")
        for layer in expected.backbone:
            for part in ("kernel", "bias"):
                np.testing.assert_allclose(
                    found.backbone[layer][part], expected.backbone[layer][part], rtol=1e-5, atol=1e-6
                )
        statistics = [(one.preprocessing.mean, one.preprocessing.std) for one in (found, expected)]
        assert statistics[0] == statistics[1]
