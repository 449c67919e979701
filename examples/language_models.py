"""A small language model learns from two others: kd_loss on (batch, tokens, vocabulary) logits.

Two languages share a vocabulary and differ in which word follows which. Each teacher knows one of
them; the student learns both, and sees from the first word which it is. Padding has the
label -100, which the loss leaves out. Each loss is a sum divided by the number of labels that
count, as gradient accumulation requires, because batches have different amounts of padding.
"""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from edufast.ops import kd_loss

torch.manual_seed(0)
WORDS, LENGTH, IGNORED = 64, 16, -100
# Row: a word; column: the log probability of the word after it.
LANGUAGES = [(2.5 * torch.randn(WORDS, WORDS)).log_softmax(1) for _ in range(2)]


def batch(size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Words (B, L), which word follows each (B, L), and the languages (B,)."""
    language = torch.randint(0, 2, (size,))
    words = [language]  # words 0 and 1 begin a text and name its language
    for _ in range(LENGTH):
        chances = torch.stack(LANGUAGES)[language, words[-1]].exp()
        words.append(torch.multinomial(chances, 1)[:, 0])
    text = torch.stack(words, 1)
    ends = torch.randint(LENGTH // 2, LENGTH + 1, (size, 1))
    labels = text[:, 1:].masked_fill(torch.arange(LENGTH) >= ends, IGNORED)
    return text[:, :-1], labels, language


class Student(nn.Module):
    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, width)
        self.body = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, WORDS)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.embed(words))[0])


def from_labels(logits, words, labels, language):
    return cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")


def from_teachers(logits, words, labels, language):
    teachers = [table[words] for table in LANGUAGES]  # (B, L, words); a model's logits otherwise
    knows = torch.nn.functional.one_hot(language, 2)[:, None].expand(-1, LENGTH, -1)
    return kd_loss(
        logits, teachers, labels, temperature=1.0, alpha=0.1, weighting=knows, reduction="sum"
    )


for name, loss_of in (("labels", from_labels), ("teachers", from_teachers)):
    student = Student()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
    for _ in range(200):
        words, labels, language = batch(32)
        loss = loss_of(student(words), words, labels, language) / (labels != IGNORED).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    words, labels, language = batch(500)
    loss = from_labels(student(words), words, labels, language) / (labels != IGNORED).sum()
    print(f"taught by {name}: perplexity {loss.exp():.1f}")
