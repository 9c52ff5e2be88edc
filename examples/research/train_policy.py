"""Trains a linear policy with CMA-ES of the library pycma: `python train_policy.py GENERATIONS`.

It begins as `joint`, the lowest exact marginal J, and may only become better on the days it sees.
"""

import sys

import cma
import gymnasium
import numpy as np

NAME = "testbed.environment:gcos/SiteScheduling-v0"
env = gymnasium.make(NAME, scenario="examples/day.toml", weeks=["2021-01-04", "2021-07-05"])


def joint_usd(weights: np.ndarray, seeds: range = range(2)) -> float:
    """Return the mean J of days in which the highest weighted sum of features wins."""
    total_usd = 0.0
    for seed in seeds:
        observation, _ = env.reset(seed=seed)
        is_over = False
        while not is_over:
            scores = observation["observation"] @ weights
            chosen = np.where(observation["action_mask"] == 1, scores, -np.inf).argmax()
            observation, reward, is_over, _, _ = env.step(chosen)
            total_usd -= float(reward)
    return total_usd / len(seeds)


joint = np.array([-1.0] + [0.0] * 23)
search = cma.CMAEvolutionStrategy(joint, 0.1, {"seed": 1, "popsize": 4, "verbose": -9})
for generation in range(int(sys.argv[1]) if len(sys.argv) > 1 else 20):
    asked = search.ask()
    search.tell(asked, [joint_usd(weights) for weights in asked])
    print(f"generation {generation}: best so far {search.best.f:.2f} $", flush=True)
best = min((joint, search.best.x), key=joint_usd)
print(f"days seen:   {joint_usd(best):.2f} $, joint {joint_usd(joint):.2f} $")
unseen = range(100, 104)
print(f"days unseen: {joint_usd(best, unseen):.2f} $, joint {joint_usd(joint, unseen):.2f} $")
