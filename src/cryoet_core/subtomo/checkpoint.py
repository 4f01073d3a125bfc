"""The state of a refinement between two iterations, on disk: a killed run goes on where it was, to the bit.

One NumPy archive (never pickled) with a version, a fingerprint of everything that the state depends on, and a digest of its
own content. It is written beside the final name and renamed, so a run that is killed while writing keeps the state before.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cryoet_core.backend import asnumpy
from cryoet_core.errors import DataQualityError, UserInputError
from cryoet_core.io.atomic import write_bytes
from cryoet_core.subtomo.poses import Poses

VERSION = 1


def fingerprint(*parts) -> str:
    """Digest of numbers, texts, dicts and arrays; arrays by shape, type and every byte."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.shape}{part.dtype.str}".encode())
            digest.update(np.ascontiguousarray(part).view(np.uint8).data)
        else:
            digest.update(json.dumps(part, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _changed(before: dict, now: dict) -> str:
    names = sorted(k for k in {*before, *now} if before.get(k) != now.get(k))
    return ", ".join(names)


@dataclass(frozen=True)
class Checkpoint:
    """Where the state of one refinement is kept. identity : name -> value (JSON) of all that it depends on."""

    path: Path
    identity: dict

    def save(self, numbers: dict, arrays: dict) -> None:
        """Keep ``arrays`` (name -> host array) and ``numbers`` (JSON; floats keep every bit)."""
        head = {
            "version": VERSION,
            "identity": self.identity,
            "numbers": numbers,
            "digest": fingerprint(*(arrays[k] for k in sorted(arrays))),
        }
        buffer = io.BytesIO()
        np.savez(buffer, head=np.frombuffer(json.dumps(head).encode(), np.uint8), **arrays)
        write_bytes(self.path, buffer.getvalue())

    def load(self):
        """(numbers, arrays) as they were saved, or None when there is no checkpoint.

        Raises
        ------
        DataQualityError E-CKP-01 when the file cannot be read or its digest does not fit; UserInputError E-CKP-02 when it
        belongs to other settings, particles, images or another reference.
        """
        if not self.path.exists():
            return None
        try:
            with np.load(io.BytesIO(self.path.read_bytes()), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files if name != "head"}
                head = json.loads(file["head"].tobytes())
            whole = head["digest"] == fingerprint(*(arrays[k] for k in sorted(arrays)))
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise self._broken(error) from error
        if not whole:
            raise self._broken("its digest does not fit")
        if head["version"] != VERSION or head["identity"] != json.loads(json.dumps(self.identity)):
            raise UserInputError(
                "E-CKP-02",
                "the checkpoint belongs to another refinement",
                file=self.path,
                field=_changed(head["identity"], json.loads(json.dumps(self.identity))) or "version",
                found="other values than now",
                fix="set them back to go on with it, or move this file away to start anew",
            )
        return head["numbers"], arrays

    def _broken(self, why):
        return DataQualityError(
            "E-CKP-01",
            "the checkpoint cannot be read",
            file=self.path,
            found=str(why),
            fix="delete it: the refinement then starts anew",
        )

    def remove(self) -> None:
        """Forget the state (the refinement is done)."""
        if self.path.exists():
            os.unlink(self.path)


def refinement_identity(series, half_set, reference, settings, rotations, version: int) -> dict:
    """What a refinement depends on, key by key: every setting, and digests of its data.

    series : list of SeriesImages; reference, rotations : host arrays or None.
    """
    images = [x for s in series for x in (s.rows, s.view_rotations, asnumpy(s.masked), asnumpy(s.unmasked), asnumpy(s.ctf))]
    images += [asnumpy(x) for s in series for x in (s.strength_of, s.multiplicity) if x is not None]
    return {
        **{name: value for name, value in settings.__dict__.items()},
        "algorithm": version,
        "particle images": fingerprint(*images),
        "half sets": fingerprint(np.asarray(half_set)),
        "reference": fingerprint(asnumpy(reference)),
        "starting orientations": fingerprint(*(() if rotations is None else (np.asarray(rotations),))),
    }


# ---- the state of refine.refine ---------------------------------------------------------------------------------

_STATE = (
    "max_shell", "sampling_deg", "search", "offset_range_px", "offset_sigma_px", "stalled", "best", "converged",
)
_POSES = ("particle", "rotations", "shifts_px", "score")
_FACTORS = ("amplitude", "noise_factor")


def save_refinement(checkpoint: Checkpoint, state, groups, sigma2, references, iterations) -> None:
    """Keep what the next iteration needs."""
    arrays = {f"reference{h}": asnumpy(r) for h, r in enumerate(references)}
    arrays |= {f"sigma2_{i}": asnumpy(s) for i, s in enumerate(sigma2)}
    for i, group in enumerate(groups):
        arrays |= {f"group{i}_{name}": getattr(group.poses, name) for name in _POSES}
        factors = {name: getattr(group.images, name, None) for name in _FACTORS}
        arrays |= {f"group{i}_{name}": asnumpy(v) for name, v in factors.items() if v is not None}
    values = {name: getattr(state, name) for name in _STATE}
    numbers = {"state": {k: v.item() if isinstance(v, np.generic) else v for k, v in values.items()}}
    numbers["iterations"] = [i.numbers() for i in iterations]
    checkpoint.save(numbers, arrays)


def restore_refinement(checkpoint: Checkpoint | None, state, groups, xp):
    """Bring ``state`` and ``groups`` to where they were -> (sigma2, references, numbers of the iterations) or None."""
    kept = None if checkpoint is None else checkpoint.load()
    if kept is None:
        return None
    numbers, arrays = kept
    for name in _STATE:
        setattr(state, name, numbers["state"][name])
    for i, group in enumerate(groups):
        group.poses = Poses(*(arrays[f"group{i}_{name}"] for name in _POSES))
        factors = {name: arrays[f"group{i}_{name}"] for name in _FACTORS if f"group{i}_{name}" in arrays}
        if factors:
            group.images = replace(group.images, **factors)
    n_series = sum(name.startswith("sigma2_") for name in arrays)
    sigma2 = [arrays[f"sigma2_{i}"] for i in range(n_series)]
    references = [xp.asarray(arrays[f"reference{h}"]) for h in (0, 1)]
    return sigma2, references, numbers["iterations"]
