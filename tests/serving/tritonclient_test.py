"""Triton's own client against our server, which answers with a fake scorer's scores."""

import os
import subprocess
import sys
import unittest

try:
    import numpy as np
    import tritonclient.http as triton
    from tritonclient.utils import InferenceServerException
except ImportError as missing:
    print(f"SKIPPED, Triton's client was not tried: {missing}")
    sys.exit(77)


def tensor(name, values, datatype, binary=True):
    array = np.array(values, dtype={"INT64": np.int64, "FP32": np.float32, "BYTES": object}[datatype])
    given = triton.InferInput(name, list(array.shape), datatype)
    given.set_data_from_numpy(array, binary_data=binary)
    return given


class TritonClient(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = subprocess.Popen(
            [os.environ["SAVIOR_TEST_SERVER"]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        cls.client = triton.InferenceServerClient(f"127.0.0.1:{int(cls.server.stdout.readline())}")

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        cls.server.stdin.close()
        cls.server.stdout.close()
        assert cls.server.wait(timeout=60) == 0

    def test_health_and_metadata(self):
        self.assertTrue(self.client.is_server_live())
        self.assertTrue(self.client.is_server_ready())
        self.assertTrue(self.client.is_model_ready("savior"))
        self.assertTrue(self.client.is_model_ready("savior", "000000000007"))
        self.assertFalse(self.client.is_model_ready("savior", "8"))
        self.assertEqual(self.client.get_server_metadata()["version"], "test")
        metadata = self.client.get_model_metadata("savior")
        self.assertEqual(metadata["versions"], ["000000000007"])
        self.assertIn(
            {"name": "vector.text", "datatype": "FP32", "shape": [-1, 3]}, metadata["inputs"]
        )

    def inputs(self, binary):
        return [
            tensor("user", [17], "INT64", binary),
            tensor("timestamp", [1490000000], "INT64", binary),
            tensor("history_item", [5, 6], "INT64", binary),
            tensor("history_timestamp", [1489990000, 1489990001], "INT64", binary),
            tensor("item", [12, -1], "INT64", binary),
            tensor("listed_at", [1480000000, -1], "INT64", binary),
            tensor("feat_brand", ["", "größer"], "BYTES", binary),
            tensor("ctx_display", ["A"], "BYTES", binary),
            tensor("num_price", [1.5, 2.5], "FP32", binary),
            tensor("vector.text", [[0, 0, 0], [1, 2, 3]], "FP32", binary),
        ]

    def check(self, result):
        np.testing.assert_array_equal(result.as_numpy("p_ctr"), np.float32([0.5, 0.25]))
        np.testing.assert_array_equal(result.as_numpy("p_cvr"), np.float32([0.25, 0.25]))
        np.testing.assert_array_equal(result.as_numpy("p_ctcvr"), np.float32([0.125, 0.0625]))
        self.assertEqual(result.get_response()["model_version"], "000000000007")

    def test_infer_with_the_clients_defaults(self):
        result = self.client.infer("savior", self.inputs(True), request_id="r-1")
        self.check(result)
        self.assertEqual(result.get_response()["id"], "r-1")
        self.assertIn("binary_data_size", result.get_output("p_ctr")["parameters"])

    def test_infer_as_json(self):
        outputs = [
            triton.InferRequestedOutput(name, binary_data=False)
            for name in ("p_ctr", "p_cvr", "p_ctcvr")
        ]
        result = self.client.infer("savior", self.inputs(False), outputs=outputs)
        self.check(result)
        self.assertIn("data", result.get_output("p_ctr"))

    def test_infer_of_mixed_and_packed_data(self):
        for algorithm in ("gzip", "deflate"):
            inputs = self.inputs(True)[:5] + self.inputs(False)[5:]
            result = self.client.infer(
                "savior",
                inputs,
                model_version="000000000007",
                request_compression_algorithm=algorithm,
                response_compression_algorithm=algorithm,
                timeout=1_000_000,
            )
            self.check(result)

    def test_one_output_is_asked_for(self):
        result = self.client.infer(
            "savior", self.inputs(True), outputs=[triton.InferRequestedOutput("p_ctcvr")]
        )
        np.testing.assert_array_equal(result.as_numpy("p_ctcvr"), np.float32([0.125, 0.0625]))
        self.assertIsNone(result.as_numpy("p_ctr"))

    def test_errors_say_what_is_wrong(self):
        with self.assertRaises(InferenceServerException) as refused:
            self.client.infer("savior", [tensor("item", [1.0], "FP32")])
        self.assertEqual(refused.exception.status(), "400")
        self.assertEqual(
            refused.exception.message(), "inputs[0] (item): datatype FP32, must be INT64"
        )
        with self.assertRaisesRegex(InferenceServerException, "no such path"):
            self.client.infer("other", self.inputs(True))


if __name__ == "__main__":
    unittest.main()
