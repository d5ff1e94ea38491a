"""Writes agreement.json: verdicts of a judge and of people, and what scikit-learn says of them.

    python agreement.py > agreement.json        # made with scikit-learn 1.9
"""

import json
import math
import random

from sklearn.metrics import accuracy_score, cohen_kappa_score

drawn = random.Random(7)


def case(pairs, judge, human):
    """An answer of the judge without a verdict is one of its own kind, `none`."""
    kappa = cohen_kappa_score(judge, human) if len({*judge, *human}) > 1 else math.nan
    agreement = accuracy_score(human, judge)
    return {
        "pairs": pairs,
        "judge": judge,
        "human": human,
        "agreement": agreement,
        "kappa": None if math.isnan(kappa) else kappa,
    }


def draw(labels, share):
    """Verdicts of which about a share are the same, and a tenth of the judge's are none."""
    human = [drawn.choice(labels[:-1]) for _ in range(60)]
    other = [drawn.choice(labels) for _ in human]
    return [h if drawn.random() < share else o for h, o in zip(human, other)], human


single = ["right", "wrong", "none"]
pairs = ["response", "reference", "tie", "none"]
cases = [
    case(False, ["right", "wrong", "right", "none"], ["right", "wrong", "wrong", "right"]),
    case(False, ["right", "wrong"], ["wrong", "right"]),
    case(False, ["right", "right"], ["right", "right"]),
    case(False, *draw(single, 0.7)),
    case(False, *draw(single, 0.0)),
    case(True, ["response", "tie", "reference", "none"], ["response", "tie", "response", "tie"]),
    case(True, *draw(pairs, 0.6)),
]
print("[\n" + ",\n".join(map(json.dumps, cases)) + "\n]")
