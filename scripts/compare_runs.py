#!/usr/bin/env python3
"""Compares arms of an experiment: who ranks better, by how much, and could it be chance?

    .venv/bin/python scripts/compare_runs.py runs/base-* runs/savior-* runs/mba_off-* \\
        --baseline base --contrast savior:mba_off > comparison.md

Reads result.json (arm, seed) and predictions.parquet of every run folder given (train them with
eval.save_predictions=true), and prints Markdown. All runs of a seed must have scored the same
impressions; other seeds may have scored others (eval.progressive: batches are shuffled by the seed).
Two sources of chance are judged apart, since neither contains the other:

- seeds: the paired t-test of the difference over the seeds that both arms have;
- users: the paired bootstrap, clustered by user. A draw takes as many users as there are, with
  replacement, the same ones for every arm; its difference is the mean over the seeds.

Holm's correction is over the primary cells of all contrasts printed, for each of the two tests
apart.
"""

import argparse
import dataclasses
import itertools
import json
import math
import pathlib
import sys

import numpy as np
import pyarrow.parquet as pq

TASKS = {"ctr": "p_ctr", "ctcvr": "p_ctcvr"}
POINTS = 100.0  # an AUC of 0.7128 is 71.28 points
ROW_KEYS = ("user_id", "request_id", "item_id", "click", "conversion")
CHUNK_VALUES = 1 << 20  # weights of one chunk of bootstrap draws: small enough for the CPU's cache


class BadInput(Exception):
    """Something about the runs or the arguments that the person must know."""


# ---- statistics ----


def incomplete_beta(a, b, x):
    """Regularised incomplete beta function I_x(a, b).

    By Lentz's continued fraction (Press et al., Numerical Recipes, section 6.4).
    """
    if x <= 0.0 or x >= 1.0:
        return min(max(x, 0.0), 1.0)
    if x > (a + 1.0) / (a + b + 2.0):  # the fraction converges fast on the other side
        return 1.0 - incomplete_beta(b, a, 1.0 - x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
                     + a * math.log(x) + b * math.log1p(-x)) / a
    tiny = 1e-300
    c, d = 1.0, 1.0 / (1.0 - (a + b) * x / (a + 1.0) or tiny)
    fraction = d
    for m in range(1, 1000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1.0 / (1.0 + term * d or tiny)
            c = 1.0 + term / c or tiny
            fraction *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return front * fraction


def t_test(differences):
    """(mean, standard error, two-sided p) of paired differences; one pair: (mean, None, None)."""
    n = len(differences)
    mean = float(np.mean(differences))
    if n < 2:
        return mean, None, None
    error = float(np.std(differences, ddof=1)) / math.sqrt(n)
    if error == 0.0:
        return mean, 0.0, 1.0 if mean == 0.0 else 0.0
    t = mean / error
    freedom = n - 1
    return mean, error, incomplete_beta(freedom / 2.0, 0.5, freedom / (freedom + t * t))


def holm(p_values):
    """Holm's step-down adjustment (1979): adjusted p <= alpha keeps the family-wise error alpha."""
    adjusted = [0.0] * len(p_values)
    worst = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = worst
    return adjusted


def draw_user_weights(users, draws, seed):
    """How often each draw of `users` users, with replacement, has each user: [users, draws]."""
    rng = np.random.default_rng(seed)
    weights = np.empty((users, draws), dtype=np.float32)
    for draw in range(draws):
        weights[:, draw] = np.bincount(rng.integers(users, size=users), minlength=users)
    return weights


class Ranking:
    """The rows of one run and cell, sorted once, so that a weighting of users costs one pass."""

    def __init__(self, scores, labels, users):
        """All [n]; labels 0 or 1; users are rows of the weights given to `aucs`."""
        positive = labels > 0
        order = np.argsort(scores[~positive], kind="stable")
        negative_scores = scores[~positive][order]
        self.negatives = users[~positive][order]
        order = np.argsort(scores[positive], kind="stable")
        positive_scores = scores[positive][order]
        self.positives = users[positive][order]
        # Positive i is above the negatives [0, below[i]) and ties with [below[i], upto[i]).
        self.below = np.searchsorted(negative_scores, positive_scores, side="left")
        self.upto = np.searchsorted(negative_scores, positive_scores, side="right")
        self.tied = bool(np.any(self.below != self.upto))

    def aucs(self, weights):
        """AUC, ties counting half, under each column of `weights` [users, draws].

        NaN where a class has no weight.
        """
        result = np.empty(weights.shape[1])
        step = max(1, CHUNK_VALUES // max(1, len(self.negatives)))
        for begin in range(0, len(result), step):
            chunk = np.ascontiguousarray(weights[:, begin:begin + step])
            result[begin:begin + step] = self._chunk(chunk)
        return result

    def _chunk(self, weights):
        positive = weights[self.positives]
        # Row i: the weight of the negatives [0, i).
        cumulated = np.zeros((len(self.negatives) + 1, weights.shape[1]), dtype=weights.dtype)
        np.cumsum(weights[self.negatives], axis=0, out=cumulated[1:])
        beaten = cumulated[self.below]
        if self.tied:
            beaten = (beaten + cumulated[self.upto]) * weights.dtype.type(0.5)
        pairs = np.einsum("ij,ij->j", positive, beaten, dtype=np.float64, casting="same_kind")
        total = positive.sum(axis=0, dtype=np.float64) * cumulated[-1].astype(np.float64)
        return np.divide(pairs, total, out=np.full(len(total), np.nan), where=total > 0)


def exact_dtype(weights, users):
    """float32 if every sum of row weights stays an exact integer in it, else float64."""
    rows = np.bincount(users, minlength=len(weights)).astype(np.float64)
    return np.float32 if float((rows @ weights).max()) < 2**23 else np.float64


def interval(draws):
    """(low, high, two-sided p) of bootstrap draws of a difference. None if no draw is defined."""
    defined = draws[~np.isnan(draws)]
    if len(defined) == 0:
        return None
    low, high = np.percentile(defined, [2.5, 97.5])
    tail = min(np.sum(defined <= 0), np.sum(defined >= 0))
    return float(low), float(high), min(1.0, 2.0 * (1 + int(tail)) / (1 + len(defined)))


# ---- runs ----


@dataclasses.dataclass
class Run:
    folder: pathlib.Path
    arm: str
    seed: int
    result: dict
    columns: dict  # of predictions.parquet: name -> [n]


def read_run(folder):
    folder = pathlib.Path(folder)
    try:
        result = json.loads((folder / "result.json").read_text())
        table = pq.read_table(folder / "predictions.parquet")
        columns = {name: table[name].to_numpy() for name in table.column_names}
        return Run(folder, str(result["arm"]), int(result["seed"]), result, columns)
    except (OSError, ValueError, KeyError) as error:
        missing = isinstance(error, OSError)
        hint = "; predictions are written with eval.save_predictions=true" if missing else ""
        raise BadInput(f"{folder}: {error!r}{hint}") from error


def read_runs(folders):
    """{arm: {seed: Run}} in the order given. Refuses runs of a seed that did not score the same rows."""
    arms = {}
    first_of_seed = {}
    for folder in folders:
        run = read_run(folder)
        seeds = arms.setdefault(run.arm, {})
        if run.seed in seeds:
            raise BadInput(f"{run.folder} and {seeds[run.seed].folder}: "
                           f"both are arm {run.arm}, seed {run.seed}")
        seeds[run.seed] = run
        check_same_rows(first_of_seed.setdefault(run.seed, run), run)
    one, *others = first_of_seed.values()
    for other in others:
        for name in sorted(row_columns(one) ^ row_columns(other)):
            raise BadInput(f"only one of {one.folder} and {other.folder} has column {name}")
    return arms


def row_columns(run):
    return {name for name in run.columns if name in ROW_KEYS or name.startswith("in_")}


def users_by_seed(arms):
    """{seed: user_id of each row that its runs scored}."""
    return {run.seed: run.columns["user_id"] for seeds in arms.values() for run in seeds.values()}


def check_same_rows(first, run):
    for name in sorted(row_columns(first) | row_columns(run)):
        one, other = first.columns.get(name), run.columns.get(name)
        if one is None or other is None or not np.array_equal(one, other):
            raise BadInput(f"{run.folder}: column {name} differs from that of {first.folder}: "
                           "the runs did not score the same impressions")


def cells_of(run):
    """[(task, bucket)], tasks first, buckets in the order of the run."""
    buckets = [name[len("in_"):] for name in run.columns if name.startswith("in_")]
    return [(task, bucket) for task in TASKS if TASKS[task] in run.columns for bucket in buckets]


def labels_of(run, task):
    clicks = run.columns["click"]
    return clicks if task == "ctr" else clicks * run.columns["conversion"]


def check_auc(run, cell, auc):
    """The predictions must be those that the run's result was made of."""
    task, bucket = cell
    stated = run.result.get("eval", {}).get(task, {}).get(bucket, {}).get("auc")
    if stated is not None and not abs(stated - auc) < 1e-6:
        raise BadInput(f"{run.folder}: AUC of {task}:{bucket} is {auc:.6f} by predictions.parquet "
                       f"but {stated:.6f} in result.json")


@dataclasses.dataclass
class Scores:
    """AUCs by (arm, seed, cell): as they are, and under each draw of users."""
    auc: dict
    draws: dict


def score(arms, cells, draws, seed, progress=lambda done, total: None):
    runs = [run for seeds in arms.values() for run in seeds.values()]
    user_ids = users_by_seed(arms)
    ids = np.unique(np.concatenate(list(user_ids.values())))
    users_of = {of: np.searchsorted(ids, values) for of, values in user_ids.items()}
    weights = draw_user_weights(len(ids), draws, seed)
    dtype = np.result_type(*(exact_dtype(weights, users) for users in users_of.values()))
    weights = weights.astype(dtype, copy=False)
    once = np.ones((len(ids), 1), dtype=np.float64)
    scores = Scores({}, {})
    for done, (run, cell) in enumerate(itertools.product(runs, cells)):
        task, bucket = cell
        inside = run.columns["in_" + bucket].astype(bool)
        predictions, users = run.columns[TASKS[task]], users_of[run.seed]
        ranking = Ranking(predictions[inside], labels_of(run, task)[inside], users[inside])
        key = (run.arm, run.seed, cell)
        scores.auc[key] = float(ranking.aucs(once)[0])
        check_auc(run, cell, scores.auc[key])
        scores.draws[key] = ranking.aucs(weights)
        progress(done + 1, len(runs) * len(cells))
    return scores


# ---- contrasts ----


@dataclasses.dataclass
class Difference:
    """Arm `a` minus arm `b` on one cell, AUC points, over the seeds that both have."""
    a: str
    b: str
    cell: tuple
    seeds: int
    mean: float
    seed_error: float = None
    seed_p: float = None
    user_error: float = None
    user_interval: tuple = None  # (low, high)
    user_p: float = None
    seed_holm: float = None
    user_holm: float = None


def difference(arms, scores, a, b, cell):
    seeds = [seed for seed in arms[a] if seed in arms[b]]
    if not seeds:
        raise BadInput(f"arms {a} and {b} have no seed in common: nothing to pair")
    deltas = [POINTS * (scores.auc[a, s, cell] - scores.auc[b, s, cell]) for s in seeds]
    mean, error, p = t_test(deltas)
    result = Difference(a, b, cell, len(seeds), mean, error, p)
    if math.isnan(mean):  # one class only
        result.seed_error = result.seed_p = None
        return result
    by_seed = [scores.draws[a, s, cell] - scores.draws[b, s, cell] for s in seeds]
    draws = POINTS * np.mean(by_seed, axis=0)
    bounds = interval(draws)
    if bounds is not None:
        result.user_error = float(np.nanstd(draws))
        result.user_interval, result.user_p = bounds[:2], bounds[2]
    return result


def correct(differences, primary):
    """Fills in Holm's correction over the primary cells of all contrasts."""
    for p_name, holm_name in (("seed_p", "seed_holm"), ("user_p", "user_holm")):
        family = [d for d in differences if d.cell in primary and getattr(d, p_name) is not None]
        for d, adjusted in zip(family, holm([getattr(d, p_name) for d in family])):
            setattr(d, holm_name, adjusted)


def contrasts_of(arms, baseline, contrasts):
    """[(a, b)]: every other arm over the baseline, then those asked for."""
    pairs = [(arm, baseline) for arm in arms if arm != baseline]
    for text in contrasts:
        a, colon, b = text.partition(":")
        if not colon or not a or not b:
            raise BadInput(f"--contrast {text}: must be ARM:ARM")
        if (a, b) not in pairs:
            pairs.append((a, b))
    for arm in itertools.chain([baseline], *pairs):
        if arm not in arms:
            raise BadInput(f"no run of arm {arm} was given; arms: {', '.join(arms)}")
    return pairs


def primary_cells(text, cells):
    primary = []
    for name in text.replace(",", " ").split():
        task, _, bucket = name.partition(":")
        if (task, bucket) not in cells:
            names = " ".join(":".join(cell) for cell in cells)
            raise BadInput(f"--primary {name}: no such cell; cells: {names}")
        primary.append((task, bucket))
    return primary


# ---- output ----


def title(cell):
    return f"{cell[0].upper()} {cell[1]}"


def number(value, pattern="{:+.2f}"):
    return "-" if value is None or math.isnan(value) else pattern.format(value)


def probability(p):
    return "-" if p is None else "<.001" if p < 0.001 else f"{p:.3f}"


def markdown(header, rows):
    align = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, align, *rows])


def arm_table(arms, cells, scores, baseline, by_key):
    rows = []
    for arm in [baseline] + [arm for arm in arms if arm != baseline]:
        row = [arm, str(len(arms[arm]))]
        for cell in cells:
            auc = float(np.mean([scores.auc[arm, s, cell] for s in arms[arm]]))
            text = number(POINTS * auc, "{:.2f}")
            d = by_key.get((arm, baseline, cell))
            if d is not None:
                text += f" ({number(d.mean)} ± {number(d.seed_error, '{:.2f}')})"
            row.append(text)
        rows.append(row)
    return markdown(["arm", "seeds"] + [title(cell) for cell in cells], rows)


def contrast_table(differences, primary):
    header = ["contrast", "cell", "seeds", "delta", "SE seeds", "p (paired t)", "Holm", "SE users",
              "95% interval (users)", "p (bootstrap)", "Holm"]
    rows = []
    for d in differences:
        name = title(d.cell)
        bounds = "-" if d.user_interval is None else "[{:+.2f}, {:+.2f}]".format(*d.user_interval)
        rows.append([f"{d.a} - {d.b}", f"**{name}**" if d.cell in primary else name, str(d.seeds),
                     number(d.mean), number(d.seed_error, "{:.2f}"), probability(d.seed_p),
                     probability(d.seed_holm), number(d.user_error, "{:.2f}"), bounds,
                     probability(d.user_p), probability(d.user_holm)])
    return markdown(header, rows)


def report(arms, cells, scores, differences, baseline, primary, draws, seed):
    by_key = {(d.a, d.b, d.cell): d for d in differences}
    user_ids = users_by_seed(arms)
    rows = sorted({len(ids) for ids in user_ids.values()})
    users = len(np.unique(np.concatenate(list(user_ids.values()))))
    impressions = f"{rows[0]:,}" if len(rows) == 1 else f"{rows[0]:,} to {rows[-1]:,}"
    return "\n".join([
        f"### AUC in points (x 100), and the difference over {baseline}", "",
        arm_table(arms, cells, scores, baseline, by_key), "",
        "Mean over seeds; in brackets the difference ± its standard error over paired seeds. "
        f"{impressions} impressions per run, of {users:,} users.", "",
        "### Contrasts", "",
        contrast_table(differences, primary), "",
        "Bold: primary cells. Seeds: paired t-test. Users: paired bootstrap clustered by user "
        f"({draws} draws, seed {seed}; its p is at least {2 / (draws + 1):.2g}), differences "
        "averaged over seeds. Holm: over the primary cells of all contrasts above."])


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders of all arms")
    parser.add_argument("--baseline", required=True, metavar="ARM")
    parser.add_argument("--contrast", action="append", default=[], metavar="A:B",
                        help="also compare arm A with arm B; may be repeated")
    parser.add_argument("--primary", default="ctr:all ctr:new", metavar="CELLS",
                        help="cells that Holm's correction is over (default: %(default)r)")
    parser.add_argument("--bootstrap", type=int, default=1000, metavar="B",
                        help="draws of users (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the draws (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.bootstrap < 1:
        parser.error("--bootstrap must be at least 1")
    return options


def show_progress(done, total):
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\r{done}/{total} cells", end=end, file=sys.stderr, flush=True)


def main(arguments=None):
    options = parse_arguments(arguments)
    try:
        arms = read_runs(options.runs)
        pairs = contrasts_of(arms, options.baseline, options.contrast)
        cells = cells_of(next(iter(arms[options.baseline].values())))
        primary = primary_cells(options.primary, cells)
        scores = score(arms, cells, options.bootstrap, options.seed, show_progress)
        differences = [difference(arms, scores, a, b, cell) for a, b in pairs for cell in cells]
    except BadInput as error:
        print(f"compare_runs: {error}", file=sys.stderr)
        return 1
    correct(differences, primary)
    print(report(arms, cells, scores, differences, options.baseline, primary, options.bootstrap,
                 options.seed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
