"""What the Snakemake rules ask of a validated config: series, rounds, paths, params and resources.

Plain Python, so that it can be read and tested without Snakemake.
"""

from __future__ import annotations

import os
import re
from glob import escape as glob_escape
from glob import glob
from pathlib import Path

from cryoet_core.backend import gpu_available
from cryoet_core.config.averaging import AveragingRound
from cryoet_core.errors import UserInputError
from cryoet_core.io.picks import exported_name
from cryoet_core.tilt_series.exclude import read_selection_file, selection_from_file, selection_path

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


def _raw_files(source: dict) -> list[str]:
    return source["mdoc"] if source["kind"] == "mdoc" else [source["stack"]]


class Run:
    """One run of the workflow: a validated :class:`~cryoet_core.config.root.Config` and what follows from it."""

    def __init__(self, config):
        self.config = config
        self.simulated = config.data.simulate
        self._sources = self._find_sources()
        self.tilt_series = list(self._sources)
        self.rounds = [entry.name for entry in config.averaging]
        if len(set(self.rounds)) != len(self.rounds):
            raise UserInputError("E-CFG-04", "two averaging rounds have one name", field="averaging", found=self.rounds)
        self._check_rounds()
        self._check_picks()
        needed = config.match_template.picks is None or any(entry.reference == "template" for entry in config.averaging)
        if not self.simulated and config.data.reference is None and needed:
            raise UserInputError(
                "E-CFG-05", "no reference map is given", field="data.reference",
                fix="give the MRC file of a map of your particle",
            )
        self._check_alignments()
        self._check_ctf_files()
        self._check_files()
        self._check_results_folder()
        self._check_view_lists()

        if config.reconstruct_tomogram.ctf_3d != "none" and config.correct_ctf.mode != "none":
            raise UserInputError(
                "E-CFG-13", "the CTF would be corrected twice", field="reconstruct_tomogram.ctf_3d, correct_ctf.mode",
                found=f"{config.reconstruct_tomogram.ctf_3d}, {config.correct_ctf.mode}", expected="one of them none",
                fix="set correct_ctf.mode: none for 3-D correction while the tomogram is made",
            )

    def _check_files(self):
        """Every file that the config names is there: a run of hours should not end for one that is not."""
        data, config = self.config.data, self.config
        named = (
            {}
            if self.simulated
            else {f"data.{k}": getattr(data, k) for k in ("reference", "gain_reference", "defects")}
        )
        for number, entry in enumerate(config.averaging):
            named |= {f"averaging.{number}.postprocess.{k}": getattr(entry.postprocess, k) for k in ("mask", "mtf")}
        files = [(field, path) for field, path in named.items() if path]
        files += [("match_template.search_mask", path) for ts in self.tilt_series if (path := self.search_mask(ts))]
        files += [("data.tilts", s["tilts"]) for s in self._sources.values() if s.get("tilts")]
        if config.exclude_views.file and "{ts}" not in config.exclude_views.file:
            files.append(("exclude_views.file", config.exclude_views.file))
        for field, path in files:
            if not Path(path).is_file():
                raise UserInputError(
                    "E-CFG-16",
                    "this is a folder, not a file" if Path(path).is_dir() else "this file is missing",
                    file=path,
                    field=field,
                    expected="a file that is there",
                    fix="correct the path (it is relative to the folder the run is started in)",
                )
            if not os.access(path, os.R_OK):
                raise UserInputError(
                    "E-FILE-03",
                    "permission denied",
                    file=path,
                    field=field,
                    expected="a file this user may read",
                    fix="chmod u+r on the file, or ask its owner",
                )

    def _check_results_folder(self):
        """Results must not lie among the raw data, where a name could meet a user's file. The folder a run is started
        in may hold both."""
        if self.simulated:
            return
        results, here = Path(self.config.results_dir).resolve(), Path.cwd().resolve()
        folders = {Path(path).resolve().parent for source in self._sources.values() for path in _raw_files(source)}
        folders |= {
            Path(source["movies_dir"]).resolve() for source in self._sources.values() if source["kind"] == "mdoc"
        }
        for folder in sorted(folders):
            inside = results.is_relative_to(folder) and not here.is_relative_to(folder)
            if results == folder or inside:
                raise UserInputError(
                    "E-CFG-17",
                    "the results would lie inside the raw data",
                    field="results_dir",
                    found=f"{self.config.results_dir}, inside {folder}",
                    expected="another folder",
                    fix="set results_dir to a folder beside the data, for example results",
                )

    def _check_view_lists(self):
        """Names in exclude_views.file are series of this run's data; a name that is none would leave its bad views
        in, without a word."""
        path = self.config.exclude_views.file
        if not path or "{ts}" in path:
            return
        content = read_selection_file(path)
        unknown = (
            [str(name) for name in content if name not in self._found and name != "tilt_series"]
            if isinstance(content, dict)
            else []
        )
        if unknown:
            raise UserInputError(
                "E-CFG-18",
                "this list names series that the data do not have",
                file=path,
                field="exclude_views.file",
                found=", ".join(unknown[:5]),
                expected=f"names of {', '.join(list(self._found)[:5])}{' ...' if len(self._found) > 5 else ''}",
                fix="correct the names in the list",
            )
        for ts in self.tilt_series:
            selection_from_file(content, ts, path)

    def _check_rounds(self):
        """Every round must have a reference, in the frame of the angles it starts from."""
        frame = "the template"
        for number, entry in enumerate(self.config.averaging):
            if number == 0 and entry.reference == "previous":
                raise UserInputError(
                    "E-CFG-08", "the first averaging round has no previous one", field="averaging.0.reference",
                    found="previous", expected="initial_model or template",
                )
            frames = {"previous": frame, "template": "the template", "initial_model": f"the initial model of {entry.name}"}
            if entry.refine.start == "given_poses" and frames[entry.reference] != frame:
                raise UserInputError(
                    "E-CFG-14", "the angles that this round starts from belong to another map, which is turned otherwise than its reference",
                    field=f"averaging.{number}.refine.start", found=f"given_poses relative to {frame}, reference: {entry.reference}",
                    expected="global", fix="set start: global, or reference: previous",
                )
            frame = frames[entry.reference]

    # ---- paths and series -------------------------------------------------------------------------------------

    def result(self, path: str) -> str:
        """A path inside the results folder."""
        return f"{self.config.results_dir}/{path}"

    def series_source(self, ts: str) -> dict:
        """Where series ``ts`` comes from: kind "mdoc" (mdoc: list of paths, movies_dir) or "stack" (stack, tilts)."""
        return self._sources[ts]

    def gain_reference(self) -> str | None:
        """The gain reference of the movies, or None."""
        return self.result("simulate/gain.mrc") if self.simulated else self.config.data.gain_reference

    def defects(self) -> str | None:
        """The defects of the camera, or None."""
        return None if self.simulated else self.config.data.defects

    def alignment(self, ts: str) -> str | None:
        """File or folder of another program's alignment of series ``ts``; None unless align_tilt_series.mode is import.

        Raises UserInputError E-CFG-11 for a pattern with unknown names in braces.
        """
        config = self.config.align_tilt_series
        if config.mode != "import":
            return None
        return self._path_of(config.alignment, ts, "align_tilt_series.alignment")

    def ctf_file(self, ts: str) -> str | None:
        """File of another program's defocus values of series ``ts``; None unless estimate_ctf.mode is import."""
        pattern = self.config.estimate_ctf.file
        return None if pattern is None else self._path_of(pattern, ts, "estimate_ctf.file")

    def _path_of(self, pattern: str, ts: str, field: str) -> str:
        """``pattern`` with {ts} and {dir} of series ``ts`` in it. Raises UserInputError E-CFG-11 for other names in
        braces."""
        source = self._sources[ts]
        folder = Path(source["mdoc"][0] if source["kind"] == "mdoc" else source["stack"]).parent
        try:
            return pattern.format(ts=ts, dir=folder)
        except (KeyError, IndexError, ValueError) as error:
            raise UserInputError("E-CFG-11", "this path has something else than {ts} and {dir} in braces", field=field,
                                 found=pattern, expected="for example {dir}/{ts}.xf", fix="correct the path") from error

    def alignment_files(self, ts: str) -> list[str]:
        """The files that decide an imported alignment: the file and those that belong to it by name, or those of the folder."""
        if (given := self.alignment(ts)) is None:
            return []
        path = Path(given)
        beside = path.glob("*") if path.is_dir() else [path, *path.parent.glob(f"{glob_escape(path.stem)}.*"), path.with_name("tilt.com")]
        endings = (".xf", ".tlt", ".rawtlt", ".xtilt", ".aln", ".xml", ".star")
        return sorted({str(p) for p in beside if p.is_file() and (p == path or p.suffix in endings or p.name == "tilt.com")})

    def _check_ctf_files(self):
        missing = [path for ts in self.tilt_series if (path := self.ctf_file(ts)) and not Path(path).is_file()]
        if missing:
            raise UserInputError(
                "E-CTF-09",
                "defocus values to import are missing",
                field="estimate_ctf.file",
                found=f"no {', '.join(missing[:3])}",
                expected=f"one for each of the {len(self.tilt_series)} series",
                fix="correct the path, or leave the series out (data.tilt_series)",
            )

    def _check_alignments(self):
        missing = [path for ts in self.tilt_series if (path := self.alignment(ts)) and not Path(path).exists()]
        if missing:
            raise UserInputError(
                "E-CFG-12", "alignments to import are missing", field="align_tilt_series.alignment", found=f"no {', '.join(missing[:3])}",
                expected=f"one for each of the {len(self.tilt_series)} series", fix="correct the path, or leave the series out (data.tilt_series)",
            )

    def picks(self, ts: str) -> str | None:
        """The file of another program's picks of series ``ts``, or None when we match."""
        pattern = self.config.match_template.picks
        return None if pattern is None else pattern.replace("{ts}", ts)

    def search_mask(self, ts: str) -> str | None:
        """The mask of where series ``ts`` is searched, or None; picks of others need none."""
        pattern = self.config.match_template.search_mask
        return None if pattern is None or self.config.match_template.picks is not None else pattern.replace("{ts}", ts)

    def _check_picks(self) -> None:
        absent = [ts for ts in self.tilt_series if self.picks(ts) and not Path(self.picks(ts)).is_file()]
        if absent:
            raise UserInputError(
                "E-CFG-10", "no picks for some series", field="match_template.picks", found=f"nothing for {', '.join(absent)}",
                expected=self.picks(absent[0]), fix="correct the path, or name in data.tilt_series only the series that have picks",
            )

    def exported_picks(self) -> list[str]:
        """Names of the files that the picks are also written to, with {ts}."""
        return [exported_name("{ts}", form) for form in self.config.match_template.export_picks]

    def view_list(self, ts: str):
        """The file that lists bad views of a series; empty without one."""
        return selection_path(self.config.exclude_views.file, ts) or []

    def reference(self) -> str | None:
        """The map of the particle that is matched; None when there is none (the picks are imported)."""
        return self.result("simulate/reference.mrc") if self.simulated else self.config.data.reference

    def _find_sources(self) -> dict[str, dict]:
        data = self.config.data
        given = [name for name in ("mdoc", "stacks") if getattr(data, name)] + ["simulate"] * data.simulate
        if len(given) != 1:
            raise UserInputError(
                "E-CFG-06",
                "the data section must say where the tilt series are, in one way",
                field="data",
                found=", ".join(given) or "nothing",
                expected="exactly one of simulate: true, mdoc: <glob>, stacks: <glob>",
            )
        sources = getattr(self, f"_sources_{given[0]}")()
        wanted = data.tilt_series or sorted(sources)
        missing = [name for name in wanted if name not in sources]
        if missing or not sources:
            raise UserInputError(
                "E-CFG-07",
                "tilt series not found" if missing else "no tilt series found",
                field="data",
                found=", ".join(sorted(sources)) or f"no file matching {data.mdoc or data.stacks}",
                expected=", ".join(missing) or None,
                fix="correct data.mdoc or data.stacks (paths are relative to the folder the run is started in)",
            )
        self._found = sorted(sources)
        return {name: sources[name] for name in wanted}

    def _sources_simulate(self) -> dict[str, dict]:
        names = [f"TS_{i + 1:02d}" for i in range(self.config.simulate.n_series)]
        folder = self.result("simulate/{}/frames")
        return {
            ts: {"kind": "mdoc", "mdoc": [f"{folder.format(ts)}/{ts}.mdoc"], "movies_dir": folder.format(ts)}
            for ts in names
        }

    def _sources_mdoc(self) -> dict[str, dict]:
        """Series from mdocs. "<series>_override.mdoc" belongs to <series>; data.mdoc_series joins others by their names."""
        data = self.config.data
        found: dict[str, list[str]] = {}
        for path in sorted(glob(data.mdoc)):
            name = re.sub(r"\.(mrc|st|tif|tiff|eer)$", "", Path(path).name.removesuffix(".mdoc"))
            if data.mdoc_series:
                name = self._series_of(name, path)
            found.setdefault(name.removesuffix("_override"), []).append(path)
        sources = {}
        for name, paths in found.items():
            paths.sort(key=lambda path: (Path(path).name.endswith("_override.mdoc"), path))
            if len(paths) > 1 and not data.mdoc_series and not all("_override" in Path(p).name for p in paths[1:]):
                raise UserInputError("E-NAME-02", "two files give one series name", file=paths[1], found=name,
                                     fix="rename one, or set data.mdoc_series so that they are joined")
            folder = data.movies_dir or str(Path(paths[0]).parent)
            self._add(sources, name, paths[0], {"kind": "mdoc", "mdoc": paths, "movies_dir": folder})
        return sources

    def _series_of(self, name: str, path: str) -> str:
        try:
            match = re.search(self.config.data.mdoc_series, name)
        except re.error as error:
            raise UserInputError("E-CFG-09", "not a regular expression", field="data.mdoc_series", found=str(error),
                                 expected="for example (TS_[0-9]+)", fix="correct data.mdoc_series") from error
        if match is None:
            raise UserInputError("E-CFG-09", "data.mdoc_series does not fit this mdoc", file=path, found=name,
                                 expected=self.config.data.mdoc_series, fix="correct data.mdoc_series or data.mdoc")
        return match[1] if match.groups() and match[1] else match[0]

    def _sources_stacks(self) -> dict[str, dict]:
        sources = {}
        for path in sorted(glob(self.config.data.stacks)):
            name = Path(path).stem
            self._add(sources, name, path, {"kind": "stack", "stack": path, "tilts": self._tilts_of(name, path)})
        return sources

    @staticmethod
    def _add(sources, name, path, source):
        if not _NAME.fullmatch(name):
            raise UserInputError(
                "E-NAME-01",
                "this file name cannot name a tilt series",
                file=path,
                found=name,
                expected="letters, digits, '_', '.', '-', starting with a letter or digit",
                fix="rename the file, or make a link with a plain name",
            )
        if re.search(r"[{}\n]", str(path)):
            raise UserInputError(
                "E-NAME-03", "a folder of the data has braces or a line break in its name", file=path,
                expected="a plain name: Snakemake reads braces as its own",
                fix="rename it, or make a link with a plain name",
            )
        if name in sources:
            raise UserInputError("E-NAME-02", "two files give one series name", file=path, found=name)
        sources[name] = source

    def _tilts_of(self, ts: str, stack: str) -> str:
        folder = Path(stack).parent
        pattern = self.config.data.tilts
        if pattern:
            return pattern.format(ts=ts, dir=folder)
        own = (f"{Path(stack).name}.mdoc", f"{ts}.mdoc")  # says more than angles: order, dose, axis
        candidates = [folder / name for name in (f"{ts}_tilts.tsv", *own, f"{ts}.rawtlt", f"{ts}.tlt")]
        for candidate in candidates:
            if candidate.exists():
                return str(candidate)
        raise UserInputError(
            "E-TS-04",
            "no tilt angles found beside the stack",
            file=stack,
            expected=" or ".join(c.name for c in candidates),
            fix="put the file there or set data.tilts",
        )

    # ---- what is kept -------------------------------------------------------------------------------------------

    @property
    def relion_reads(self) -> str | None:
        """The rule whose stacks of full views RELION's tables name: relion_stack, which is made for them, erase_xrays or correct_motion.

        None when the run writes nothing for RELION.
        """
        if not self.rounds and "relion" not in self.config.align_tilt_series.export:
            return None
        if self.config.erase_xrays.stack:
            return "erase_xrays"
        own = self.config.erase_xrays.find_peaks and self.config.relion_project.stacks == "repaired"
        return "relion_stack" if own else "correct_motion"

    def is_removed(self, step: str, full_views: bool = False) -> bool:
        """Whether stacks of this rule go with ``keep: results``; ``full_views``: its stack of full views, which RELION may read."""
        if self.config.keep == "all" or (full_views and step == self.relion_reads):
            return False
        if step == "extract_subtomos":  # files that were asked for are results
            return not any(r.extract_subtomos.relion_files or r.extract_subtomos.volumes_3d for r in self.config.averaging)
        return True

    def keep_note(self) -> str:
        """What ``keep: results`` has removed, and what a later edit redoes; empty with ``keep: all``."""
        if self.config.keep == "all":
            return ""
        steps = [s for s in ("correct_motion", "erase_xrays", "correct_ctf", "preprocess_tilt_series", "extract_subtomos") if self.is_removed(s)]
        stacks = ", ".join(s for s in steps if s != "erase_xrays" or self.config.erase_xrays.stack)
        return (
            f"keep: results: the stacks of {stacks} are removed. An edit of postprocess or of the report redoes only that; any other edit, "
            "or a further round, needs stacks again and so starts from the movies, every step after it included (snakemake -n shows which)."
        )

    # ---- params and resources ---------------------------------------------------------------------------------

    def _params(self, section) -> dict:
        return {
            "config": section.model_dump(mode="json"),
            "version": type(section).version,
            "seed": self.config.seed,
        }

    def step_params(self, step: str) -> dict:
        """params of a rule: its config section, the version of its algorithm, the seed."""
        return self._params(getattr(self.config, step))

    def round_config(self, name: str):
        """The config of an averaging round."""
        return self.config.averaging[self.rounds.index(name)]

    def round_params(self, step: str, name: str) -> dict:
        """params of an averaging rule in round ``name``."""
        return self._params(getattr(self.round_config(name), step))

    def previous_round(self, name: str) -> str | None:
        """The round before ``name``, or None for the first."""
        index = self.rounds.index(name)
        return self.rounds[index - 1] if index else None

    def step_gpu(self, step: str) -> int:
        """1 when the step uses a GPU and the run has one: asked for by name, or found by "auto" on this machine."""
        sections = {**type(self.config).model_fields, **AveragingRound.model_fields}
        able = step in sections and getattr(sections[step].annotation, "uses_gpu", False)
        device = self.config.device
        return int(able and (device.startswith("cuda") or (device == "auto" and gpu_available())))
