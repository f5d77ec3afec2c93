"""The container: read by Google's protobuf from its description, and by our own reader."""

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from cgrefine.errors import InputError
from cgrefine.export.ptb import Container, decode, encode

CONTAINER = Container("module { }  // Å, 中\n" * 20, 10.0, (2, 4))
FIELD = descriptor_pb2.FieldDescriptorProto


@pytest.fixture(scope="module")
def model():
    """Class of the message, from the fields that chemtrain-deploy states (proto2)."""
    file = descriptor_pb2.FileDescriptorProto(name="model.proto", package="chemsim", syntax="proto2")
    message = file.message_type.add(name="Model")
    kinds = message.enum_type.add(name="NeighborListType")
    for name, number in (("SIMPLE_SPARSE", 0), ("SIMPLE_DENSE", 2), ("DEVICE_SPARSE", 1)):
        kinds.value.add(name=name, number=number)
    neighbors = message.nested_type.add(name="NeighborList")

    def field(owner, name, number, kind, label=FIELD.LABEL_REQUIRED, of=None):
        owner.field.add(name=name, number=number, type=kind, label=label, type_name=of)

    field(neighbors, "type", 1, FIELD.TYPE_ENUM, of=".chemsim.Model.NeighborListType")
    field(neighbors, "cutoff", 2, FIELD.TYPE_FLOAT)
    field(neighbors, "nbr_order", 3, FIELD.TYPE_INT32, FIELD.LABEL_REPEATED)
    field(neighbors, "half_list", 4, FIELD.TYPE_BOOL, FIELD.LABEL_OPTIONAL)
    field(message, "mlir_module", 1, FIELD.TYPE_STRING)
    field(message, "neighbor_list", 4, FIELD.TYPE_MESSAGE, of=".chemsim.Model.NeighborList")
    field(message, "unit_style", 5, FIELD.TYPE_STRING, FIELD.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("chemsim.Model"))


def test_protobuf_reads_every_field_and_writes_the_same_bytes(model):
    data = encode(CONTAINER)
    read = model.FromString(data)
    assert read.mlir_module == CONTAINER.text
    assert read.unit_style == "real"
    assert read.neighbor_list.type == 0
    assert read.neighbor_list.cutoff == 10.0
    assert list(read.neighbor_list.nbr_order) == [2, 4]
    assert read.neighbor_list.half_list is True
    assert read.SerializeToString(deterministic=True) == data


@pytest.mark.parametrize("half", [True, False])
def test_our_reader_reads_what_protobuf_wrote(model, half):
    message = model(mlir_module="text" * 100, unit_style="metal")
    message.neighbor_list.type = 0
    message.neighbor_list.cutoff = 7.25
    message.neighbor_list.nbr_order.extend([1, 200])
    message.neighbor_list.half_list = half
    read = decode(message.SerializeToString())
    assert read == Container("text" * 100, 7.25, (1, 200), half, "metal")
    assert decode(encode(read)) == read


def spoiled(old: bytes, new: bytes) -> bytes:
    data = encode(CONTAINER)
    assert data.count(old) == 1
    return data.replace(old, new)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        encode(CONTAINER)[:-3],
        encode(CONTAINER)[:100],
        encode(CONTAINER) + b"\x2a\x04real",
        spoiled(b"\x18\x02\x18\x04", b"\x18\x02\x28\x04"),
        encode(CONTAINER).replace("Å".encode(), b"\xff\xfe"),
        b"\xff" * 12,
    ],
    ids=["empty", "cut", "cut in the text", "unit twice", "one order", "no UTF-8", "no end"],
)
def test_other_bytes_are_refused(data):
    with pytest.raises(InputError, match=r"not a \.ptb container"):
        decode(data)


def test_another_kind_of_list_is_refused():
    with pytest.raises(InputError, match="neighbour list of type 1"):
        decode(spoiled(b"\x08\x00\x15", b"\x08\x01\x15"))
