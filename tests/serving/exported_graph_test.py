"""The exported graphs in other people's runtimes: onnxruntime, PyTorch, safetensors.

    exported_graph_test.py WRITE_EXAMPLES [unittest's arguments]

WRITE_EXAMPLES writes one model per folder, with requests and the ranker's scores.
"""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from safetensors.numpy import load_file

try:
    import torch
except ImportError as error:
    # The CPU's set of wheels is for C++: torch's Python half asks for all of CUDA.
    torch, no_torch = None, str(error)

TOLERANCE = 1e-5
WRITE_EXAMPLES = ""


def requests_of(folder: Path):
    """Yields (inputs by name, p_ctr, p_ctcvr)."""
    tensors = load_file(folder / "requests.safetensors")
    numbers = sorted({name.split(".", 1)[0] for name in tensors})
    for number in numbers:
        of = {n.split(".", 1)[1]: t for n, t in tensors.items() if n.startswith(number + ".")}
        p_ctr, p_ctcvr = of.pop("p_ctr"), of.pop("p_ctcvr")
        yield of, p_ctr, p_ctcvr


class ExportedGraph(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="savior-examples-")
        subprocess.run([WRITE_EXAMPLES, cls.folder.name], check=True)
        cls.cases = sorted(Path(cls.folder.name).iterdir())

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def for_each_case(self, check):
        self.assertEqual(len(self.cases), 30)
        for case in self.cases:
            with self.subTest(case.name):
                check(case)

    def expect_scores(self, scores, p_ctr, p_ctcvr):
        self.assertEqual([s.shape for s in scores], [p_ctr.shape] * 3)
        np.testing.assert_allclose(scores[0], p_ctr, rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(scores[0] * scores[1], p_ctcvr, rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(scores[2], p_ctcvr, rtol=0, atol=TOLERANCE)

    def test_onnx_is_well_formed(self):
        def check(case):
            model = onnx.load(case / "model.onnx")
            onnx.checker.check_model(model, full_check=True)
            self.assertEqual(model.producer_name, "savior")
            self.assertEqual(model.producer_version, "1.2.3")
            self.assertEqual([o.version for o in model.opset_import], [17])
            metadata = {entry.key: entry.value for entry in model.metadata_props}
            self.assertEqual(metadata["step"], "1200")
            axes = {}
            for value in model.graph.input:
                rows, width = value.type.tensor_type.shape.dim
                self.assertGreater(width.dim_value, 0)
                axes[value.name] = rows.dim_param or rows.dim_value
            self.assertEqual(axes["user"], 1)
            self.assertEqual(axes["history_item"], "T")
            self.assertEqual(axes["item"], "C")
            self.assertEqual([o.name for o in model.graph.output], ["p_ctr", "p_cvr", "p_ctcvr"])

        self.for_each_case(check)

    def test_onnx_has_the_weights_of_the_commit(self):
        def check(case):
            model = onnx.load(case / "model.onnx")
            dense = load_file(case / "dense.safetensors")
            shared = 0
            for tensor in model.graph.initializer:
                if tensor.name in dense:
                    shared += 1
                    values = onnx.numpy_helper.to_array(tensor)
                    np.testing.assert_array_equal(values, dense[tensor.name])
            self.assertGreaterEqual(shared, 9)  # the fewest, of a model without hidden layers

        self.for_each_case(check)

    def test_onnxruntime_agrees(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        lengths = set()

        def check(case):
            session = onnxruntime.InferenceSession(
                str(case / "model.onnx"), options, ["CPUExecutionProvider"])
            for inputs, p_ctr, p_ctcvr in requests_of(case):
                lengths.add((len(inputs["history_item"]), len(inputs["item"])))
                self.expect_scores(session.run(None, inputs), p_ctr, p_ctcvr)

        self.for_each_case(check)
        self.assertLessEqual({(0, 1), (0, 5), (3, 1)}, lengths)

    def test_torch_agrees(self):
        if torch is None:
            self.skipTest(f"torch does not load here ({no_torch}): scripts/setup.sh --gpu; "
                          "torchscript_test loads the modules in C++")
        torch.set_num_threads(1)

        def check(case):
            module = torch.jit.load(str(case / "model.pt")).eval()
            for inputs, p_ctr, p_ctcvr in requests_of(case):
                order = [a.name for a in module.forward.schema.arguments[1:]]
                self.assertEqual(set(order), set(inputs))
                with torch.inference_mode():
                    scores = module(*(torch.from_numpy(inputs[name]) for name in order))
                self.expect_scores([s.numpy() for s in scores], p_ctr, p_ctcvr)

        self.for_each_case(check)


if __name__ == "__main__":
    WRITE_EXAMPLES = sys.argv.pop(1)
    unittest.main()
