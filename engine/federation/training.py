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
    augmented: bool = False,
    mixed_precision: bool = False,
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
        augmented: Whether half of the images are mirrored and each is shifted, by up to an eighth
            of its side, its edge repeated.
        mixed_precision: Whether products are done in bfloat16.
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
            if augmented:
                batch = _augmented(batch, rng)
            with torch.autocast(device.type, torch.bfloat16, enabled=mixed_precision):
                logits = model(batch)
            loss = nn.functional.cross_entropy(logits.float(), labels[rows].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            on_batch()
    model.eval()


def _augmented(images: Tensor, rng: torch.Generator) -> Tensor:
    """Returns images ``(N, ch, H, W)`` mirrored and shifted at random."""
    count, _, height, width = images.shape
    mirrored = (torch.rand(count, generator=rng) < 0.5).to(images.device)
    images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    down, right = height // 8, width // 8
    padded = nn.functional.pad(images, (right, right, down, down), mode="replicate")
    tops = torch.randint(0, 2 * down + 1, (count,), generator=rng)
    lefts = torch.randint(0, 2 * right + 1, (count,), generator=rng)
    rows = (tops[:, None] + torch.arange(height)).to(images.device)
    columns = (lefts[:, None] + torch.arange(width)).to(images.device)
    each = torch.arange(count, device=images.device)[:, None, None]
    # Indices around a slice put its axis last.
    return padded[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Returns the share of uint8 images ``(N, ch, H, W)`` that ``model`` classifies rightly."""
    device = next(model.parameters()).device
    hits = [
        (model(batch.to(device) / 255).argmax(1).cpu() == truth).float()
        for batch, truth in zip(images.split(1000), labels.split(1000), strict=True)
    ]
    return float(torch.cat(hits).mean())
