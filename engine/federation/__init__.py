"""The victim's side: target models, the client protocol, captured updates, private images."""

from engine.federation.client import compute_update
from engine.federation.target_models import Head, find_head, make_target_model
from engine.federation.update import Update

__all__ = ["Head", "Update", "compute_update", "find_head", "make_target_model"]
