"""Scores the golden requests of a bundle with onnxruntime and numpy, without any code of savior's.

    python score_bundle.py DIR/<step>        a full bundle, float32 (docs/serving.md)

Prints a line per request: p_ctr of its candidates here, and the live model's. A row that is not in
the bundle (a new user or item) reads as zeros here; training gives it small random numbers instead.
"""
import json
import sys
from pathlib import Path
import numpy as np
import onnxruntime
from safetensors.numpy import load_file

bundle = Path(sys.argv[1])
schema = json.loads((bundle / "schema.json").read_text())
tables = {p.stem: load_file(p) for p in (bundle / "tables").glob("*.safetensors")}
session = onnxruntime.InferenceSession(str(bundle / "ranker.onnx"))
of_items, of_context = schema["item_features"], schema["context_features"]


def rows(table, keys, column="row"):
    t, keys = tables[table], np.asarray(keys, np.uint64).ravel()
    at = np.searchsorted(t["key"], keys).clip(max=len(t["key"]) - 1)
    return np.where((t["key"][at] == keys)[:, None], t[column][at], 0).astype(t[column].dtype)


def score(request):
    now, history, shown = (request[k] for k in ("timestamp", "history", "candidates"))
    ids, past = [c["item"] for c in shown], [h["item"] for h in history]
    content, past_content = rows("items", ids, "content"), rows("items", past, "content")
    codes = [rows("items", ids, "features")[:, i] for i in range(len(of_items))]
    codes += [[f["vocabulary"].index(c["features"][f["name"]]) for c in shown] for f in of_context]
    keys = [np.asarray(f["keys"], np.uint64)[c] for f, c in zip(of_items + of_context, codes)]
    flat = lambda k: rows("feature", np.stack(k, 1)).reshape(len(ids), -1)
    own = [(now - rows("items", ids, "listed_at")[:, 0]) / 86400, [c["prior_count"] for c in shown],
           [len(history)] * len(ids),
           [(now - history[-1]["timestamp"]) / 3600 if history else 0] * len(ids)]
    own += rows("items", ids, "numerics").T.tolist() if schema["item_numerics"] else []
    own += [[c["numerics"][name] for c in shown] for name in schema["context_numerics"]]
    x = np.stack([np.asarray(column, np.float64) for column in own], 1)
    inputs = {
        "user": lambda: rows("user", [request["user"]]), "item": lambda: rows("item", ids),
        "history_item": lambda: rows("item", past),
        "content": lambda: rows("content", content, "z"),
        "aligned": lambda: rows("aligned", content), "features": lambda: flat(keys[:len(of_items)]),
        "history_content": lambda: rows("content", past_content, "z"),
        "history_aligned": lambda: rows("aligned", past_content),
        "context": lambda: flat(keys[len(of_items):]),
        "numerics": lambda: (np.copysign(np.log1p(np.abs(x)), x) / 4).astype(np.float32)}
    wanted = {i.name: inputs[i.name]() for i in session.get_inputs()}
    return session.run(["p_ctr", "p_cvr", "p_ctcvr"], wanted)


if __name__ == "__main__":
    for golden in json.loads((bundle / "golden.json").read_text())["requests"]:
        p_ctr = score(golden["request"])[0].tolist()
        print(json.dumps({"here": p_ctr, "live": golden["p_ctr"]}))
