"""Matches between keypoints of one picture and the similarity transforms that groups of them agree on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import betainc

from vision_service.tools.spatial.keypoints import Keypoints

FloatArray = npt.NDArray[np.float32]

NEIGHBOURS = 4
"""Nearest neighbours of each keypoint that become matches: a region may be copied several times."""
DISTANCE = 0.45
"""Largest RootSIFT distance of a match."""
MIN_SHIFT_PX = 24.0
"""Keypoints nearer than this describe overlapping neighbourhoods."""
MAX_MATCHES = 2400
ANGLE_TOLERANCE = 0.35
LOG_SCALE_TOLERANCE = 0.35


@dataclass(frozen=True, eq=False)
class Matches:
    """M directed matches from a point to its likeness."""

    source: FloatArray
    """Shape (M, 2), pixels."""
    target: FloatArray
    """Shape (M, 2), pixels."""
    rotation: FloatArray
    """Shape (M,), radians from source to target."""
    log_scale: FloatArray
    """Shape (M,), natural log of the scale from source to target."""

    def __len__(self) -> int:
        return len(self.rotation)


@dataclass(frozen=True, eq=False)
class Cluster:
    """Matches that agree on one transform."""

    transform: npt.NDArray[np.float64]
    """Shape (2, 3): target = A source + b, pixels."""
    source: FloatArray
    target: FloatArray
    log10_nfa: float
    """Number of false alarms of so many agreeing matches, were matches random in position, angle and scale."""


def match(keypoints: Keypoints, device: torch.device) -> Matches:
    """Directed matches in both directions, nearest first, at most `MAX_MATCHES`.

    Complexity: N^2 similarities in slices of 1024 rows.
    """
    if len(keypoints) < 2:
        return _matches(keypoints, np.zeros((0, 2), np.int64))
    descriptors = torch.from_numpy(keypoints.descriptors).to(device)
    xy = torch.from_numpy(keypoints.xy).to(device)
    floor = 1.0 - DISTANCE**2 / 2
    found = []
    for start in range(0, len(keypoints), 1024):
        similarity = descriptors[start : start + 1024] @ descriptors.T
        near = torch.cdist(xy[start : start + 1024], xy) < MIN_SHIFT_PX
        value, index = similarity.masked_fill_(near, -1.0).topk(min(NEIGHBOURS, len(keypoints)), dim=1)
        row, column = torch.nonzero(value > floor, as_tuple=True)
        found.append(torch.stack([row + start, index[row, column]], 1).double())
        found[-1] = torch.cat([found[-1], value[row, column].double()[:, None]], 1)
    table = torch.cat(found).cpu().numpy()
    pairs = np.sort(table[:, :2].astype(np.int64), axis=1)
    unique, first = np.unique(pairs, axis=0, return_index=True)
    order = np.argsort(-table[first, 2], kind="stable")[: MAX_MATCHES // 2]
    chosen = unique[order]
    return _matches(keypoints, np.concatenate([chosen, chosen[:, ::-1]]))


def _matches(keypoints: Keypoints, pairs: npt.NDArray[np.int64]) -> Matches:
    i, j = pairs[:, 0], pairs[:, 1]
    turn = keypoints.angle[j] - keypoints.angle[i]
    return Matches(
        keypoints.xy[i],
        keypoints.xy[j],
        np.angle(np.exp(1j * turn)).astype(np.float32),
        np.log(keypoints.scale[j] / keypoints.scale[i]),
    )


def clusters(matches: Matches, area_px: int, most: int) -> list[Cluster]:
    """Groups of matches that agree on a similarity transform, largest first.

    Every match proposes its own transform (position, angle and scale of both its ends); the proposal with most
    support is refined by least squares, its matches and their mirror images are taken out, and so on.
    """
    count = len(matches)
    if count < 8:
        return []
    support = _support(matches)
    votes = support.sum(axis=1, dtype=np.int32)
    alive = np.ones(count, dtype=bool)
    half = count // 2
    found: list[Cluster] = []
    for _ in range(3 * most):
        seed = int(np.where(alive, votes, 0).argmax())
        if not alive[seed] or votes[seed] < 4 or len(found) == most:
            break
        transform, inliers = _refine(matches, support[seed] & alive, alive)
        taken = inliers | (support[seed] & alive)
        gone = (taken | np.roll(taken, half)) & alive
        alive &= ~gone
        votes -= support[:, gone].sum(axis=1, dtype=np.int32)
        if inliers.sum() >= 4:
            nfa = _log10_nfa(int(inliers.sum()), half, area_px)
            found.append(Cluster(transform, matches.source[inliers], matches.target[inliers], nfa))
    return found


def _support(matches: Matches) -> npt.NDArray[np.bool_]:
    """Boolean (M, M): whether the transform that row i proposes explains match j."""
    scale = np.exp(matches.log_scale) * np.exp(1j * matches.rotation)
    source = matches.source[:, 0] + 1j * matches.source[:, 1]
    target = matches.target[:, 0] + 1j * matches.target[:, 1]
    source, target, scale = (a.astype(np.complex64) for a in (source, target, scale))
    away = source[None, :] - source[:, None]
    error = np.abs(target[:, None] + scale[:, None] * away - target[None, :])
    agrees = error < 4.0 + 0.1 * np.abs(away)  # a keypoint's own angle and scale are good to about a tenth
    turn = np.abs(matches.rotation[:, None] - matches.rotation[None, :])
    agrees &= np.minimum(turn, 2 * np.pi - turn) < ANGLE_TOLERANCE
    agrees &= np.abs(matches.log_scale[:, None] - matches.log_scale[None, :]) < LOG_SCALE_TOLERANCE
    return np.asarray(agrees)


def _refine(
    matches: Matches, members: npt.NDArray[np.bool_], alive: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    transform = np.hstack([np.eye(2), np.zeros((2, 1))])
    for tolerance in (6.0, 3.0, 2.0, 2.0):
        if members.sum() < 2:
            break
        transform = similarity(matches.source[members], matches.target[members])
        error = np.linalg.norm(apply(transform, matches.source) - matches.target, axis=1)
        members = alive & (error < tolerance)
    return transform, members


def similarity(source: FloatArray, target: FloatArray) -> npt.NDArray[np.float64]:
    """Least squares similarity transform (rotation, scale, translation), shape (2, 3)."""
    z = source[:, 0].astype(np.float64) + 1j * source[:, 1]
    w = target[:, 0].astype(np.float64) + 1j * target[:, 1]
    dz, dw = z - z.mean(), w - w.mean()
    energy = float((np.abs(dz) ** 2).sum())
    a = complex((dz.conj() * dw).sum() / energy) if energy > 0 else 1 + 0j
    b = complex(w.mean() - a * z.mean())
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def apply(transform: npt.NDArray[np.float64], xy: FloatArray) -> npt.NDArray[np.float64]:
    """Transforms points, shape (N, 2)."""
    return np.asarray(xy @ transform[:, :2].T + transform[:, 2])


def _log10_nfa(agreeing: int, count: int, area_px: int) -> float:
    """count^2 proposals; each other match agrees by chance when its end falls into the tolerance disc and its
    angle and scale (uniform over two octaves) fall into theirs.
    """
    p = min(0.5, np.pi * 2.0**2 / area_px * (ANGLE_TOLERANCE / np.pi) * (LOG_SCALE_TOLERANCE / np.log(2)))
    tests = 2 * np.log10(max(count, 2))
    tail = betainc(agreeing - 1, max(count - agreeing, 0) + 1, p)
    return float(tests + np.log10(max(float(tail), 1e-300)))
