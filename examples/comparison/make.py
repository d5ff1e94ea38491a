"""Makes answers.jsonl: sums that two prompts were asked for, 60 at each of five seeds. Some are wrong, by a formula.

    python examples/comparison/make.py
"""

import json
import pathlib

ARMS = {"plain": 62, "worked": 78}  # right in so many of a hundred, about


def answer(arm, seed, number, right):
    # What an item is like counts for both arms, the seed for each.
    hard = (number * 61) % 40
    luck = (number * 7919 + seed * 104729 + len(arm) * 31) % 61
    return right if hard + luck < ARMS[arm] else right + 1 + luck % 3


rows = []
for arm in ARMS:
    for seed in range(1, 6):
        for number in range(60):
            a, b = 10 + number, 7 + (number * 13) % 29
            rows.append({"arm": arm, "seed": seed, "id": f"sum-{number:02}", "prompt": f"{a} + {b} = ?",
                         "response": f"It is {answer(arm, seed, number, a + b)}.", "reference": str(a + b)})
text = "".join(json.dumps(row) + "\n" for row in rows)
pathlib.Path(__file__).with_name("answers.jsonl").write_text(text)
