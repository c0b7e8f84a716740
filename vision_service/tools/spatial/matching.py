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
MAX_PAIRS = 100_000
"""Most similar pairs kept per slice of `SLICE` keypoints; a regular pattern has millions."""
SLICE = 1024
_SUPPORT_ROWS = 64
"""Rows of the table of support worked out at once, so that its intermediates stay in the cache."""
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

    Complexity: N^2 / 2 similarities, in slices.
    """
    if len(keypoints) < 2:
        return _matches(keypoints, np.zeros((0, 2), np.int64))
    descriptors = torch.from_numpy(keypoints.descriptors).to(device)
    xy = torch.from_numpy(keypoints.xy).to(device)
    found = [
        _similar_pairs(descriptors, xy, start, min(start + SLICE, len(keypoints)))
        for start in range(0, len(keypoints), SLICE)
    ]
    table = torch.cat(found).cpu().numpy()
    table = table[np.argsort(-table[:, 2], kind="stable")]
    pairs = table[_first_of_each(table[:, 0], table[:, 1])][: MAX_MATCHES // 2, :2].astype(np.int64)
    return _matches(keypoints, np.concatenate([pairs, pairs[:, ::-1]]))


def _similar_pairs(descriptors: torch.Tensor, xy: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """Rows (i, j, similarity) with start <= i < stop, j > i, of similar keypoints that are not neighbours."""
    similarity = descriptors[start:stop] @ descriptors[start:].T
    i, j = torch.nonzero(similarity > 1.0 - DISTANCE**2 / 2, as_tuple=True)
    value = similarity[i, j]
    far = (j > i) & ((xy[start + i] - xy[start + j]).square().sum(dim=1) >= MIN_SHIFT_PX**2)
    rows = torch.stack([start + i[far], start + j[far]], dim=1).double()
    table = torch.cat([rows, value[far, None].double()], dim=1)
    if len(table) > MAX_PAIRS:
        table = table[table[:, 2].topk(MAX_PAIRS).indices]
    return table


def _first_of_each(i: npt.NDArray[np.float64], j: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Pairs among the first `NEIGHBOURS` of either of their keypoints."""
    kept = np.zeros(len(i), dtype=bool)
    for own in (i, j):
        order = np.argsort(own, kind="stable")
        starts = np.flatnonzero(np.r_[True, np.diff(own[order]) != 0]) if len(own) else np.zeros(0, np.int64)
        rank = np.arange(len(own)) - np.repeat(starts, np.diff(np.r_[starts, len(own)]))
        kept[order[rank < NEIGHBOURS]] = True
    return kept


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
    agrees = np.empty((len(matches), len(matches)), dtype=bool)
    for first in range(0, len(matches), _SUPPORT_ROWS):
        agrees[first : first + _SUPPORT_ROWS] = _support_rows(matches, slice(first, first + _SUPPORT_ROWS))
    return agrees


def _support_rows(matches: Matches, rows: slice) -> npt.NDArray[np.bool_]:
    scale = np.exp(matches.log_scale[rows])
    cosine, sine = ((scale * f(matches.rotation[rows]))[:, None] for f in (np.cos, np.sin))
    (x, y), (there_x, there_y) = matches.source.T, matches.target.T
    away_x, away_y = x - x[rows, None], y - y[rows, None]
    error_x = cosine * away_x - sine * away_y + (there_x[rows, None] - there_x)
    error_y = sine * away_x + cosine * away_y + (there_y[rows, None] - there_y)
    # a keypoint's own angle and scale are good to about a tenth
    tolerance = 4.0 + 0.1 * np.sqrt(away_x * away_x + away_y * away_y)
    agrees = error_x * error_x + error_y * error_y < tolerance * tolerance
    turn = np.abs(matches.rotation[rows, None] - matches.rotation)
    agrees &= np.minimum(turn, np.float32(2 * np.pi) - turn) < ANGLE_TOLERANCE
    agrees &= np.abs(matches.log_scale[rows, None] - matches.log_scale) < LOG_SCALE_TOLERANCE
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
