"""Decoders whose probabilities a test writes down."""

from __future__ import annotations

import torch
from torch import Tensor

from captioner.decoders import State, Step
from captioner.memory import Memory
from captioner.search.config import SearchConfig
from captioner.text.vocabulary import BOS, EOS, PAD, UNK


class Scripted:
    """A decoder whose next word's probabilities are given by image, step and last word, (images, steps, words, words).

    Attributes:
        calls: images and hypotheses of each step.
    """

    def __init__(self, *probabilities: Tensor) -> None:
        self.logits = torch.stack(probabilities).double().log()
        self.calls: list[tuple[int, int]] = []

    def start(self, memory: Memory) -> State:
        first = torch.zeros(len(memory), 1, dtype=torch.long)
        return State({"step": first}, {"image": torch.arange(len(memory)).unsqueeze(1)})

    def step(self, tokens: Tensor, state: State) -> Step:
        self.calls.append((tokens.shape[0], tokens.shape[1]))
        step = state.hypotheses["step"]
        logits = self.logits[state.images["image"], step, tokens]
        return Step(logits, None, State({"step": step + 1}, state.images))

    def every_caption(self, config: SearchConfig) -> list[tuple[list[int], float, float, bool]]:
        """List the words, log-probability, score and end of all captions, the best first, unfinished ones last."""
        found = []
        open_ended = [([BOS], 0.0)]
        for t in range(config.max_words):
            longer = []
            for words, total in open_ended:
                for word, logit in enumerate(self.logits[0, t, words[-1]].log_softmax(-1).tolist()):
                    if logit > float("-inf") and word not in (PAD, BOS, UNK):
                        (found if word == EOS else longer).append(([*words, word], total + logit))
            open_ended = longer
        ended = [(w[1:-1], total, total / (len(w) - 1) ** config.length_normalisation, True) for w, total in found]
        cut = [(w[1:], total, total / (len(w) - 1) ** config.length_normalisation, False) for w, total in open_ended]
        return [*sorted(ended, key=lambda c: -c[2]), *sorted(cut, key=lambda c: -c[2])]


def slow_starter() -> Tensor:
    """Make a script that most probably ends at once, and else writes ``4`` four times, surely, and ends."""
    script = torch.zeros(8, 6, 6)
    script[0, :, EOS], script[0, :, 4], script[0, :, 5] = 0.5, 0.3, 0.2
    script[1:4, 4, 4] = 1
    script[4:, 4, EOS] = 1
    script[1:, 5, 5] = 1
    script[1:, EOS, EOS] = 1
    return script


def surely(*words: int) -> Tensor:
    """Make a script that writes these words and ends, after any words."""
    script = torch.zeros(8, 6, 6)
    script[..., EOS] = 1
    for step, word in enumerate(words):
        script[step] = torch.nn.functional.one_hot(torch.tensor(word), 6)
    return script
