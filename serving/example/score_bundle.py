"""Scores a bundle's golden requests with onnxruntime and numpy, without any code of savior's.

    python score_bundle.py DIR/<step>        a full bundle, float32, of any arm but sid

Prints p_ctr per request, here and the live model's. A row that is not there (a new user or item)
reads as zeros here; training gives it small random numbers instead. See docs/serving.md.
"""
import json
import sys
from pathlib import Path
import numpy as np
import onnxruntime
from safetensors.numpy import load_file

bundle = Path(sys.argv[1])
schema, golden = (json.loads((bundle / f"{n}.json").read_text()) for n in ("schema", "golden"))
tables = {p.stem: load_file(p) for p in (bundle / "tables").glob("*.safetensors")}
keys_of = [np.array(f["keys"], np.uint64) for f in schema["item_features"]]
session = onnxruntime.InferenceSession(bundle / "ranker.onnx")


def rows(table, keys, column):
    t, keys = tables[table], np.asarray(keys, np.uint64)
    at = np.searchsorted(t["key"], keys).clip(max=len(t["key"]) - 1)
    return np.where((t["key"][at] == keys)[..., None], t[column][at] if column in t else [[]], 0)


def score(request):
    now, past, shown = (request[name] for name in ("timestamp", "history", "candidates"))
    keys = {"user": [request["user"]], "context": [
        [f["keys"][f["vocabulary"].index(c["features"][f["name"]])]
         for f in schema["context_features"]] for c in shown]}
    for of, items in ("history_", past), ("", shown):
        ids = keys[of + "item"] = [i["item"] for i in items]
        keys[of + "content"] = rows("items", ids, "content")[:, 0]
        keys[of + "features"] = np.array([
            k[values] for k, values in zip(keys_of, rows("items", ids, "features").T)]).T
    hours = (now - past[-1]["timestamp"]) / 3600 if past else 0
    x = np.column_stack([(now - rows("items", ids, "listed_at")) / 86400, [
        [c["prior_count"], len(past), hours] for c in shown], rows("items", ids, "numerics"), [
        [c["numerics"][name] for name in schema["context_numerics"]] for c in shown]])
    inputs = {i["name"]: rows(i["table"], keys[i["keys"]], i["column"]).reshape(-1, i["width"])
              for i in schema["inputs"]}
    inputs["numerics"] = np.copysign(np.log1p(np.abs(x)), x) / 4
    return session.run(None, {name: v.astype(np.float32) for name, v in inputs.items()})


if __name__ == "__main__":
    for one in golden["requests"]:
        print(json.dumps({"here": score(one["request"])[0].tolist(), "live": one["p_ctr"]}))
