"""Trials: each a latent search against a defended update, scored. Knows nothing of Ray or MLflow.

What a trial is given and what comes of it is in :mod:`engine.trial.parts`, the same as plain values
in :mod:`engine.trial.record`; :mod:`engine.trial.candidates` is for searches whose candidates are
proposed elsewhere.
"""

from engine.trial.trial import (
    DIFFERENTIATED,
    client_update,
    knowledge_of,
    observe,
    run_trial,
    run_trials,
    search_seed,
)

__all__ = [
    "DIFFERENTIATED",
    "client_update",
    "knowledge_of",
    "observe",
    "run_trial",
    "run_trials",
    "search_seed",
]
