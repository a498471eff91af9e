"""A task with a spurious attribute for the synthetic run, pooled and measured without a language model."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from sae_core.analysis.shared.names_in_tables import RANDOM
from sae_core.analysis.spurious.files import write_pooled
from sae_core.analysis.spurious.removal import PooledTask
from sae_core.analysis.spurious.runs import measure_pooled
from sae_core.analysis.spurious.tasks import GROUPS, SpuriousTask
from sae_core.ensembles.ensemble import load_ensemble
from sae_core.foundation.methods import control_name
from sae_core.foundation.run import Run

CONTROL = control_name("boosted")
TASK, SEEDS = "made <b>up</b>", [0, 1]
SAYS_S, SAYS_T = 3, 5
"""The features of every ensemble that mean S and T alone."""
FINGERPRINT = "0123456789abcdef"


def add_spurious_task(run: Run, *, seed: int = 0) -> PooledTask:
    """Write a pooled task and its figures into a run of `write_synthetic_run`."""
    chance = np.random.default_rng(seed)
    cells = [(t, s, test) for t, s in GROUPS for test in (False, True) for _ in range(40)]
    target_X, spurious_X, test_X = (np.array(column, dtype=bool) for column in zip(*cells, strict=True))
    texts = [
        f"{'she' if s else 'he'} {'teaches' if t else 'nurses'} <img src=x onerror=alert(1)> number {number}"
        for number, (t, s, _) in enumerate(cells)
    ]
    task = SpuriousTask(
        TASK, "Made up, with <i>signs</i>.", ("nurse", "teacher"), ("man", "woman"), texts, target_X, spurious_X, test_X
    )
    codes, marked = {}, {}
    atoms = {folder.name: load_ensemble(folder).dictionary.detach().numpy() for folder in run.ensembles()}
    d_in = next(iter(atoms.values())).shape[1]
    trained = set(atoms)
    for name, width in ((RANDOM, 24), (CONTROL, len(atoms["boosted"]))):
        random_ND = chance.standard_normal((width, d_in)).astype(np.float32)
        atoms[name] = random_ND / np.linalg.norm(random_ND, axis=1, keepdims=True)
    for name, atoms_MD in atoms.items():
        coefs_XM = (
            0.05 * chance.random((len(texts), len(atoms_MD))) * (chance.random((len(texts), len(atoms_MD))) < 0.3)
        )
        if name in trained:
            coefs_XM[:, SAYS_S] += 2.0 * spurious_X
            coefs_XM[:, SAYS_T] += 1.0 * target_X
        codes[name] = sparse.csr_array(coefs_XM.astype(np.float32))
        marked[name] = np.zeros(len(atoms_MD), dtype=np.float32)
        marked[name][SAYS_S] = 0.9
    name = next(iter(codes))
    acts_XD = codes[name] @ atoms[name] + 0.1 * chance.standard_normal((len(texts), d_in))
    untrained = {name: atoms_MD for name, atoms_MD in atoms.items() if name not in trained}
    pooled = PooledTask(task, acts_XD.astype(np.float32), codes, marked, untrained)
    write_pooled(run, pooled)
    own = {name: atoms[name] for name in trained}
    wanted = run.settings.evaluation.spurious_texts  # more than there are: all are taken
    known = {"seeds": SEEDS, "retrained": False, "texts": wanted, "fingerprint": FINGERPRINT, "read": {}}
    measure_pooled(run, task, pooled, own, known)
    return pooled
