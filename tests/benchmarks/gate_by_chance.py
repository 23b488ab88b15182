"""How often an adapter equal to its reference passes the gate's first rule by chance, by the number of documents:

python tests/benchmarks/gate_by_chance.py

Both models' error rates on a document are drawn from the same distribution around the document's difficulty; a document
has 1,000 to 8,000 characters. With an exact 95 % interval this would happen in 2.5 % of the evaluations.
"""

import numpy as np

from components.shared.scoring.statistics import DocumentBootstrap

DOCUMENTS = (2, 3, 5, 8, 10, 15, 20, 40)
EVALUATIONS, RESAMPLES = 4000, 1000


def passes(bootstrap: DocumentBootstrap, random: np.random.Generator) -> bool:
    """Return whether the improvement's interval is above 0 in one evaluation of two equal models."""
    difficulty = random.gamma(2, 0.03, bootstrap.documents)
    lengths = random.integers(1000, 8001, bootstrap.documents)
    base, adapter = (
        np.minimum(lengths, random.poisson(random.gamma(3, difficulty / 3) * lengths)).tolist() for _ in range(2)
    )
    interval = bootstrap.compare(base, adapter, lengths.tolist()).difference_interval
    return interval is not None and interval[0] > 0


def main() -> None:
    for documents in DOCUMENTS:
        random = np.random.default_rng(documents)
        bootstrap = DocumentBootstrap([str(number) for number in range(documents)], RESAMPLES, 0)
        passed = sum(passes(bootstrap, random) for _ in range(EVALUATIONS))
        print(f"{documents:3} documents: {100 * passed / EVALUATIONS:4.1f} %", flush=True)


if __name__ == "__main__":
    main()
