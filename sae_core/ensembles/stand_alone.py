# type: ignore
"""Load an exported ensemble: load(folder)(acts_BD) gives (coefficients [B, N], reconstruction [B, D])."""

import functools, json, pathlib, torch, safetensors.torch  # noqa: E401, I001


def load(folder):  # noqa: D103
    folder = pathlib.Path(folder)
    if (folder / "cfg.json").exists():
        k = json.loads((folder / "cfg.json").read_text()).get("k")
        return functools.partial(sae, k=k, **safetensors.torch.load_file(folder / "sae_weights.safetensors"))
    about = json.loads((folder / "ensemble.json").read_text())
    members = [load(folder / name) for name in about["members"]]
    return lambda acts: ensemble(acts, members, about["weights"], about["wiring"] == "residual")


def sae(acts, k, W_enc, b_enc, W_dec, b_dec, threshold=0.0):  # noqa: D103
    pre = ((acts - b_dec) @ W_enc + b_enc).relu()
    coefs = pre * (pre > threshold) if k is None else torch.zeros_like(pre).scatter(1, *pre.topk(k)[::-1])
    return coefs, coefs @ W_dec + b_dec


def ensemble(acts, members, weights, in_turn):  # noqa: D103
    codes, recon = [], torch.zeros_like(acts)
    for member, weight in zip(members, weights, strict=True):
        coefs, part = member(acts - recon if in_turn else acts)
        codes, recon = [*codes, weight * coefs], recon + weight * part
    return torch.cat(codes, 1), recon
