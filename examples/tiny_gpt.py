"""What `char_language_model.py` trains: a small transformer, and the text that it reads.

The text is the language reference that comes with Python (`pydoc_data`): nothing is downloaded.
Characters are those of ASCII, each its own token.
"""

from __future__ import annotations

from collections.abc import Iterator
from pydoc_data.topics import topics

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

CHARACTERS = 128
CONTEXT = 64  # characters that the model sees at once
Batch = tuple[Tensor, Tensor]


class Block(nn.Module):
    """One layer: attention to what came before, then a network of two layers."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_network = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.network = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map `(batch, length, width)` to the same shape."""
        x = x + self.attention(self.before_attention(x))
        return x + self.network(self.before_network(x))  # type: ignore[no-any-return]  # torch's

    def attention(self, x: Tensor) -> Tensor:
        """Mix each position with those before it."""
        batch, length, width = x.shape
        parts = self.query_key_value(x).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(query, key, value, is_causal=True)
        projected: Tensor = self.projection(mixed.transpose(1, 2).reshape(batch, length, width))
        return projected


class TinyGPT(nn.Module):
    """A language model of about 110,000 weights; called with targets it returns their loss."""

    def __init__(self, width: int = 64, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CHARACTERS, width)
        self.positions = nn.Parameter(0.02 * torch.randn(CONTEXT, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CHARACTERS)

    def scores(self, tokens: Tensor) -> Tensor:
        """Return the scores of the next characters, `(batch, length, CHARACTERS)`."""
        x = self.embedding(tokens) + self.positions[: tokens.shape[1]]
        scores: Tensor = self.head(self.norm(self.blocks(x)))
        return scores

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss over all positions, in nats for each character."""
        return cross_entropy(self.scores(tokens).flatten(0, 1), targets.flatten())

    @torch.no_grad()
    def sample(self, start: str, length: int, temperature: float = 0.7) -> str:
        """Write on from `start`; uses random numbers of its own, not those of the training."""
        generator = torch.Generator().manual_seed(0)
        tokens = encode(start).unsqueeze(0)
        for _ in range(length):
            seen = tokens[:, -CONTEXT:].to(self.positions.device)
            chances = (self.scores(seen)[:, -1] / temperature).softmax(dim=1).cpu()
            tokens = torch.cat([tokens, chances.multinomial(1, generator=generator)], dim=1)
        return "".join(map(chr, tokens[0].tolist()))


def encode(text: str) -> Tensor:
    """Return the characters of a text as numbers, without those beyond ASCII."""
    return torch.tensor(list(text.encode("ascii", "ignore")))


def texts() -> tuple[Tensor, Tensor]:
    """Return the text to train on and, from its last tenth, the text to validate on."""
    text = encode("".join(topics[name] for name in sorted(topics)))
    cut = len(text) * 9 // 10
    return text[:cut], text[cut:]


def crops(
    text: Tensor, size: int, device: str = "cpu", generator: torch.Generator | None = None
) -> Iterator[Batch]:
    """Draw batches of random passages without end: characters, and those that follow them."""
    while True:
        starts = torch.randint(len(text) - CONTEXT, (size, 1), generator=generator)
        passages = text[starts + torch.arange(CONTEXT + 1)].to(device)
        yield passages[:, :-1], passages[:, 1:]
