"""Trains a classifier on labelled images: a target model, or the evaluation classifier."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from engine.seeding import stream_seed


def train_classifier(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epochs: int,
    seed: int,
    device: torch.device,
    batch_size: int = 128,
    learning_rate: float = 2e-3,
    on_batch: Callable[[], None] = lambda: None,
) -> None:
    """Trains ``model`` in place with Adam and a cosine decay, and leaves it in evaluation mode.

    Args:
        model: Images ``(N, ch, H, W)`` in [0, 1] to logits ``(N, K)``.
        images: Training images ``(N, ch, H, W)`` as uint8.
        labels: Their classes ``(N,)``.
        epochs: Passes over the images.
        seed: Seeds the order of the images.
        device: Where to train.
        batch_size: Images a step.
        learning_rate: Adam's, at the start.
        on_batch: Called after every step.
    """
    model.train().to(device)
    optimizer = torch.optim.Adam(model.parameters(), learning_rate)
    steps = epochs * -(-len(images) // batch_size)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    rng = torch.Generator().manual_seed(stream_seed(seed, "order"))
    for _ in range(epochs):
        for rows in torch.randperm(len(images), generator=rng).split(batch_size):
            batch = images[rows].to(device) / 255
            loss = nn.functional.cross_entropy(model(batch), labels[rows].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            on_batch()
    model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Returns the share of uint8 images ``(N, ch, H, W)`` that ``model`` classifies rightly."""
    device = next(model.parameters()).device
    hits = [
        (model(batch.to(device) / 255).argmax(1).cpu() == truth).float()
        for batch, truth in zip(images.split(1000), labels.split(1000), strict=True)
    ]
    return float(torch.cat(hits).mean())
