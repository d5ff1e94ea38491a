"""Makes references.json: statistics of random and degenerate inputs, by SciPy, statsmodels and NumPy.

    pip install numpy==2.4.6 scipy==1.16.3 statsmodels==0.15.0 blake3==1.0.11
    python engine/tests/statistics/references.py

Options that matter: `wilcoxon` drops zeros (zero_method="wilcox"), has no correction for continuity, and is exact up to
50 differences without ties, else asymptotic; `mcnemar` is exact; `permutation_test` flips signs
(permutation_type="samples") and tries all of them.
"""

import json
import pathlib

import numpy as np
import scipy.stats as stats
from blake3 import blake3
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

FLIPS = 10_000
CASES = 220


def stream(purpose, seed):
    """The state of a stream of counter-based random numbers."""
    text = b""
    for field in [purpose.encode(), seed.to_bytes(8, "little")]:
        text += len(field).to_bytes(8, "little") + field
    return int.from_bytes(blake3(text).digest()[:8], "little")


def numbers(state, first, count):
    """The numbers of a stream by their place: the output function of SplitMix64 on a counter."""
    with np.errstate(over="ignore"):
        place = np.arange(first, first + count, dtype=np.uint64)
        z = np.uint64(state) + (place + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def below(state, first, count, n):
    return np.array([int(z) * n >> 64 for z in numbers(state, first, count)])


def unit(state, first, count):
    return (numbers(state, first, count) >> np.uint64(11)).astype(float) / 2.0**53


def two_way(columns, seeds, draws):
    """The draws of the mean over seeds of the mean over rows; columns[seed][row]."""
    of_rows, of_seeds = stream("compare rows", 0), stream("compare seeds", 0)
    rows = columns.shape[1]
    found = []
    for draw in range(draws):
        picked = below(of_rows, draw * rows, rows, rows)
        chosen = below(of_seeds, draw * seeds, seeds, seeds)
        found.append(columns[chosen][:, picked].mean())
    return np.array(found)


def sign_flip(differences):
    d = np.array([x for x in differences if x != 0.0])
    if len(d) == 0:
        return 1.0
    if len(d) <= 13:
        if len(d) == 1:  # SciPy wants two observations.
            return 1.0
        found = stats.permutation_test(
            (d,), lambda x, axis: np.sum(x, axis=axis), permutation_type="samples",
            n_resamples=np.inf, vectorized=True)
        return float(found.pvalue)
    words = -(-len(d) // 64)
    drawn = numbers(stream("compare signs", 0), 0, FLIPS * words).reshape(FLIPS, words)
    bits = (drawn[:, :, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    flipped = bits.reshape(FLIPS, -1)[:, : len(d)].astype(bool)
    sums = np.where(flipped, -d, d).sum(axis=1)
    slack = 1e-12 * np.abs(d).sum()
    observed = abs(d.sum()) - slack
    if observed <= 0:
        return 1.0
    return float((np.sum(np.abs(sums) >= observed) + 1) / (FLIPS + 1))


def wilcoxon(differences):
    d = np.array([x for x in differences if x != 0.0])
    if len(d) == 0:
        return None
    ties = len(np.unique(np.abs(d))) < len(d)
    method = "exact" if len(d) <= 50 and not ties else "asymptotic"
    found = stats.wilcoxon(d, zero_method="wilcox", correction=False, method=method)
    return [float(found.statistic), float(found.pvalue), method == "exact"]


def main():
    rng = np.random.default_rng(7)
    differences = [[0.0], [0.0] * 20, [1.0], [-1.0], [0.25] * 13, [0.25] * 14, [0.5, -0.5], [1.0] * 60,
                   [0.0, 0.0, 1.0, -1.0, 1.0], [1e-9, 2e-9, -3e-9], [1e12, -2e12, 3e12, 4.0]]
    while len(differences) < CASES:
        n, sort = int(rng.integers(1, 80)), len(differences) % 4
        d = rng.normal(rng.normal() / 3, 1, n)
        d = [d.round(4), (d * 2).round() / 4, np.sign(d.round()), np.exp(d).round(5) - 1.0][sort]
        differences.append([float(x) for x in d])
    paired = [{"differences": d, "sign_flip": sign_flip(d), "wilcoxon": wilcoxon(d)} for d in differences]

    pairs = [(0, 0), (0, 1), (1, 0), (5, 5), (0, 30), (1, 1000), (5000, 4800), (100000, 101000), (0, 2000)]
    while len(pairs) < CASES:
        size = int(rng.choice([3, 10, 60, 500]))
        pairs.append((int(rng.integers(0, size)), int(rng.integers(0, size))))
    tests = [{"first": a, "second": b, "p": float(mcnemar([[0, a], [b, 0]], exact=True).pvalue)} for a, b in pairs]

    values = [[0.0, 0.0], [1.0, 1.0, 1.0], [1.0, -1.0]]
    while len(values) < CASES:
        n = int(rng.integers(2, 15))
        values.append([float(x) for x in rng.normal(0.3, 10.0 ** rng.integers(-3, 2), n).round(6)])
    students = []
    for v in values:
        confidence = float(rng.choice([0.5, 0.8, 0.9, 0.95, 0.99, 0.999]))
        error = float(np.std(v, ddof=1) / np.sqrt(len(v)))
        half = float(stats.t.ppf(1 - (1 - confidence) / 2, len(v) - 1)) * error
        p = 1.0 if np.mean(v) == 0 else 0.0 if error == 0 else float(stats.ttest_1samp(v, 0).pvalue)
        students.append({"values": v, "confidence": confidence, "low": float(np.mean(v)) - half,
                         "high": float(np.mean(v)) + half, "p": p})

    families = [[0.5], [0.0, 0.0], [1.0, 1.0], [0.01] * 5, [0.04, 0.01, 0.03, 0.02]]
    while len(families) < CASES:
        p = rng.uniform(0, 1, int(rng.integers(1, 12))) ** 3
        families.append([float(x) for x in p.round(6)])
    holm = [{"p": p, "corrected": [float(x) for x in multipletests(p, method="holm")[1]]} for p in families]

    shares = [(0, 1), (1, 1), (0, 400), (400, 400), (200, 400), (0.4, 3)]
    while len(shares) < CASES:
        n = int(rng.integers(1, 2000))
        shares.append((float(rng.integers(0, 4 * n + 1)) / 4, n))
    wilson = []
    for count, n in shares:
        confidence = float(rng.choice([0.8, 0.9, 0.95, 0.99]))
        low, high = proportion_confint(count, n, alpha=1 - confidence, method="wilson")
        other = float(rng.integers(0, n + 1)) if count not in (0, n) else float(count)
        ends = confint_proportions_2indep(count, n, other, n, method="newcomb", compare="diff", alpha=1 - confidence)
        wilson.append({"share": count / n, "n": n, "confidence": confidence, "low": float(max(low, 0.0)),
                       "high": float(min(high, 1.0)), "other": other / n,
                       "difference": [float(x) for x in ends]})

    bootstrap, draws = [], 60
    shapes = [(1, 1), (1, 5), (30, 1), (7, 2)]
    while len(shapes) < CASES:
        shapes.append((int(rng.integers(1, 41)), int(rng.integers(1, 12))))
    for case, (rows, seeds) in enumerate(shapes):
        # Every fourth has no spread, every fourth is of right and wrong.
        v = unit(stream("values", case), 0, rows * seeds).reshape(seeds, rows)
        v = [v, v, (v < 0.5) * 1.0 - (v > 0.9) * 1.0, v * 0.0 + 0.5][case % 4]
        found = two_way(v, seeds, draws)
        bootstrap.append({"rows": rows, "seeds": seeds, "draws": draws,
                          "low": float(np.quantile(found, 0.025)), "high": float(np.quantile(found, 0.975)),
                          "deviation": float(found.std(ddof=1))})

    # Two populations, and a statistic that is not a mean: 100 * (mean_0 / mean_1 - 1), averaged over the drawn seeds.
    expressions = []
    for case in range(40):
        rows, seeds = [int(rng.integers(2, 30)), int(rng.integers(2, 30))], int(rng.integers(1, 8))
        sets = [unit(stream("values", 1000 + 2 * case + k), 0, rows[k] * seeds).reshape(seeds, rows[k]) + 0.5
                for k in range(2)]
        found = []
        for draw in range(draws):
            chosen = below(stream("compare seeds", 0), draw * seeds, seeds, seeds)
            means = [sets[k][chosen][:, below(stream("compare rows", k), draw * rows[k], rows[k], rows[k])].mean(axis=1)
                     for k in range(2)]
            found.append((100 * (means[0] / means[1] - 1)).mean())
        expressions.append({"rows": rows, "seeds": seeds, "draws": draws,
                            "low": float(np.quantile(found, 0.025)), "high": float(np.quantile(found, 0.975))})

    normal = [{"p": p, "x": float(stats.norm.ppf(p))} for p in
              [1e-12, 1e-6, 0.025, 0.2, 0.5, 0.8, 0.9, 0.975, 0.9995, 1 - 1e-9]]
    document = {"paired": paired, "mcnemar": tests, "student": students, "holm": holm, "wilson": wilson,
                "bootstrap": bootstrap, "expressions": expressions, "normal": normal}
    path = pathlib.Path(__file__).with_name("references.json")
    lines = [f"{json.dumps(name)}: [\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]"
             for name, cases in document.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


main()
