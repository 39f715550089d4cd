"""What must be the same for a training to be gone on with; where it computes may differ."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ofa_tvm.training.job import TrainingJob

_FREE = ("device", "threads", "compile", "checkpoint_every_s", "log")


def identity(job: TrainingJob, origin: Mapping[str, Any]) -> str:
    """Settings, seed, data and what the network starts from (`origin`), as JSON."""
    settings = job.config.to_dict()
    for free in _FREE:
        del settings[free]
    for phase in settings["phases"]:
        if not phase["quantize"]:
            del phase["quantize"]  # trainings that began before there was such a setting go on
    return json.dumps(
        {
            "config": settings,
            "seed": job.seed,
            "data": job.data.fingerprint,
            "labels": list(job.data.labels),
            **origin,
        },
        sort_keys=True,
    )
