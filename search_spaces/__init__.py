"""What may be searched: latent spaces (inner search) and audit grids (outer search)."""

from search_spaces.latent import LatentSpace, Source
from search_spaces.latent_spaces import GaussianLatentSpace, TanhLatentSpace, make_space

__all__ = ["GaussianLatentSpace", "LatentSpace", "Source", "TanhLatentSpace", "make_space"]
