"""Scores the golden requests of a bundle with onnxruntime and numpy, without any code of savior's.

    python score_bundle.py DIR/<step>        a full bundle, float32 (docs/serving.md)

Prints the largest difference from the live model's p_ctr over the requests whose rows are all in
the bundle, and over all. A row that is not there (a new user or item) reads as zeros here; training
gives it small random numbers, which makes a small difference.
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
features = {f["name"]: dict(zip(f["vocabulary"], f["keys"]))
            for f in schema["item_features"] + schema["context_features"]}
item_keys = [np.array(f["keys"], np.uint64) for f in schema["item_features"]]
complete = True  # whether all rows of the request at hand were there


def rows(table, keys, column="row", needed=True):
    """The rows of `keys`; zeros where there is none."""
    global complete
    t, keys = tables[table], np.asarray(keys, np.uint64)
    at = np.minimum(np.searchsorted(t["key"], keys), len(t["key"]) - 1)
    found = (t["key"][at] == keys)[:, None]
    complete &= bool(found.all()) or not needed
    return np.where(found, t[column][at], 0).astype(t[column].dtype)


def squash(x):
    return np.copysign(np.log1p(np.abs(x)), x).astype(np.float32) / 4


def score(request):
    now, history, items = request["timestamp"], request["history"], request["candidates"]
    ids, past = [c["item"] for c in items], [h["item"] for h in history]
    n, contents = len(ids), {k: rows("items", k, "content")[:, 0] for k in map(tuple, (ids, past))}
    content, past_content = contents[tuple(ids)], contents[tuple(past)]
    flat = lambda keys: rows("feature", np.asarray(keys, np.uint64).ravel()).reshape(n, -1)
    codes = rows("items", ids, "features") if item_keys else np.zeros((n, 0), int)
    own = [(now - rows("items", ids, "listed_at")[:, 0]) / 86400, [c["prior_count"] for c in items],
           [len(history)] * n, [(now - history[-1]["timestamp"]) / 3600 if history else 0] * n]
    if schema["item_numerics"]:
        own += list(rows("items", ids, "numerics").T)
    own += [[c["numerics"][name] for c in items] for name in schema["context_numerics"]]
    inputs = {
        "user": lambda: rows("user", [request["user"]]),
        "item": lambda: rows("item", ids), "history_item": lambda: rows("item", past),
        "content": lambda: rows("content", content, "z", False),
        "history_content": lambda: rows("content", past_content, "z", False),
        "aligned": lambda: rows("aligned", content, "row", False),
        "history_aligned": lambda: rows("aligned", past_content, "row", False),
        "features": lambda: flat(np.stack([k[codes[:, f]] for f, k in enumerate(item_keys)], 1)),
        "context": lambda: flat([[features[f["name"]][c["features"][f["name"]]]
                                  for f in schema["context_features"]] for c in items]),
        "numerics": lambda: np.stack([squash(np.asarray(x, float)) for x in own], 1),
    }
    wanted = [i.name for i in session.get_inputs()]
    return session.run(["p_ctr", "p_cvr", "p_ctcvr"], {name: inputs[name]() for name in wanted})


if __name__ == "__main__":
    golden = json.loads((bundle / "golden.json").read_text())["requests"]
    worst, worst_of_all, compared = 0.0, 0.0, 0
    for g in golden:
        complete = True
        difference = float(np.abs(score(g["request"])[0] - np.float32(g["p_ctr"])).max())
        worst_of_all = max(worst_of_all, difference)
        if complete:
            worst, compared = max(worst, difference), compared + 1
    print(json.dumps({"requests": len(golden), "complete": compared, "max_difference": worst,
                      "max_difference_with_missing_rows": worst_of_all}))
