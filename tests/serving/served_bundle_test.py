"""A bundle in other people's hands: onnxruntime and numpy alone, onnx.checker, safetensors, HPS's
files, `savior serve` over plain HTTP and by Triton's client. All give the live model's scores.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import unittest
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import onnx
import tritonclient.http as triton
from safetensors.numpy import load_file

sys.path.insert(0, str(Path(__file__).parent.parent / "cluster"))
import runs  # noqa: E402

PROGRAM = os.environ["SAVIOR_PROGRAM"]
EXAMPLE = Path(__file__).parents[2] / "serving/example/score_bundle.py"


def savior(*arguments, code=0):
    done = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


class Server:
    def __init__(self, bundles, *options):
        self.process = subprocess.Popen(
            [PROGRAM, "serve", bundles, "--port", "0", *options], stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        assert "serving bundle" in line, line + self.process.stderr.read()
        self.url = line.split()[-1]

    def post(self, path, body):
        request = urllib.request.Request(self.url + path, json.dumps(body).encode())
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=30)
        return self.process.returncode


class ServedBundle(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.folder = Path(cls.temporary.name)
        cls.config = runs.make_world(cls.folder)
        cls.run_folder = cls.folder / "run"
        savior("train", cls.config, f"run.dir={cls.run_folder}", "train.epochs=2")
        cls.bundles = cls.folder / "bundles"
        cls.said = savior("export", cls.run_folder, "--out", cls.bundles, "--hps", "--triton",
                          "--golden", 500)
        cls.bundle = (cls.bundles / "current").resolve()
        cls.golden = json.loads((cls.bundle / "golden.json").read_text())["requests"]

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def worst(self, found):
        return max(float(np.abs(np.array(f) - np.array(g["p_ctr"], np.float32)).max())
                   for f, g in zip(found, self.golden, strict=True))

    def test_export_says_what_it_wrote_and_proved(self):
        self.assertIn("full bundle", self.said)
        self.assertIn("golden requests", self.said)
        self.assertIn("sampled rows equal the commit's", self.said)
        self.assertIn(f"savior serve {self.bundles}", self.said)
        self.assertIn("whole", savior("export", "--verify", self.bundles))
        listing = savior("inspect", "bundle", self.bundles)
        for word in ("savior", "float32", "aligned", "golden"):
            self.assertIn(word, listing)

    def check_the_example(self, bundle, least):
        """More than `least` of the requests have all their rows in the tables."""
        done = subprocess.run([sys.executable, EXAMPLE, bundle], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        scored = [json.loads(line) for line in done.stdout.splitlines()]
        requests = json.loads((bundle / "golden.json").read_text())["requests"]
        self.assertEqual([s["live"] for s in scored], [g["p_ctr"] for g in requests])
        keys = {table: set(load_file(bundle / f"tables/{table}.safetensors")["key"].tolist())
                for table in ("user", "item")}
        complete = 0
        for golden, s in zip(requests, scored, strict=True):
            r = golden["request"]
            whole = r["user"] in keys["user"] and keys["item"].issuperset(
                i["item"] for i in r["history"] + r["candidates"])
            complete += whole
            np.testing.assert_allclose(s["here"], s["live"], rtol=0, atol=1e-5 if whole else 0.02)
        self.assertGreater(complete, least)

    def test_the_example_scores_it_without_our_code(self):
        self.check_the_example(self.bundle, least=50)

    def test_the_example_reads_what_inputs_a_graph_has(self):
        for setting in "model.arm=base", "model.behaviour_features=true":
            with self.subTest(setting):
                run, bundles = self.folder / setting, self.folder / f"bundles of {setting}"
                savior("train", self.config, f"run.dir={run}", setting)
                savior("export", run, "--out", bundles)
                self.check_the_example((bundles / "current").resolve(), least=20)

    def test_the_graph_is_valid_and_so_is_tritons_repository(self):
        onnx.checker.check_model(str(self.bundle / "ranker.onnx"), full_check=True)
        model = self.bundle / "triton/savior"
        self.assertEqual((model / "1/model.onnx").read_bytes(),
                         (self.bundle / "ranker.onnx").read_bytes())
        text = (model / "config.pbtxt").read_text()
        for name in (i.name for i in onnx.load(self.bundle / "ranker.onnx").graph.input):
            self.assertIn(f'"{name}"', text)

    def test_hps_files_hold_the_tables(self):
        for table, column in (("user", "row"), ("item", "row"), ("feature", "row"),
                              ("content", "z"), ("aligned", "row")):
            ours = load_file(self.bundle / f"tables/{table}.safetensors")
            folder = self.bundle / f"hps/{table}.model"
            keys = np.fromfile(folder / "key", np.int64)
            rows = np.fromfile(folder / "emb_vector", np.float32).reshape(len(keys), -1)
            np.testing.assert_array_equal(keys.view(np.uint64), ours["key"])
            np.testing.assert_array_equal(rows, ours[column])

    def test_http_gives_the_live_models_scores(self):
        server = Server(self.bundles)
        found = []
        for golden in self.golden:
            code, answer = server.post("/v1/rank", golden["request"])
            self.assertEqual(code, 200, answer)
            self.assertEqual(answer["version"], self.bundle.name)
            found.append(answer["p_ctr"])
        self.assertLessEqual(self.worst(found), 1e-5)
        code, answer = server.post("/v1/rank", {"candidates": []})
        self.assertEqual(code, 400)
        self.assertIn("candidates", answer["error"])
        self.assertEqual(server.stop(), 0)

    def test_tritons_client_gets_the_live_models_scores(self):
        server = Server(self.bundles)
        client = triton.InferenceServerClient(server.url.removeprefix("http://"))
        metadata = client.get_model_metadata("savior")
        types = {i["name"]: i["datatype"] for i in metadata["inputs"]}
        kinds = {"INT64": np.int64, "FP32": np.float32, "BYTES": object}

        def tensor(name, values):
            array = np.array(values, dtype=kinds[types[name]])
            given = triton.InferInput(name, list(array.shape), types[name])
            given.set_data_from_numpy(array)
            return given

        found = []
        for golden in self.golden[:50]:
            request = golden["request"]
            candidates = request["candidates"]
            inputs = [tensor("user", [request["user"]]), tensor("timestamp", [request["timestamp"]]),
                      tensor("item", [c["item"] for c in candidates]),
                      tensor("prior_count", [c["prior_count"] for c in candidates])]
            if request["history"]:
                inputs += [tensor("history_item", [h["item"] for h in request["history"]]),
                           tensor("history_timestamp",
                                  [h["timestamp"] for h in request["history"]])]
            for kind in ("features", "numerics"):
                for name in candidates[0].get(kind, {}):
                    inputs.append(tensor(name, [c[kind][name] for c in candidates]))
            found.append(client.infer("savior", inputs).as_numpy("p_ctr"))
        worst = max(float(np.abs(f - np.array(g["p_ctr"], np.float32)).max())
                    for f, g in zip(found, self.golden))
        self.assertLessEqual(worst, 1e-5)
        client.close()
        self.assertEqual(server.stop(), 0)

    def test_a_folder_without_bundles_is_said_to_be_one(self):
        nothing = self.folder / "nothing"
        nothing.mkdir(exist_ok=True)
        for command in (["serve", nothing, "--port", "0"], ["export", "--verify", nothing],
                        ["inspect", "bundle", nothing]):
            self.assertIn("nothing was exported there", savior(*command, code=2))
        self.assertIn("--out", savior("export", self.run_folder, code=2))
        self.assertIn("float16",
                      savior("export", self.run_folder, "--out", nothing, "--precision", "half",
                             code=2))


if __name__ == "__main__":
    unittest.main(verbosity=2)
