"""Weight files made by an attacker: each is refused with one line of ours, quickly, and nothing outside is read.

Every attack starts from a file that loads, so that a refusal is due to the attack and to nothing else.
"""

import io
import json
import os
import pickle
import struct
import time
import zipfile

import h5py
import numpy as np
import onnx
import pytest
import safetensors.numpy
from onnx import TensorProto
from test_convert_files import SMALL16, random_backbone, write_keras_h5
from test_convert_formats import torch_pickle, torch_state, write_torch_zip
from test_convert_onnx import vgg_graph
from test_hostile_fuzz import write_keras3

import weights_convert
from vgg_flax.errors import UserError

SECRET = b"the secret that must not be read" * 100


def refused(path, message="", seconds=2.0):
    """Loading it ends in our error, one line, soon."""
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        weights_convert.load(str(path), SMALL16, say=[].append)
    assert time.monotonic() - start < seconds
    text = str(caught.value)
    assert "\n" not in text and "\x1b" not in text and "not be read" not in text, text
    assert message in text, text


@pytest.fixture
def good(tmp_path):
    """A Keras file that loads."""
    path = write_keras_h5(tmp_path / "w.h5", random_backbone(SMALL16))
    weights_convert.load(str(path), SMALL16, say=[].append)
    return path


KERNEL = "block2_conv1/block2_conv1/kernel:0"


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret.bin"
    path.write_bytes(SECRET)
    return path


class TestHdf5:
    def replace(self, path, **options):
        with h5py.File(path, "r+") as file:
            del file[KERNEL]
            file.create_dataset(KERNEL, **options)

    @pytest.mark.parametrize("size", [0, 2**64 - 16], ids=["no size", "a size that wraps round"])
    @pytest.mark.parametrize("kind", ["h5", "keras"])
    def test_a_heap_without_an_end(self, tmp_path, kind, size):
        """Keras 3's names lie in a heap whose objects tell where the next one starts; HDF5 2.0 would read for ever."""
        write_keras3(tmp_path / "w.h5", random_backbone(SMALL16))
        data = bytearray((tmp_path / "w.h5").read_bytes())
        heap = data.find(b"GCOL")
        first = heap + 16 + 16 + (int.from_bytes(data[heap + 24 : heap + 32], "little") + 7) // 8 * 8
        data[first : first + 2] = (1 if size else 0).to_bytes(2, "little")
        data[first + 8 : first + 16] = size.to_bytes(8, "little")
        path = tmp_path / f"bad.{kind}"
        if kind == "keras":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("model.weights.h5", bytes(data))
        else:
            path.write_bytes(data)
        refused(path, "damaged heap of texts")

    @pytest.mark.parametrize("damage", ["undefined", "twice"])
    def test_chunks_that_do_not_cover_their_tensor(self, good, damage):
        """An index of chunks that names no address, or one place twice: what it leaves out would be stale memory."""
        data = np.random.default_rng(0).normal(size=(3, 3, 4, 4)).astype("f4")
        self.replace(good, data=data, chunks=(3, 3, 2, 4))
        with h5py.File(good) as file:
            info = file[KERNEL].id.get_chunk_info(1)
        raw = good.read_bytes()
        address = info.byte_offset.to_bytes(8, "little")
        # The key before an address: packed size, filters left out, five offsets (the last of bytes).
        key = b"".join(n.to_bytes(8, "little") for n in (*info.chunk_offset, 0))
        assert raw.count(key + address) == 1
        wrong = key + b"\xff" * 8 if damage == "undefined" else bytes(len(key)) + address
        good.write_bytes(raw.replace(key + address, wrong))
        refused(good)

    def test_names_of_a_type_that_does_not_exist(self, tmp_path):
        """Of variable length, but neither a text nor a sequence: HDF5 2.0 ends the process when it reads one."""
        write_keras3(tmp_path / "w.h5", random_backbone(SMALL16))
        data = (tmp_path / "w.h5").read_bytes()
        kind = b"name\0\0\0\0\x19\x01"
        assert data.count(kind) == 13
        (tmp_path / "w.h5").write_bytes(data.replace(kind, kind[:-1] + b"\x05", 1))
        refused(tmp_path / "w.h5")

    def test_external_storage(self, good, secret):
        self.replace(good, shape=(3, 3, 4, 4), dtype="f4", external=[(str(secret), 0, 576)])
        refused(good, "external storage")

    def test_virtual_data(self, good, tmp_path):
        with h5py.File(tmp_path / "other.h5", "w") as other:
            other["d"] = np.ones((3, 3, 4, 4), "f4")
        layout = h5py.VirtualLayout((3, 3, 4, 4), "f4")
        layout[...] = h5py.VirtualSource(tmp_path / "other.h5", "d", (3, 3, 4, 4))
        with h5py.File(good, "r+") as file:
            del file[KERNEL]
            file.create_virtual_dataset(KERNEL, layout)
        refused(good, "virtual data set")

    @pytest.mark.parametrize("where", [KERNEL, "unused"])
    @pytest.mark.parametrize(
        "link", [h5py.ExternalLink("other.h5", "/d"), h5py.SoftLink("/block2_conv2"), h5py.SoftLink("/unused")]
    )
    def test_links(self, good, where, link):
        with h5py.File(good, "r+") as file:
            if where in file:
                del file[where]
            file[where] = link
        refused(good, "which is not followed")

    def test_a_ring_of_groups(self, good):
        with h5py.File(good, "r+") as file:
            file["block1_conv1/again"] = file["/block1_conv1"]
        refused(good, "second link to the same object")

    def test_very_many_groups(self, good):
        with h5py.File(good, "r+") as file:
            for i in range(20_001):
                file.create_group(f"g{i}")
        refused(good, "more than 20,000 objects", seconds=20)

    def test_deep_groups(self, good):
        with h5py.File(good, "r+") as file:
            file.create_group("/".join("g" * 60))
        refused(good, "nested")

    @pytest.mark.parametrize("size", [2**50, 2**30])
    def test_claims_without_data(self, good, size):
        self.replace(good, shape=(3, 3, 4, size), dtype="f4", chunks=(3, 3, 4, 64), compression="gzip")
        refused(good, "larger than any tensor of VGG")

    def test_right_size_but_never_written(self, good):
        # The library would return zeros for it without a word.
        self.replace(good, shape=(3, 3, 4, 4), dtype="f4", chunks=(3, 3, 4, 4))
        refused(good, "0 of 1 chunks: never written")

    def test_contiguous_but_never_written(self, good):
        self.replace(good, shape=(3, 3, 4, 4), dtype="f4")
        refused(good, "never written")

    def test_a_chunk_that_unpacks_to_a_gigabyte(self, good):
        import zlib

        self.replace(good, shape=(3, 3, 4, 4), dtype="f4", chunks=(3, 3, 4, 4), compression="gzip")
        bomb = zlib.compress(bytes(20_000_000), 9)  # 19 kB, so a header check of the packed size must catch it
        with h5py.File(good, "r+") as file:
            file[KERNEL].id.write_direct_chunk((0, 0, 0, 0), bomb)
        refused(good, "packed chunk of")
        small = zlib.compress(bytes(600_000), 9)  # 600 bytes, for a chunk of 576
        with h5py.File(good, "r+") as file:
            file[KERNEL].id.write_direct_chunk((0, 0, 0, 0), small)
        refused(good, "unpacks to 577 of 576 bytes")

    def test_chunks_larger_than_the_data(self, good):
        options = {"maxshape": (None,) * 4, "chunks": (300, 300, 40, 40), "compression": "gzip"}
        self.replace(good, data=np.ones((3, 3, 4, 4), "f4"), **options)
        refused(good, "has chunks of")

    def test_a_filter_that_is_not_known(self, good):
        options = {"compression": 32015, "allow_unknown_filter": True}
        self.replace(good, shape=(3, 3, 4, 4), dtype="f4", chunks=(3, 3, 4, 4), **options)
        refused(good, "HDF5 filter")

    @pytest.mark.parametrize(
        "data",
        [
            np.array(["a"] * 4, dtype=h5py.string_dtype()),
            np.zeros(4, [("a", "f4"), ("b", "f4")]),
            np.zeros(4, h5py.enum_dtype({"A": 0})),
            np.zeros(4, "b1"),
            h5py.Empty("f4"),
            np.float32(1),
        ],
        ids=["string", "compound", "enum", "bool", "empty", "scalar"],
    )
    def test_other_types(self, good, data):
        name = "block2_conv1/block2_conv1/bias:0"
        with h5py.File(good, "r+") as file:
            del file[name]
            file.create_dataset(name, data=data)
        refused(good, "block2_conv1/bias:0")

    @pytest.mark.parametrize(
        "name", ["/etc/passwd", "../block1_conv1", "a//b", ".", "\x1b[31mred", "x" * 5000, "no such"]
    )
    def test_names_that_lead_elsewhere(self, good, name):
        with h5py.File(good, "r+") as file:
            names = [*file.attrs["layer_names"], name.encode()]
            del file.attrs["layer_names"]
            file.attrs["layer_names"] = np.array(names, dtype=h5py.string_dtype())
        refused(good)

    @pytest.mark.parametrize("value", [3, np.zeros((2, 2)), h5py.Empty("f4"), "block1_conv1", np.zeros(9)])
    def test_lists_of_names_that_are_none(self, good, value):
        with h5py.File(good, "r+") as file:
            file.attrs["layer_names"] = value
        refused(good)

    @pytest.mark.parametrize("value", ["{", "[" * 100_000, "x" * 17_000_000])
    def test_architecture_that_is_no_json(self, good, value):
        with h5py.File(good, "r+", libver="latest") as file:
            file.attrs["model_config"] = value
        refused(good, "model_config")

    def test_a_name_listed_twice(self, good):
        with h5py.File(good, "r+") as file:
            names = list(file.attrs["layer_names"])
            file.attrs["layer_names"] = np.array([*names, names[1]])
        refused(good, "lists a name twice")


class TestOnnx:
    @pytest.fixture
    def model(self):
        return vgg_graph(SMALL16, random_backbone(SMALL16))

    def bias(self, model):
        return next(t for t in model.graph.initializer if t.name.endswith("block2_conv1_1/Squeeze:0"))

    def external(self, model, **facts):
        tensor = self.bias(model)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in facts.items():
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(value)

    def save(self, model, path):
        path.write_bytes(model.SerializeToString())  # onnx's own save would refuse some of these
        return path

    @pytest.mark.parametrize(
        "location", ["../secret.bin", "/etc/passwd", "a/../../secret.bin", "..", ".", "", "C:secret", "a\\b", "x\0y"]
    )
    def test_paths_out_of_the_folder(self, model, tmp_path, secret, location):
        (tmp_path / "m").mkdir()
        self.external(model, location=location, offset=0, length=16)
        refused(self.save(model, tmp_path / "m" / "m.onnx"), "Expected the name of a file beside the model")

    @pytest.mark.parametrize("kind", ["symlink", "hard link", "folder", "pipe", "nothing"])
    def test_files_that_are_no_plain_files(self, model, tmp_path, secret, kind):
        folder = tmp_path / "m"
        folder.mkdir()
        target = folder / "data.bin"
        if kind == "symlink":
            target.symlink_to(secret)
        elif kind == "hard link":
            target.hardlink_to(secret)
        elif kind == "folder":
            target.mkdir()
        elif kind == "pipe":
            os.mkfifo(target)
        self.external(model, location="data.bin", offset=0, length=16)
        refused(self.save(model, folder / "m.onnx"), "data.bin")

    @pytest.mark.parametrize(
        "facts",
        [
            {"offset": -4, "length": 16},
            {"offset": 10**11, "length": 16},
            {"length": 10**11},
            {"length": 10**40},
            {"offset": "0x10"},
            {"length": 8},
            {"pickle": 1},
        ],
        ids=str,
    )
    def test_claims_beyond_the_file(self, model, tmp_path, facts):
        (tmp_path / "data.bin").write_bytes(bytes(64))
        self.external(model, location="data.bin", **facts)
        refused(self.save(model, tmp_path / "m.onnx"))

    @pytest.mark.parametrize("dims", [[-1], [2**40], [2**62, 2**62], [5], [], [4] * 9], ids=str)
    def test_shapes_that_lie(self, model, tmp_path, dims):
        del self.bias(model).dims[:]
        self.bias(model).dims.extend(dims)
        refused(self.save(model, tmp_path / "m.onnx"))

    def test_no_data(self, model, tmp_path):
        self.bias(model).ClearField("raw_data")
        refused(self.save(model, tmp_path / "m.onnx"), "has 0 bytes")

    def test_strings(self, model, tmp_path):
        self.bias(model).data_type = TensorProto.STRING
        refused(self.save(model, tmp_path / "m.onnx"), "Expected floating point")

    def test_twice(self, model, tmp_path):
        model.graph.initializer.append(self.bias(model))
        refused(self.save(model, tmp_path / "m.onnx"), "is there twice")

    def test_very_many(self, model, tmp_path):
        for i in range(20_001):
            model.graph.initializer.add().name = str(i)
        refused(self.save(model, tmp_path / "m.onnx"), "tensors; a VGG has under 200")

    def test_sparse(self, model, tmp_path):
        model.graph.sparse_initializer.add().values.name = "s"
        refused(self.save(model, tmp_path / "m.onnx"), "sparse")

    def test_a_ring(self, model, tmp_path):
        relu = next(node for node in model.graph.node if node.op_type == "Relu")
        relu.output[0] = relu.input[0]
        refused(self.save(model, tmp_path / "m.onnx"))

    def test_names_that_are_no_text(self, model, tmp_path):
        """The library gives such a name as bytes."""
        self.external(model, location="data.bin", offset=0, length=16)
        data = self.save(model, tmp_path / "m.onnx").read_bytes()
        (tmp_path / "m.onnx").write_bytes(data.replace(b"data.bin", b"\xffata.bin"))
        refused(tmp_path / "m.onnx", "Expected the name of a file beside the model")
        data = self.save(vgg_graph(SMALL16, random_backbone(SMALL16)), tmp_path / "m.onnx").read_bytes()
        (tmp_path / "m.onnx").write_bytes(data.replace(b"tf2onnx", b"\xfff2onnx"))
        assert weights_convert.load(str(tmp_path / "m.onnx"), SMALL16, say=[].append).backbone

    def test_empty_model(self, tmp_path):
        refused(self.save(onnx.ModelProto(ir_version=8), tmp_path / "m.onnx"))


class Evil:
    """Pickles to a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


PICKLES = {
    "os.system": pickle.dumps(Evil(os.system, "touch pwned"), 2),
    "eval": pickle.dumps(Evil(eval, "1"), 2),
    "getattr": pickle.dumps(Evil(getattr, 1, "real"), 2),
    "numpy.f2py": b"\x80\x02cnumpy.f2py.crackfortran\nmyeval\nX\x01\0\0\x001\x85R.",
    "inside torch": b"\x80\x02ctorch.serialization\nload\nX\x01\0\0\0x\x85R.",
    "attribute of a dict": b"\x80\x02}X\x05\0\0\0itemsX\x01\0\0\0xs}b.",
    "new object": b"\x80\x02ccollections\nOrderedDict\n)\x81.",
    "new object of a class of its own": b"\x80\x02cos\nsystem\n)\x81.",
    "script with arguments": b"\x80\x02c__torch__\nV\nK\x01\x85\x81.",
    "script that is called": b"\x80\x02c__torch__\nV\n)R.",
    "script that holds itself": b"\x80\x02c__torch__\nV\n)\x81q\0}X\x01\0\0\0xh\0sb.",
    "script whose state is none": b"\x80\x02c__torch__\nV\n)\x81K\x01b.",
    "script whose state is a list": b"\x80\x02c__torch__\nV\n)\x81]K\x01ab.",
    "scripts in scripts": b"\x80\x02" + b"c__torch__\nV\n)\x81}X\x01\0\0\0x" * 20_000 + b"N" + b"sb" * 20_000 + b".",
    "each script twice": b"\x80\x02Nq\0" + b"c__torch__\nV\n)\x81}(X\x01\0\0\0xh\0X\x01\0\0\0yh\0ubq\0" * 10_000 + b".",
    "instance": b"(ios\nsystem\n.",
    "extension": b"\x80\x02\x82\x01.",
    "call of a value": b"\x80\x02K\x01)R.",
    "build on a name": b"\x80\x02ccollections\nOrderedDict\n}b.",
    "huge memo index": b"\x80\x02Nr\xff\xff\xff\xff0N.",
    "four gigabytes": b"\x80\x02B\xff\xff\xff\xff.",
    "eight exabytes": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "negative": b"\x80\x02T\xff\xff\xff\xff.",
    "endless number": b"\x80\x02\x8a\xff" + b"\xff" * 255 + b".",
    "nothing on the stack": b"\x80\x020.",
    "no mark": b"\x80\x02t.",
    "no end": b"\x80\x02N",
    "empty": b"",
    "deep nest": b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
    "unhashable key": b"\x80\x02}]N s.".replace(b" ", b""),
    "itself": b"\x80\x02]q\0h\0a.",
    "two million steps": b"\x80\x02" + b"N0" * 1_000_001 + b"N.",
}


class TestPickles:
    @pytest.mark.parametrize("attack", PICKLES)
    def test_in_a_torch_archive(self, tmp_path, monkeypatch, attack):
        monkeypatch.chdir(tmp_path)
        with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
            archive.writestr("archive/data.pkl", PICKLES[attack])
        refused(tmp_path / "w.pth", seconds=5)
        assert not (tmp_path / "pwned").exists()

    @pytest.mark.parametrize("attack", PICKLES)
    def test_in_an_npy(self, tmp_path, monkeypatch, attack):
        monkeypatch.chdir(tmp_path)
        file = io.BytesIO()
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        (tmp_path / "w.npy").write_bytes(file.getvalue() + PICKLES[attack])
        refused(tmp_path / "w.npy", seconds=5)
        assert not (tmp_path / "pwned").exists()

    def test_bare(self, tmp_path):
        (tmp_path / "w.pth").write_bytes(PICKLES["os.system"])
        refused(tmp_path / "w.pth", "bare pickle")

    def test_the_refused_name_is_told(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
            archive.writestr("archive/data.pkl", PICKLES["numpy.f2py"])
        refused(tmp_path / "w.pth", "numpy.f2py.crackfortran.myeval, which is never loaded")


class TestTorch:
    @pytest.fixture
    def state(self):
        return torch_state(SMALL16, random_backbone(SMALL16))

    def test_shape_beyond_the_storage(self, tmp_path, state):
        data, storages = torch_pickle(state)
        large = data.replace(b"(J\x04\0\0\0t", b"(J\x05\0\0\0t", 1)
        assert large != data
        with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
            archive.writestr("archive/data.pkl", large)
            for i, storage in enumerate(storages):
                archive.writestr(f"archive/data/{i}", storage)
        refused(tmp_path / "w.pth", "reaches beyond its storage")

    def test_short_storage(self, tmp_path, state):
        data, storages = torch_pickle(state)
        with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
            archive.writestr("archive/data.pkl", data)
            for i, storage in enumerate(storages):
                archive.writestr(f"archive/data/{i}", storage[:-4])
        refused(tmp_path / "w.pth", "lacks the")

    def test_storage_outside_the_archive(self, tmp_path, state):
        data, _ = torch_pickle(state)
        with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
            archive.writestr("archive/data.pkl", data.replace(b"X\x01\0\0\x000", b"X\x01\0\0\0."))
        refused(tmp_path / "w.pth", "lacks the")

    def test_big_endian(self, tmp_path, state):
        path = write_torch_zip(tmp_path / "w.pth", state)
        changed = path.read_bytes().replace(b"little", b"bigbig")
        with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
            archive.writestr("archive/data.pkl", zipfile.ZipFile(path).read("archive/data.pkl"))
            archive.writestr("archive/byteorder", "big")
        refused(tmp_path / "x.pth", "big-endian")
        assert changed

    def test_packed_storage(self, tmp_path, state):
        data, storages = torch_pickle(state)
        with zipfile.ZipFile(tmp_path / "w.pth", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", data)
            for i, storage in enumerate(storages):
                archive.writestr(f"archive/data/{i}", storage)
        refused(tmp_path / "w.pth", "is compressed")


class TestZip:
    def archive(self, path, members, **options):
        with zipfile.ZipFile(path, "w", **options) as archive:
            for name, data in members:
                archive.writestr(name, data)
        return path

    def test_bomb_in_a_keras_archive(self, tmp_path):
        members = [("model.weights.h5", bytes(1 << 28)), ("config.json", "{}")]
        path = self.archive(tmp_path / "m.keras", members, compression=zipfile.ZIP_DEFLATED)
        assert path.stat().st_size < 300_000
        refused(path, "unpacks to")

    def test_large_configuration(self, tmp_path, good):
        members = [("model.weights.h5", good.read_bytes()), ("config.json", os.urandom(17_000_000))]
        refused(self.archive(tmp_path / "m.keras", members, compression=zipfile.ZIP_DEFLATED), "config.json claims")

    def test_twice(self, tmp_path, good):
        with pytest.warns(UserWarning, match="Duplicate name"):
            members = [("model.weights.h5", good.read_bytes())] * 2
            path = self.archive(tmp_path / "m.keras", members)
        refused(path, "holds model.weights.h5 twice")

    def test_very_many(self, tmp_path):
        members = [(f"{i}.npy", b"") for i in range(20_001)]
        refused(self.archive(tmp_path / "m.npz", members), "archive of 20,001 files", seconds=10)

    @pytest.mark.parametrize("name", ["../w.npy", "/tmp/w.npy"])
    def test_names_that_lead_elsewhere_are_only_names(self, tmp_path, name):
        file = io.BytesIO()
        np.save(file, np.ones(3))
        before = sorted(p.name for p in tmp_path.iterdir())
        refused(self.archive(tmp_path / "m.npz", [(name, file.getvalue())]), "is no VGG")
        assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*before, "m.npz"])

    def test_size_that_lies(self, tmp_path, good):
        path = self.archive(tmp_path / "m.keras", [("model.weights.h5", good.read_bytes())])
        data = bytearray(path.read_bytes())
        place = data.rindex(b"PK\x01\x02") + 24
        data[place : place + 4] = struct.pack("<I", 3_900_000_000)
        path.write_bytes(data)
        refused(path)

    def test_unknown_contents(self, tmp_path):
        refused(self.archive(tmp_path / "m.zip", [("readme.txt", "hello")]), "archive of an unknown kind (readme.txt)")


NPY_HEADERS = {
    "negative": "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }",
    "huge": "{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904,), }",
    "large": "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000,), }",
    "bool": "{'descr': '<f4', 'fortran_order': False, 'shape': (2, True), }",
    "objects": "{'descr': '|O', 'fortran_order': False, 'shape': (2,), }",
    "code": "{'descr': '<f4', 'fortran_order': False, 'shape': (__import__('os').getpid(),), }",
    "no shape": "{'descr': '<f4', 'fortran_order': False}",
    "strings": "{'descr': '<U999999999', 'fortran_order': False, 'shape': (9,), }",
}


@pytest.mark.parametrize("header", NPY_HEADERS)
def test_npy_headers(tmp_path, header):
    text = NPY_HEADERS[header].encode().ljust(118) + b"\n"
    data = b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text + bytes(16)
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        archive.writestr("conv1_1_W.npy", data)
    refused(tmp_path / "w.npz")
    (tmp_path / "w.npy").write_bytes(data)
    refused(tmp_path / "w.npy")


HEADER_CHANGES = {
    "hole": lambda h: h["features.0.bias"].update(data_offsets=[10**6, 10**6 + 16]),
    "overlap": lambda h: h["features.0.bias"].update(data_offsets=h["features.2.bias"]["data_offsets"]),
    "backwards": lambda h: h["features.0.bias"].update(data_offsets=[16, 0]),
    "negative": lambda h: h["features.0.bias"].update(data_offsets=[-16, 0]),
    "floats": lambda h: h["features.0.bias"].update(data_offsets=[0.0, 16.0]),
    "overflow": lambda h: h["features.0.bias"].update(shape=[2**40, 2**40]),
    "dtype": lambda h: h["features.0.bias"].update(dtype="F99"),
    "no entry": lambda h: h.update({"features.0.bias": 3}),
    "shape of text": lambda h: h["features.0.bias"].update(shape="4"),
    "offsets of three": lambda h: h["features.0.bias"].update(data_offsets=[0, 8, 16]),
    "list": lambda h: b"[" + json.dumps(h).encode() + b"]",
    "not utf-8": lambda h: b'{"\xff": 1}',
    "deep": lambda h: b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "twice": lambda h: json.dumps(h).encode()[:-1] + b', "features.0.bias": {}}',
    "twice, both whole": lambda h: (
        json.dumps(h)[:-1] + f', "features.0.bias": {json.dumps(h["features.0.bias"])}}}'
    ).encode(),
    "spaces": lambda h: b" " + json.dumps(h).encode(),
}


class TestSafetensors:
    @pytest.fixture
    def data(self):
        return safetensors.numpy.save(torch_state(SMALL16, random_backbone(SMALL16)))

    def edit(self, data, change):
        """The file with its header changed."""
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        result = change(header) or header
        text = result if isinstance(result, bytes) else json.dumps(result).encode()
        return struct.pack("<Q", len(text)) + text + data[8 + length :]

    @pytest.mark.parametrize("change", HEADER_CHANGES)
    def test_headers(self, tmp_path, data, change):
        (tmp_path / "w.safetensors").write_bytes(self.edit(data, HEADER_CHANGES[change]))
        refused(tmp_path / "w.safetensors")

    @pytest.mark.parametrize("length", [1000, 2**63, 2**64 - 1, 0])
    def test_lengths(self, tmp_path, length):
        (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", length) + b'{"a": 1}')
        refused(tmp_path / "w.safetensors")

    def test_bytes_behind_the_tensors(self, tmp_path, data):
        (tmp_path / "w.safetensors").write_bytes(data + b"more")
        refused(tmp_path / "w.safetensors", "damaged safetensors file")


@pytest.mark.skipif(os.name != "posix", reason="pipes and devices")
def test_things_that_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.h5")
    refused(tmp_path / "pipe.h5", "not a regular file")
    (tmp_path / "link.h5").symlink_to("/dev/zero")
    refused(tmp_path / "link.h5", "not a regular file")
