"""One of several processes that index a corpus together: `index_shard.py TOKENS FOLDER` with RANK and WORLD_SIZE."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from test_index import D, make_ensemble

from sae_core.browse.indexing import build_index_shard, shard_bounds

if __name__ == "__main__":
    tokens, folder = int(sys.argv[1]), Path(sys.argv[2])
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    acts_TD = torch.randn(tokens, D, generator=torch.Generator().manual_seed(3))
    start, stop = shard_bounds(tokens, rank, world)
    read = lambda first, end: acts_TD[first:end]  # noqa: E731
    build_index_shard(make_ensemble("topk", "residual"), read, start, stop, folder / f"shard_{rank}")
