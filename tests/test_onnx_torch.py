# SPDX-License-Identifier: MIT
"""Models as torch.onnx.export writes them, both exporters: PyTorch's numbers without PyTorch."""

import io
import warnings

import numpy as np
import pytest

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore:.*legacy TorchScript-based ONNX export.*"),
]
pytest.importorskip("onnx")
torch = pytest.importorskip("torch")

from onnx_models import assert_same  # noqa: E402

import fastlstm.onnx as fo  # noqa: E402

I, H = 3, 5
SHAPE = 4, 9, I


class Model(torch.nn.Module):
    """A recurrent layer and a head on a part of what it gives."""

    def __init__(self, kind, part, **options):
        super().__init__()
        self.rnn = getattr(torch.nn, kind)(I, H, **options)
        size = H * (2 if options.get("bidirectional") else 1)
        self.head = torch.nn.Sequential(
            torch.nn.Linear(size, 4), torch.nn.ReLU(), torch.nn.Dropout(0.1), torch.nn.Linear(4, 2)
        )
        self.part = part

    def forward(self, x):
        y, h = self.rnn(x)
        h = h[0] if isinstance(h, tuple) else h
        return self.head(PARTS[self.part](y, h))


PARTS = {
    "last step": lambda y, h: y[:, -1],
    "all steps": lambda y, h: y,
    "mean": lambda y, h: y.mean(1),
    "max": lambda y, h: y.max(1).values,
    "last state": lambda y, h: h[-1],
    "both states": lambda y, h: torch.cat([h[-2], h[-1]], -1),
    "flat": lambda y, h: y.reshape(-1, y.shape[-1]),
    "attention": lambda y, h: (torch.softmax(y.sum(-1), 1)[:, :, None] * torch.tanh(y)).sum(1),
}
MODELS = [
    ("LSTM", "last step", dict()),
    ("LSTM", "all steps", dict(num_layers=2, dropout=0.2)),
    ("LSTM", "last step", dict(num_layers=2, bidirectional=True)),
    ("LSTM", "mean", dict(bias=False)),
    ("LSTM", "max", dict(bidirectional=True)),
    ("LSTM", "last state", dict(num_layers=3)),
    ("LSTM", "both states", dict(bidirectional=True)),
    ("LSTM", "flat", dict()),
    ("LSTM", "attention", dict()),
    ("GRU", "last state", dict(num_layers=2)),
    ("GRU", "both states", dict(bidirectional=True)),
    ("RNN", "all steps", dict(num_layers=2, nonlinearity="relu")),
    ("RNN", "last step", dict(bidirectional=True)),
]


def exported(model, x, dynamo, dynamic):
    """The contents of the file that torch.onnx.export writes."""
    file, options = io.BytesIO(), dict(input_names=["x"], dynamo=dynamo)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters' own
        if dynamo:
            dims = {0: torch.export.Dim("b"), 1: torch.export.Dim("t")}
            shapes = (dims,) if dynamic else None
            torch.onnx.export(model, (x,), dynamic_shapes=shapes, verbose=False, **options).save(
                file
            )
        else:
            axes = {"x": {0: "b", 1: "t"}} if dynamic else None
            torch.onnx.export(model, (x,), file, dynamic_axes=axes, **options)
    return file.getvalue()


@pytest.mark.parametrize("dynamic", [False, True], ids=["fixed", "dynamic"])
@pytest.mark.parametrize("exporter", ["legacy", "dynamo"])
@pytest.mark.parametrize(("kind", "part", "options"), MODELS, ids=lambda v: str(v))
def test_exported_model_gives_the_numbers_of_torch(kind, part, options, exporter, dynamic):
    if exporter == "dynamo":
        pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    model = Model(kind, part, batch_first=True, **options).eval()
    x = torch.randn(SHAPE)
    session = fo.load(exported(model, x, exporter == "dynamo", dynamic))
    (value,) = session.get_inputs()
    # the newer exporter fixes the number of steps, and unrolls torch.nn.RNN over them
    shapes = {
        tuple(n if isinstance(n, int) else m for n, m in zip(value.shape, shape, strict=True))
        for shape in (SHAPE, (2, 5, I), (1, 1, I))
    }
    assert len(shapes) == (3 if dynamic else 1)
    for shape in shapes:
        x = torch.randn(shape)
        with torch.no_grad():
            expected = model(x).numpy()
        assert_same(session.run(None, {value.name: x.numpy()}), [expected])


def test_exported_projection_is_refused_as_it_is_by_onnxruntime():
    """The newer exporter writes an LSTM node that cannot be: ONNX's LSTM has no projection."""
    pytest.importorskip("onnxscript")
    layer = torch.nn.LSTM(I, H, proj_size=2, batch_first=True).eval()
    session = fo.load(exported(layer, torch.randn(SHAPE), True, False))
    (value,) = session.get_inputs()
    with pytest.raises(fo.FormatError, match=r"\(LSTM\): initial_c must be"):
        session.run(None, {value.name: np.zeros(SHAPE, "f4")})
