"""Speed of the metrics for 1,000 pages of 2,000 characters, compared with libraries that give the same values:

python tests/benchmarks/metric_speed.py
"""

import random
import time
from collections.abc import Callable

import jiwer
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from components.evaluate.scoring.metric_module import load_metric
from components.evaluate.scoring.metrics import unicode_words

PAGES, CHARACTERS, ROUGE_PAGES = 1000, 2000, 100


class UnicodeWords:
    def tokenize(self, text: str) -> list[str]:
        return unicode_words(text)


def pages() -> tuple[list[str], list[str]]:
    """Return labels and readings in which 3 % of the characters are wrong."""
    generator = random.Random(0)
    vocabulary = ["".join(generator.choices("abcdefghijklmnop", k=generator.randint(2, 9))) for _ in range(3000)]
    labels = [" ".join(generator.choices(vocabulary, k=400))[:CHARACTERS].strip() for _ in range(PAGES)]
    readings = [
        "".join(letter if generator.random() > 0.03 else generator.choice("abcdef") for letter in label)
        for label in labels
    ]
    return labels, readings


def measured(name: str, figure: Callable[[], float]) -> None:
    started = time.process_time()
    value = figure()
    print(f"{name:34} {time.process_time() - started:6.2f} s of CPU   {value:.9f}", flush=True)


def main() -> None:
    labels, readings = pages()

    def ours(metric: str, key: str, count: int = PAGES) -> float:
        return float(load_metric(metric).compute(predictions=readings[:count], references=labels[:count])[key])

    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=UnicodeWords())
    few = list(zip(labels[:ROUGE_PAGES], readings[:ROUGE_PAGES], strict=True))
    ours("bleu", "bleu", 1)  # imports
    measured("CER", lambda: ours("cer", "cer"))
    measured("CER, jiwer", lambda: jiwer.cer(labels, readings))
    measured("WER", lambda: ours("wer", "wer"))
    measured("WER, jiwer", lambda: jiwer.wer(labels, readings))
    measured("ROUGE-1, -2, -L", lambda: ours("rouge", "rougeL"))
    measured(f"ROUGE, {ROUGE_PAGES} pages", lambda: ours("rouge", "rougeL", ROUGE_PAGES))
    measured(
        f"ROUGE, {ROUGE_PAGES} pages, rouge-score",
        lambda: sum(scorer.score(label, reading)["rougeL"].fmeasure for label, reading in few) / ROUGE_PAGES,
    )
    measured("BLEU", lambda: ours("bleu", "bleu"))
    measured("BLEU, sacrebleu", lambda: sacrebleu.corpus_bleu(readings, [labels], force=True).score)
    measured("chrF", lambda: ours("chrf", "chrf"))
    measured("chrF, sacrebleu", lambda: sacrebleu.corpus_chrf(readings, [labels]).score)


if __name__ == "__main__":
    main()
