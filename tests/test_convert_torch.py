"""A state_dict of PyTorch comes in whole, whatever its layers are called, and says what PyTorch says."""

import numpy as np
import pytest
from test_convert_files import SMALL16, SPECS

import weights_convert
from vgg_flax.answers.predictor import Predictor
from vgg_flax.errors import UserError
from weights_convert import convert, import_model, join, readers, rules, verify

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")
nn = torch.nn
PHOTOS = np.random.default_rng(5).integers(0, 256, (8, 64, 64, 3), np.uint8)
C = SMALL16.blocks[-1][-1]


def features(spec=SMALL16, norm=False, bias=True):
    """torchvision's `features`."""
    layers, channels = [], 3
    for block in spec.blocks:
        for width in block:
            layers.append(nn.Conv2d(channels, width, 3, padding=1, bias=bias))
            layers += [nn.BatchNorm2d(width)] if norm else []
            layers.append(nn.ReLU())
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


class VGG(nn.Module):
    """As torchvision's: features, avgpool, classifier; with an adaptive pool as large as block 5's map."""

    def __init__(self, head, pool=2, **options):
        super().__init__()
        self.features = features(**options)
        self.avgpool = nn.AdaptiveAvgPool2d(pool)
        self.classifier = head

    def forward(self, x):
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


def own(classes=3):
    flat = [nn.Linear(4 * C, 9), nn.ReLU(), nn.Dropout(), nn.Linear(9, 8), nn.ReLU(), nn.Dropout()]
    return nn.Sequential(*flat, nn.Linear(8, classes))


def replaced():
    head = own(5)
    head[6] = nn.Sequential(nn.Linear(8, 7), nn.ReLU(), nn.Dropout(0.4), nn.Linear(7, 3), nn.LogSoftmax(1))
    return head


def norms():
    return nn.Sequential(
        nn.BatchNorm1d(4 * C), nn.Linear(4 * C, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Dropout(), nn.Linear(9, 3)
    )


# Each as (model, settings of the import beside the recipe).
WHOLE = {
    "three classes": (lambda: VGG(own()), {}),
    "vgg16_bn": (lambda: VGG(own(), norm=True), {}),
    "vgg19": (lambda: VGG(own(), spec=SPECS["vgg19"]), {}),
    "norms without bias": (lambda: VGG(own(), norm=True, bias=False), {}),
    "classifier.6 replaced": (lambda: VGG(replaced()), {"head_activations": "relu"}),
    "a linear layer": (lambda: VGG(nn.Sequential(nn.Dropout(), nn.Linear(4 * C, 3), nn.Softmax(1))), {}),
    "averages": (lambda: VGG(nn.Linear(C, 3), pool=1), {"image_size": 64}),
    "two linear layers side by side": (lambda: VGG(nn.Sequential(nn.Linear(4 * C, 9), nn.Linear(9, 3))), {}),
    "batch norms": (norms, {"head_activations": "relu"}),
    "relu before the norm": (
        lambda: nn.Sequential(nn.Linear(4 * C, 9), nn.ReLU(), nn.BatchNorm1d(9), nn.Dropout(), nn.Linear(9, 3)),
        {"head_activations": "relu,none"},
    ),
    "one logit": (lambda: VGG(own(1)), {"logit": True, "classes": "a,b"}),
}


def built(kind_or_model):
    """The model with random values everywhere, so that a skipped part shows; logits of a size that tells."""
    model = WHOLE[kind_or_model][0]() if isinstance(kind_or_model, str) else kind_or_model
    model = model if isinstance(model, VGG) else VGG(model)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                noise = torch.rand(value.shape, generator=generator) + 0.5
                scale = 2.0 / value[0].numel() ** 0.5 if value.ndim > 1 else 0.3
                positive = "running_var" in name or (value.ndim == 1 and "weight" in name)
                value.copy_(noise if positive else (noise - 1) * scale * 3)
        last = [layer for layer in model.classifier.modules() if isinstance(layer, nn.Linear)][-1]
        logits = []
        handle = last.register_forward_hook(lambda layer, given, out: logits.append(out))
        model.eval()(inputs())
        handle.remove()
        last.weight /= logits[0].std()
        last.bias -= logits[0].mean(0) / logits[0].std()
    return model.eval()


def inputs(photos=PHOTOS):
    x = torch.tensor(photos).permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[:, None, None]


def probabilities(model, photos=PHOTOS):
    """What PyTorch says."""
    with torch.no_grad():
        out = model(inputs(photos))
        if out.shape[1] == 1:
            out = torch.cat([torch.zeros_like(out), out], 1)
        return (out if torch.allclose(out.sum(1), torch.ones(len(out))) else out.softmax(1)).numpy()


def imported(path, folder, spec=SMALL16, **settings):
    with readers.open_source(path) as source:
        said = import_model.Settings(**{"classes": "a,b,c", "preprocess": "rgb-torch", **settings})
        return import_model.import_model(source, convert.plan(source, spec), folder, said, [].append)


def assert_same_answers(path, folder, expected, limit=1e-5, **settings):
    imported(path, folder, **settings)
    found = Predictor.load(folder, engine="xla").probabilities(PHOTOS)
    np.testing.assert_allclose(found, expected, atol=limit)
    assert np.ptp(expected, axis=0).max() > 0.01, "the photos must not all look alike to the model"


@pytest.mark.parametrize("kind", WHOLE)
def test_a_state_dict_comes_in_whole(tmp_path, kind):
    model, settings = built(kind), WHOLE[kind][1]
    torch.save(model.state_dict(), tmp_path / "m.pth")
    spec = SPECS["vgg19"] if kind == "vgg19" else SMALL16
    assert_same_answers(tmp_path / "m.pth", tmp_path / "b", probabilities(model), spec=spec, **settings)
    safetensors_torch.save_file(model.state_dict(), tmp_path / "m.safetensors")
    assert_same_answers(tmp_path / "m.safetensors", tmp_path / "c", probabilities(model), spec=spec, **settings)


def test_a_head_alone_behind_the_backbone_of_another_file(tmp_path):
    model = built("three classes")
    torch.save(beside(features=model.features).state_dict(), tmp_path / "base.pth")
    torch.save(beside(classifier=model.classifier).state_dict(), tmp_path / "head.pth")
    under = weights_convert.load(str(tmp_path / "base.pth"), SMALL16, say=[].append)
    with readers.open_source(tmp_path / "head.pth") as source:
        source = join.join(source, under)
        said = import_model.Settings("a,b,c", "rgb-torch")
        import_model.import_model(source, convert.plan(source, SMALL16), tmp_path / "b", said, [].append)
    found = Predictor.load(tmp_path / "b", engine="xla").probabilities(PHOTOS)
    np.testing.assert_allclose(found, probabilities(model), atol=1e-5)


@pytest.mark.parametrize("size", [64, 128, 256])
def test_pictures_of_another_size_go_through_the_adaptive_pool(tmp_path, size):
    head = nn.Sequential(nn.Linear(49 * C, 9), nn.ReLU(), nn.Dropout(), nn.Linear(9, 3))
    model, photos = built(VGG(head, pool=7)), verify.noise(size)
    torch.save(model.state_dict(), tmp_path / "m.pth")
    done = imported(tmp_path / "m.pth", tmp_path / "b", image_size=size)
    found = Predictor.load(tmp_path / "b", engine="xla").probabilities(photos)
    np.testing.assert_allclose(found, probabilities(model, photos), atol=1e-5)
    assert done.notes[0].startswith(f"Average pools that make 7x7 places of {size // 32}x{size // 32}, as")
    assert len(done.notes) == 1 and np.ptp(found, axis=0).max() > 0.01
    assert imported(tmp_path / "m.pth", tmp_path / "c").notes == ()


@pytest.mark.parametrize("kind", ["three classes", "vgg16_bn"])
@pytest.mark.parametrize("compiled", [torch.jit.script, lambda model: torch.jit.trace(model, inputs()[:1])])
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_the_state_of_traced_and_scripted_models_is_read(tmp_path, kind, compiled):
    model = built(kind)
    torch.jit.save(compiled(model), tmp_path / "m.pt")
    assert_same_answers(tmp_path / "m.pt", tmp_path / "b", probabilities(model))
    with readers.open_source(tmp_path / "m.pt") as source:
        names = [name for name in model.state_dict() if "num_batches" not in name]
        assert source.format == "TorchScript" and [tensor.name for tensor in source.tensors] == names
    torch.jit.save(torch.jit.freeze(torch.jit.script(model)), tmp_path / "frozen.pt")
    with pytest.raises(UserError, match=r"torch.jit.freeze takes the names\. Next, .*torch\.onnx\.export"):
        imported(tmp_path / "frozen.pt", tmp_path / "c")


def test_half_precision(tmp_path):
    model = built("three classes")
    torch.save(model.half().state_dict(), tmp_path / "m.pth")
    assert_same_answers(tmp_path / "m.pth", tmp_path / "b", probabilities(model.float()), limit=1e-3)


def test_what_a_state_dict_does_not_say_is_asked_for(tmp_path):
    torch.save(VGG(norms()).state_dict(), tmp_path / "m.pth")
    message = r"between classifier\.2 and classifier\.5\. Say so with --head-activations relu, or none"
    with pytest.raises(UserError, match=message):
        imported(tmp_path / "m.pth", tmp_path / "b")
    for said in ("tanh", "relu,relu"):
        with pytest.raises(UserError, match="--head-activations relu"):
            imported(tmp_path / "m.pth", tmp_path / "b", head_activations=said)
    torch.save(VGG(own(1)).state_dict(), tmp_path / "one.pth")
    with pytest.raises(UserError, match="If it is a logit: --logit"):
        imported(tmp_path / "one.pth", tmp_path / "b", classes="a,b")


def test_maxima_are_taken_where_the_person_says_so(tmp_path):
    torch.save(VGG(nn.Linear(C, 3), pool=1).state_dict(), tmp_path / "m.pth")
    assert imported(tmp_path / "m.pth", tmp_path / "b").head.spec.pools == ("average",)
    assert imported(tmp_path / "m.pth", tmp_path / "c", head_activations="maximum").head.spec.pools == ("maximum",)


def test_dense_layers_of_unknown_order_are_refused_by_name(tmp_path):
    model = VGG(nn.Sequential(nn.Linear(4 * C, 9), nn.ReLU(), nn.Linear(9, 3)))
    model.auxiliary = nn.Linear(4 * C, 2)
    torch.save(model.state_dict(), tmp_path / "m.pth")
    with pytest.raises(UserError, match="auxiliary may lie between the other dense layers"):
        imported(tmp_path / "m.pth", tmp_path / "b", head_activations="relu")


class Sliced(nn.Module):
    """As LPIPS and many perceptual losses cut VGG: numbered as in `features`, in five parts."""

    def __init__(self):
        super().__init__()
        layers, start = features(), 0
        for i, end in enumerate((4, 9, 16, 23, 30), 1):
            part = nn.Sequential()
            for k in range(start, end):
                part.add_module(str(k), layers[k])
            self.add_module(f"slice{i}", part)
            start = end


def beside(**others):
    model = nn.Module()
    for name, other in others.items():
        setattr(model, name, other)
    return model


def detector():
    """As SSD: VGG's layers in a list with further ones behind it."""
    return beside(
        loc=nn.ModuleList([nn.Conv2d(C, 4, 3)]),
        vgg=nn.ModuleList([*features(), nn.Conv2d(C, 10, 3)]),
        extras=nn.Conv2d(10, 4, 1),
    )


class Named(nn.Module):
    """As FCN: conv1_1 to conv5_3, then convolutions in place of dense layers."""

    def __init__(self):
        super().__init__()
        convs = iter(layer for layer in features() if isinstance(layer, nn.Conv2d))
        for i, block in enumerate(SMALL16.blocks, 1):
            for j in range(1, len(block) + 1):
                setattr(self, f"conv{i}_{j}", next(convs))
        self.fc6 = nn.Conv2d(C, 9, 7)


PREFIXES = {
    "module.": lambda: nn.DataParallel(VGG(own())),
    "features.module.": lambda: beside(features=nn.DataParallel(features()), classifier=own()),
    "net.": lambda: beside(net=VGG(own())),
    "backbone.": lambda: beside(backbone=features(), neck=nn.Conv2d(C, 4, 1)),
    "encoder of a U-Net": lambda: beside(decoder=nn.Conv2d(C, C, 3), encoder=beside(features=features())),
    "bare indices": features,
    "a loss beside it": lambda: beside(criterion=nn.CrossEntropyLoss(weight=torch.ones(3)), model=VGG(own())),
    "slices": Sliced,
    "lpips": lambda: beside(net=Sliced(), lin0=nn.Conv2d(4, 1, 1)),
    "ssd": detector,
    "fcn": Named,
    "region proposals": lambda: beside(rpn=nn.Conv2d(C, C, 3), head=features()),
}


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("kind", PREFIXES)
def test_the_convolutions_are_found_under_any_names(tmp_path, kind, suffix):
    model = PREFIXES[kind]()
    convs = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3)]
    first = next(i for i, layer in enumerate(convs) if layer.in_channels == 3)
    path = tmp_path / f"m.{suffix}"
    torch.save(model.state_dict(), path) if suffix == "pth" else safetensors_torch.save_file(model.state_dict(), path)
    with readers.open_source(path) as source:
        found = convert.plan(source, SMALL16).read()
    for layer, conv in zip(rules.conv_names(rules.DEPTHS["vgg16"]), convs[first : first + 13], strict=True):
        np.testing.assert_array_equal(found[layer]["kernel"], conv.weight.detach().numpy().transpose(2, 3, 1, 0))
        np.testing.assert_array_equal(found[layer]["bias"], conv.bias.detach().numpy())


def test_two_networks_in_one_file_are_not_mixed_up(tmp_path):
    torch.save(beside(student=features(), teacher=features()).state_dict(), tmp_path / "m.pth")
    with readers.open_source(tmp_path / "m.pth") as source, pytest.raises(UserError, match=r"holds 2 VGGs.*student\.0"):
        convert.plan(source, SMALL16)


def test_norms_of_another_kind_are_refused_by_name(tmp_path):
    layers = features()
    layers[1] = nn.PReLU(4)
    torch.save(layers.state_dict(), tmp_path / "m.pth")
    with readers.open_source(tmp_path / "m.pth") as source, pytest.raises(UserError, match="1 is among the convolu"):
        convert.plan(source, SMALL16)
    torch.save(nn.Sequential(nn.Linear(3, 2)).state_dict(), tmp_path / "x.pth")
    message = "under any names; found layers 0"
    with readers.open_source(tmp_path / "x.pth") as source, pytest.raises(UserError, match=message) as caught:
        convert.plan(source, SMALL16)
    assert "block1_conv1" not in str(caught.value)
