"""What may be searched: latent spaces (inner search) and audit grids (outer search)."""

from search_spaces.latent import GaussianLatentSpace, LatentSpace, TanhLatentSpace, make_space

__all__ = ["GaussianLatentSpace", "LatentSpace", "TanhLatentSpace", "make_space"]
