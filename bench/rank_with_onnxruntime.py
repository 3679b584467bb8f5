"""The other side of bench_rank: onnxruntime on one thread.

    rank_with_onnxruntime.py FOLDER SECONDS

Ranks FOLDER/request.safetensors with FOLDER/model.onnx, again and again; prints requests per second
and per CPU second, and p_ctr, as JSON.
"""

import json
import sys
import time
from pathlib import Path

import onnxruntime
from safetensors.numpy import load_file


def main() -> None:
    folder, seconds = Path(sys.argv[1]), float(sys.argv[2])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(folder / "model.onnx"), options, ["CPUExecutionProvider"])
    inputs = load_file(folder / "request.safetensors")
    p_ctr = session.run(None, inputs)[0]
    for _ in range(3):
        session.run(None, inputs)
    requests, start, cpu_start = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - start < seconds:
        session.run(None, inputs)
        requests += 1
    print(json.dumps({
        "per_s": requests / (time.perf_counter() - start),
        "per_cpu_s": requests / (time.process_time() - cpu_start),
        "p_ctr": p_ctr.tolist(),
    }))


if __name__ == "__main__":
    main()
