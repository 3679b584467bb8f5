"""The other side of bench_serve: JSON -> rows by numpy -> onnxruntime -> JSON, on one thread.

    serve_with_onnxruntime.py BUNDLE BODY SECONDS

Answers the request in file BODY from BUNDLE, again and again, by serving/example/score_bundle.py;
no HTTP. Prints requests per second and per CPU second, and p_ctr, as JSON.
"""

import json
import sys
import time
from pathlib import Path

import onnxruntime

sys.path.insert(0, str(Path(__file__).parents[1] / "serving/example"))
import score_bundle  # noqa: E402


def answer(body: str) -> str:
    p_ctr, p_cvr, p_ctcvr = score_bundle.score(json.loads(body))
    return json.dumps({"p_ctr": p_ctr.tolist(), "p_cvr": p_cvr.tolist(),
                       "p_ctcvr": p_ctcvr.tolist()})


def main() -> None:
    body, seconds = Path(sys.argv[2]).read_text(), float(sys.argv[3])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    score_bundle.session = onnxruntime.InferenceSession(
        str(Path(sys.argv[1]) / "ranker.onnx"), options, ["CPUExecutionProvider"])
    for _ in range(3):
        scores = json.loads(answer(body))
    requests, start, cpu_start = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - start < seconds:
        answer(body)
        requests += 1
    print(json.dumps({
        "per_s": requests / (time.perf_counter() - start),
        "per_cpu_s": requests / (time.process_time() - cpu_start),
        "p_ctr": scores["p_ctr"],
    }))


if __name__ == "__main__":
    main()
