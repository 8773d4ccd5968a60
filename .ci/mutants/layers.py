# SPDX-License-Identifier: MIT
"""Faults of what stands on the engine: layers, streams, checks, files, segments."""

from .tests import LAYER, SEGMENTS

STREAM = "tests/test_stream.py"

MUTANTS = {
    # -- layers, checks, streams
    "layer: the mask of dropout is not applied backward": (
        "fastlstm/_stack.pyx",
        "dy = dy * masks[layer]  # y *= mask",
        "pass",
        LAYER,
    ),
    "layer: the other direction is not reversed": (
        "fastlstm/_stack.pyx",
        "ends[k + 1], lengths, True, save",
        "ends[k + 1], lengths, False, save",
        LAYER,
    ),
    "layer: dx of one direction only": (
        "fastlstm/_stack.pyx",
        "dx = dx_d if dx is None else np.add(dx, dx_d, out=dx)",
        "dx = dx_d",
        LAYER,
    ),
    "layer: what was given out is not compared": (
        "fastlstm/layer_value.py",
        "                self._use(self._parameters)\n",
        "                self._unseen = False\n",
        LAYER,
    ),
    "layer: loading hides what was given out": (
        "fastlstm/layer_value.py",
        "self._use(self._parameters, self._unseen, self._frozen)",
        "self._use(self._parameters, True, self._frozen)",
        LAYER,
    ),
    "layer: a tape does not give the weights out": (
        "fastlstm/recurrent.py",
        "if save and self._unseen:",
        "if save and not self._unseen:",
        LAYER,
    ),
    "layer: directions change places": (
        "fastlstm/_stack.pyx",
        "y_d = y if D == 1 else y[:, :, d * P:(d + 1) * P]",
        "y_d = y if D == 1 else y[:, :, (1 - d) * P:(2 - d) * P]",
        LAYER,
    ),
    "stream: parity is not kept": (
        "fastlstm/_stream.pyx",
        "self.parity = not self.parity",
        "pass",
        STREAM,
    ),
    "stream: out may overlap x_t": (
        "fastlstm/_stream.pyx",
        'raise ValueError("out must not overlap x_t, whose memory it shares")',
        "pass",
        STREAM,
    ),
    "stream: weights are not copied": (
        "fastlstm/_stream.pyx",
        "Weights(arrays, lstm.spec, True)",
        "Weights(arrays, lstm.spec, False)",
        STREAM,
    ),
    "checks: dtypes may differ": (
        "fastlstm/checks.py",
        "if a is not None and a.dtype != value.dtype:",
        "if False:",
        "tests/test_checks.py",
    ),
    "checks: out may overlap": (
        "fastlstm/checks.py",
        "if a is not None and _overlap(out, a):",
        "if False:",
        "tests/test_checks.py",
    ),
    "checks: a length may be T + 1": (
        "fastlstm/checks.py",
        "(lengths < 0) | (lengths > T)",
        "(lengths < 0) | (lengths > T + 1)",
        "tests/test_checks.py",
    ),
    "checks: misaligned arrays pass": (
        "fastlstm/checks.py",
        "if value.dtype not in _DTYPES or not value.flags.aligned:",
        "if value.dtype not in _DTYPES:",
        "tests/test_inputs.py",
    ),
    "layer: misaligned x passes": (
        "fastlstm/checks.py",
        "if value.dtype not in _DTYPES or not value.flags.aligned:",
        "if value.dtype not in _DTYPES:",
        "tests/test_any_memory.py",
    ),
    "checks: an exporter's error has no name": (
        "fastlstm/checks.py",
        'raise TypeError(f"{name} cannot be taken through DLPack: {fault}") from fault',
        "raise",
        "tests/test_any_memory.py",
    ),
    "checks: a shape is not looked at": (
        "fastlstm/checks.py",
        "    if value.shape != expected:",
        "    if value.size != np.prod(expected):",
        "tests/test_checks.py",
    ),
    "files: the temporary file is not flushed": (
        "fastlstm/tensorfile.py",
        "            os.fsync(file.fileno())\n",
        "",
        "tests/test_atomic_save.py",
    ),
    "files: written in place": (
        "fastlstm/tensorfile.py",
        "os.replace(temporary, target)",
        "open(target, 'wb').write(open(temporary, 'rb').read()); os.unlink(temporary)",
        "tests/test_atomic_save.py",
    ),
    "layer: read-only is taken for frozen": (
        "fastlstm/layer_value.py",
        "trusted = unseen or frozen",
        "trusted = unseen or not parameters.flat.flags.writeable",
        LAYER,
    ),
    # -- time in pieces, episodes
    "segments: a checkpoint has the strides of its state": (
        "fastlstm/segments.py",
        'self.sorted(s), order="C")',
        "self.sorted(s))",
        SEGMENTS,
    ),
    "segments: every window has all of dy": (
        "fastlstm/segments.py",
        "dy_w[b0 - t0 : b1 - t0] = dy[b0:b1]",
        "dy_w[:] = dy[t0:t1]",
        SEGMENTS,
    ),
}
