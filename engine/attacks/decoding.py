"""What the numbers of a latent are: the images' latents, then what says which classes they have."""

from dataclasses import dataclass

from torch import Tensor

from engine.attacks.knowledge import ThreatKnowledge


@dataclass(frozen=True)
class Decoder:
    """Takes latents apart, and makes their images.

    A latent is that of each of a candidate's ``B`` images, one after the other, ``B * latent_dim``
    numbers. Where the classes are not certain, behind them is the place of the candidate's own
    among hypotheses; where they are searched jointly, ``B * K`` numbers whose softmax they are.

    Attributes:
        knowledge: What the attacker may use.
        hypotheses: The classes that the images may have, ``(hypotheses, B)``.
        joint: Whether the latents have them instead.
    """

    knowledge: ThreatKnowledge
    hypotheses: Tensor
    joint: bool = False

    @property
    def images(self) -> int:
        """Images ``B`` of a candidate."""
        return self.hypotheses.shape[1]

    @property
    def dim(self) -> int:
        """Numbers that the images' latents have, ``B * latent_dim``."""
        return self.images * self.knowledge.latent_dim

    def own(self, latents: Tensor) -> Tensor:
        """Returns what latents ``(C, d)`` have of the images alone, ``(C, B * latent_dim)``."""
        return latents[:, : self.dim]

    def codes(self, latents: Tensor) -> Tensor:
        """Returns the latents of all images, ``(C * B, latent_dim)``."""
        return self.own(latents).reshape(-1, self.knowledge.latent_dim)

    def labels(self, latents: Tensor) -> Tensor:
        """Returns the labels of all images: ``(C * B,)``, or joint ones ``(C * B, K)``."""
        rest = latents[:, self.dim :]
        if self.joint and rest.shape[1]:
            return rest.reshape(-1, self.knowledge.classes).softmax(1)
        if not rest.shape[1]:
            return self.hypotheses[0].expand(len(latents), -1).flatten()
        return self.hypotheses[rest[:, 0].long()].flatten()

    def classes(self, latents: Tensor) -> Tensor:
        """Returns the most likely class of all images, ``(C * B,)``."""
        labels = self.labels(latents)
        return labels if labels.ndim == 1 else labels.argmax(1)

    def generate(self, latents: Tensor) -> Tensor:
        """Returns the images ``(C * B, ch, H, W)`` of latents ``(C, d)``."""
        return self.knowledge.generate(self.codes(latents), self.classes(latents))
