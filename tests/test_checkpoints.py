import hashlib
import io
import json
import os
import pickle
import struct

import pytest
import torch
from safetensors.torch import save, save_file
from torch import nn

from engine.checkpoints import file_sha256, load_weights, read_card, read_tensors
from engine.errors import InputError

TENSORS = {"weight": torch.arange(6.0).view(2, 3), "bias": torch.tensor([1.0, -1.0])}


class Canary:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def torch_saved(thing, *, zipped):
    buffer = io.BytesIO()
    torch.save(thing, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


CONTAINERS = {
    "torch.save": lambda thing: torch_saved(thing, zipped=True),
    "legacy torch.save": lambda thing: torch_saved(thing, zipped=False),
    **{
        f"pickle protocol {protocol}": lambda thing, protocol=protocol: pickle.dumps(
            thing, protocol=protocol
        )
        for protocol in range(6)
    },
}


@pytest.fixture
def path(tmp_path):
    save_file(TENSORS, tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


def test_safetensors_are_read(path):
    tensors = read_tensors(path)

    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in TENSORS.items())


def test_the_canary_sings_when_it_is_unpickled(tmp_path):
    pickle.loads(pickle.dumps(Canary(tmp_path / "sung")))

    assert (tmp_path / "sung").exists()


@pytest.mark.parametrize("container", CONTAINERS)
def test_pickles_are_refused_by_content_and_never_run(container, tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(CONTAINERS[container]({"weight": Canary(tmp_path / "sung")}))

    with pytest.raises(InputError, match="Expected safetensors, got"):
        read_tensors(path)

    assert not (tmp_path / "sung").exists()


@pytest.mark.parametrize("container", ["torch.save", "legacy torch.save", "pickle protocol 4"])
def test_pickles_are_named_with_the_reason(container, tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(CONTAINERS[container]({"weight": 1}))

    with pytest.raises(InputError, match=r"pickle.*can run code of its author"):
        read_tensors(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\x93NUMPY\x01\x00rest of an array",
        b"\x89HDF\r\n\x1a\nrest",
        b"<html>not found</html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        struct.pack("<Q", 0) + b"{}",
        struct.pack("<Q", 2**40) + b'{"weight": {}}',
        struct.pack("<Q", 2**63 + 5) + b'{"weight": {}}',
        struct.pack("<Q", 40) + b'{"weight": {}}',
        struct.pack("<Q", 14) + b'["weight", {}]',
        struct.pack("<Q", 14) + b'{"weight": [}]',
        struct.pack("<Q", 14) + b'{"weight": {}}',
        struct.pack("<Q", 14) + b"{" + b"\xff" * 13,
    ],
)
def test_other_contents_are_refused(content, tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)

    with pytest.raises(InputError):
        read_tensors(path)


def test_a_header_of_many_megabytes_is_refused_unread(tmp_path):
    path = tmp_path / "weights.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 11 * 1024**2) + b"{")
        file.truncate(12 * 1024**2)

    with pytest.raises(InputError, match="another format"):
        read_tensors(path)


def test_a_file_cut_short_anywhere_is_refused(path):
    content = path.read_bytes()
    cut = path.with_name("cut.safetensors")

    for length in range(len(content)):
        cut.write_bytes(content[:length])
        with pytest.raises(InputError):
            read_tensors(cut)


def test_a_damaged_header_is_refused_or_harmless(path):
    content = save(TENSORS)
    damaged = path.with_name("damaged.safetensors")

    for position in range(8 + struct.unpack("<Q", content[:8])[0]):
        changed = bytearray(content)
        changed[position] ^= 0x15
        damaged.write_bytes(changed)
        try:
            read_tensors(damaged)
        except InputError:
            continue


@pytest.mark.parametrize("dtype", ["F4", "F6_E2M3", "F8_E8M0", "X32"])
def test_unusual_types_of_entries_are_refused_or_read(dtype, tmp_path):
    path = tmp_path / "weights.safetensors"
    header = json.dumps({"w": {"dtype": dtype, "shape": [4], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))

    try:
        assert set(read_tensors(path)) == {"w"}
    except InputError:
        return


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"Expected a safetensors file at .* found none"):
        read_tensors(tmp_path / "none.safetensors")


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="found none"):
        read_tensors(tmp_path)


def test_the_expected_hash_is_taken_in_either_case(path):
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()

    assert file_sha256(path) == sha256
    assert read_tensors(path, sha256=sha256).keys() == TENSORS.keys()
    assert read_tensors(path, sha256=sha256.upper()).keys() == TENSORS.keys()


def test_another_hash_is_refused(path):
    with pytest.raises(InputError, match=r"with sha256 0000.*, got [0-9a-f]{64}"):
        read_tensors(path, sha256="0" * 64)


@pytest.fixture
def layer():
    return nn.Linear(3, 2)


def test_weights_are_copied_by_name(layer):
    load_weights(layer, TENSORS, source="here")

    assert torch.equal(layer.weight, TENSORS["weight"])
    assert torch.equal(layer.bias, TENSORS["bias"])


@pytest.mark.parametrize(
    ("tensors", "problem"),
    [
        ({"weight": TENSORS["weight"]}, "missing bias"),
        ({**TENSORS, "scale": torch.ones(1)}, "unexpected scale"),
        ({**TENSORS, "bias": torch.ones(3)}, r"bias is \(3,\), expected \(2,\)"),
        ({**TENSORS, "weight": torch.ones(3, 2)}, r"weight is \(3, 2\), expected \(2, 3\)"),
    ],
)
def test_other_weights_are_refused_and_nothing_is_copied(tensors, problem, layer):
    before = layer.weight.detach().clone()

    with pytest.raises(InputError, match=f"Expected weights of Linear, but here .*{problem}"):
        load_weights(layer, tensors, source="here")

    assert torch.equal(layer.weight, before)


def test_only_the_first_problems_are_listed(layer):
    many = {f"extra{index}": torch.ones(1) for index in range(9)}

    with pytest.raises(InputError, match=r"extra4; \.\.\.\.$"):
        load_weights(layer, {**TENSORS, **many}, source="here")


def test_a_card_is_read(tmp_path):
    (tmp_path / "card.json").write_text('{"classes": 10}')

    assert read_card(tmp_path / "card.json") == {"classes": 10}


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"3", b"\xff\xfe", b"[" * 100_000])
def test_cards_that_are_no_object_are_refused(content, tmp_path):
    (tmp_path / "card.json").write_bytes(content)

    with pytest.raises(InputError):
        read_card(tmp_path / "card.json")


def test_a_missing_card_is_refused(tmp_path):
    with pytest.raises(InputError, match="Expected a card"):
        read_card(tmp_path / "card.json")
