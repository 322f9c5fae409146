"""What is published may mean no good: it is refused by name and reason before anything runs it."""

import json
import os
import subprocess
import sys
import time
from contextlib import suppress

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from forecasting.bundle import Bundle, read_bundle
from forecasting.errors import IntegrityError
from forecasting.forecaster import Forecaster
from forecasting.onnx_checks import RunBounds, check_network
from forecasting.onnx_file import Unreadable, read_graph
from forecasting.prompts import PromptSpec
from forecasting.tokenizer_checks import open_tokenizer
from tests.hostile_bundles import SENTENCES, TOKENIZER, TOKENIZERS, sign, spoil_network

SERVED = RunBounds(64, 1 << 21, 1 << 34)  # as the service has them


@pytest.fixture(scope="module")
def sound(tmp_path_factory, make_bundle) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("sound") / "bundle")


@pytest.fixture
def bundle(tmp_path, make_bundle) -> Bundle:
    return make_bundle(tmp_path / "bundle")


@pytest.fixture
def never_run(monkeypatch):
    """ONNX Runtime, which must not see what is refused."""

    def see(*_: object, **__: object) -> None:
        pytest.fail("ONNX Runtime was given hostile bytes")

    monkeypatch.setattr("forecasting.forecaster.ort.InferenceSession", see)


@pytest.mark.parametrize("what", SENTENCES)
def test_a_hostile_network_is_refused_with_its_reason_before_it_is_run(bundle, never_run, what):
    spoil_network(bundle.folder, what)
    digest = sign(bundle.folder)
    began = time.process_time()
    with pytest.raises(IntegrityError, match=f"bundle/model.onnx is refused: .*({SENTENCES[what]}).*; export"):
        Forecaster.open(read_bundle(bundle.folder, digest), bounds=SERVED)
    assert time.process_time() - began < 3


def test_a_sound_network_is_not_refused(bundle):
    Forecaster.open(read_bundle(bundle.folder), bounds=SERVED).predict(np.full((2, 36), 120.0), np.full(2, 480.0))


def test_what_is_read_of_a_network_is_what_is_in_it(bundle):
    content = bundle.read("model.onnx")
    graph, expected = read_graph(content), onnx.load_from_string(content).graph
    assert [(n.op, n.inputs, n.outputs) for n in graph.nodes] == [
        (n.op_type, tuple(n.input), tuple(n.output)) for n in expected.node
    ]
    for constant, tensor in zip(graph.constants, expected.initializer, strict=True):
        assert constant.name == tensor.name
        assert np.array_equal(constant.values, numpy_helper.to_array(tensor))


@given(place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255), cut=st.booleans())
def test_no_changed_byte_brings_anything_but_a_refusal_or_a_network(sound, place, byte, cut):
    content = bytearray(sound.read("model.onnx"))
    at = int(place * len(content))
    content[at] = byte
    with suppress(IntegrityError):
        check_network(bytes(content[: at + 1] if cut else content), sound.spec, SERVED)


@given(st.binary(max_size=200))
def test_no_bytes_bring_anything_but_a_refusal(content):
    with pytest.raises(Unreadable):
        read_graph(content)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 7), st.binary(max_size=20)), max_size=8))
def test_no_fields_bring_anything_but_a_refusal(parts):
    content = b"".join(bytes([number << 3 & 127 | wire]) + bytes([len(value)]) + value for number, wire, value in parts)
    with pytest.raises(Unreadable):
        read_graph(content)


@pytest.mark.parametrize("what", TOKENIZERS)
def test_a_hostile_tokenizer_is_refused_with_its_reason(what):
    content, sentence = TOKENIZERS[what]
    with pytest.raises(IntegrityError, match=f"tokenizer.json .*{sentence}"):
        open_tokenizer(content)


def test_a_sound_tokenizer_is_opened_and_a_hostile_one_named_with_its_bundle(tmp_path, make_bundle):
    assert open_tokenizer(json.dumps(TOKENIZER).encode()).encode("a b").ids == [0, 0]
    folder = make_bundle(tmp_path / "b", prompt=PromptSpec(kind="statistics", length=8)).folder
    (folder / "tokenizer.json").write_bytes(TOKENIZERS["a row of doublings"][0])
    sign(folder)
    with pytest.raises(IntegrityError, match=r"^b/tokenizer.json replaces texts by longer ones"):
        Forecaster.open(folder)


@pytest.mark.parametrize("name", ["model.json", "metrics.json", "origin.json"])
def test_json_that_would_fill_the_memory_is_refused_before_it_is_parsed(bundle, name):
    (bundle.folder / name).write_bytes(b"[" + b"[]," * 300_000 + b"[]]")
    assert (bundle.folder / name).stat().st_size < 1 << 20  # which a file of each name may have
    sign(bundle.folder)
    with pytest.raises(IntegrityError, match=f"bundle/{name} holds more than 262,144 values"):
        read_bundle(bundle.folder)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"quantiles": [0.5] * 100}, "quantiles: Tuple should have at most 99 items"),
        ({"quantiles": [1.5]}, "quantiles.0: Input should be less than 1"),
        ({"quantiles": [float("nan")]}, "quantiles.0: Input should be less than 1"),
        ({"quantiles": [0.9, 0.5, 0.1]}, ": Value error, quantiles must ascend"),
        ({"quantiles": [0.5, 0.5]}, ": Value error, quantiles must ascend"),
        ({"normalisation": {"scale_mg_dl": float("inf")}}, "normalisation.scale_mg_dl: Input should be less than"),
        ({"backbone": "b" * 600}, "backbone: String should have at most 512 characters"),
        ({"shape": {"context_length": 10**12}}, "shape.context_length: Input should be less than or equal to 2016"),
        ({"prompt": {"kind": "statistics", "length": 10**9}}, "prompt.length: Input should be less than or equal"),
    ],
)
def test_sizes_that_no_model_has_are_refused_in_model_json(bundle, change, sentence):
    path = bundle.folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    sign(bundle.folder)
    with pytest.raises(IntegrityError, match=f"bundle/model.json is not understood: {sentence}"):
        read_bundle(bundle.folder)


def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(bundle):
    (bundle.folder / "origin.json").unlink()
    os.mkfifo(bundle.folder / "origin.json")
    with pytest.raises(IntegrityError, match=r"bundle/origin.json is not a regular file"):
        read_bundle(bundle.folder)


def test_numbers_written_at_length_take_no_more_memory_than_they_may(sound):
    """A gigabyte of one-byte numbers would be eight of Python's: the list is cut off long before."""
    packed = b"\x3a" + varint(4 << 20) + bytes(4 << 20)  # int64_data, within a tensor
    tensor = b"\x08\x01\x10\x07" + packed
    graph = b"\x2a" + varint(len(tensor)) + tensor
    with pytest.raises(Unreadable, match="the tensor int64_data is damaged"):
        read_graph(b"\x3a" + varint(len(graph)) + graph)


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def test_all_hostile_networks_are_refused_within_little_memory(tmp_path, make_bundle):
    """In a process that may not take a gigabyte more: whatever was allocated for them would end it."""
    for k, what in enumerate(SENTENCES):
        folder = make_bundle(tmp_path / str(k)).folder
        spoil_network(folder, what)
    done = subprocess.run([sys.executable, "-c", IN_LITTLE_MEMORY, str(tmp_path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, [str(len(SENTENCES)), "refused"]), done.stderr[-2000:]


IN_LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
from forecasting.bundle import ModelSpec
from forecasting.errors import IntegrityError
from forecasting.onnx_checks import RunBounds, check_network
used = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), used + (1 << 30)))
refused = 0
for path in Path(sys.argv[1]).glob("*/model.onnx"):
    try:
        check_network(path.read_bytes(), ModelSpec(model="m", backbone="b"), RunBounds(64, 1 << 21, 1 << 34))
        print("not refused:", path)
    except IntegrityError:
        refused += 1
print(refused, "refused")
"""
