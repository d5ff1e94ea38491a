"""Writes embeddings.json: two sets of vectors, and figures of them by NumPy and SciPy.

    python3 reference.py > embeddings.json        # numpy 2.4.6, scipy 1.16.3
"""

import json

import numpy as np
from scipy.linalg import eigvalsh, sqrtm
from scipy.spatial.distance import cdist, pdist


def cosines(x):
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return x, x @ x.T


def vendi(k, q):
    p = eigvalsh(k / len(k))
    p = p[p > 1e-14]
    if q == 1:
        return float(np.exp(-(p * np.log(p)).sum()))
    return float(1 / (p**2).sum()) if q == 2 else float(1 / p.max())


def dcscore(k, temperature):
    e = np.exp(k / temperature)
    return float(np.trace(e / e.sum(1, keepdims=True)))


def frechet(x, y):
    s, t = np.cov(x.T, ddof=1), np.cov(y.T, ddof=1)
    m = x.mean(0) - y.mean(0)
    return float(m @ m + np.trace(s) + np.trace(t) - 2 * np.trace(sqrtm(s @ t)).real)


def mmd(x, y):
    z = np.concatenate([x, y])
    sigma = np.median(pdist(z))
    k = np.exp(-cdist(z, z, "sqeuclidean") / (2 * sigma**2))
    n, m = len(x), len(y)
    xx, yy, xy = k[:n, :n], k[n:, n:], k[:n, n:]
    return float((xx.sum() - n) / (n * (n - 1)) + (yy.sum() - m) / (m * (m - 1)) - 2 * xy.mean())


def within(x, y, k):
    radius = np.sort(cdist(y, y), axis=1)[:, k]
    return float((cdist(x, y) <= radius[None, :]).any(1).mean())


def case(name, x, y):
    unit, k = cosines(x)
    width = x.shape[1]
    rbf = np.exp(-0.5 * cdist(unit, unit, "sqeuclidean"))
    laplacian = np.exp(-cdist(unit, unit, "cityblock") / width)
    polynomial = (k / width + 1) ** 3
    n = len(x)
    figures = {
        "vendi": vendi(k, 1),
        "vendi_q2": vendi(k, 2),
        "vendi_qinf": vendi(k, 3),
        "cosine_distance": float(1 - (k.sum() - np.trace(k)) / (n * (n - 1))),
        "dcscore": {
            "{ kernel: cosine }": dcscore(k, 1),
            "{ temperature: 0.1 }": dcscore(k, 0.1),
            "{ kernel: rbf, gamma: 0.5, temperature: 0.2 }": dcscore(rbf, 0.2),
            "{ kernel: laplacian }": dcscore(laplacian, 1),
            "{ kernel: polynomial }": dcscore(polynomial, 1),
        },
        "frechet": frechet(x, y),
        "mmd": mmd(x, y),
        "neighbour_precision": within(x, y, 3),
        "neighbour_recall": within(y, x, 3),
        "neighbour_precision_1": within(x, y, 1),
        "nearest": [int(i) for i in np.argmax(k - 3 * np.eye(n), axis=1)],
    }
    return {"name": name, "data": x.tolist(), "against": y.tolist(), "figures": figures}


rng = np.random.default_rng(7)
wide = lambda rows, width, shift: (rng.standard_normal((rows, width)) + shift).astype(np.float32).round(4).astype(float)
print(json.dumps({"cases": [
    case("more rows than values", wide(41, 6, 0.0), wide(30, 6, 0.5)),
    case("fewer rows than values", wide(12, 20, 0.0), wide(40, 20, 0.3)),
    case("far apart", wide(17, 5, 0.0), wide(19, 5, 6.0)),
]}))
