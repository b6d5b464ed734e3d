"""The folder of a study: its drawings, and a file for every finished training."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

from keras_dyhead.coco.shapes import draw_shapes
from keras_dyhead.study.plan import Configuration, StudySettings


class StudyFolder:
    """Keeps the drawn images and the results of a study.

    A file of results appears in one step, complete, or not at all.

    Args:
        path: The folder.
        settings: What all trainings have in common.
        overwrite: Delete what an earlier study left in the folder first. Defaults to `False`.

    Raises:
        ValueError: If the folder holds a study with other settings, or is a file.

    Example:

    >>> folder = StudyFolder("runs/study", StudySettings())
    >>> folder.save(Configuration("atss"), 0, {"figures": {"AP": 0.2}})
    >>> folder.load(Configuration("atss"), 0)["figures"]
    {'AP': 0.2}
    """

    def __init__(self, path: str | os.PathLike, settings: StudySettings, overwrite: bool = False):
        self.path = Path(path)
        self.settings = settings
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"A study needs a folder. Received: {self.path}")
        if overwrite:
            for name in ("trials", "data"):
                shutil.rmtree(self.path / name, ignore_errors=True)
            self._settings_file.unlink(missing_ok=True)
        self._check_settings()

    @property
    def data(self) -> Path:
        """Folder of the drawn images."""
        return self.path / "data"

    def prepare(self) -> None:
        """Notes the settings, and draws the images unless they are there."""
        _write(self._settings_file, self._all_settings())
        complete = self.data / "complete"
        if complete.exists():
            return
        shutil.rmtree(self.data, ignore_errors=True)
        shapes = self.settings.shapes()
        draw_shapes(self.data / "train", self.settings.images, **shapes)
        start = self.settings.images
        draw_shapes(self.data / "held_out", self.settings.held_out, start=start, **shapes)
        complete.touch()

    def save(self, configuration: Configuration, seed: int, result: dict) -> None:
        """Writes what a training gave."""
        content = {"configuration": dataclasses.asdict(configuration), "seed": seed} | result
        _write(self._file(configuration, seed), content)

    def load(self, configuration: Configuration, seed: int) -> dict | None:
        """Returns what a training gave, or `None` if it is not finished."""
        path = self._file(configuration, seed)
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    @property
    def _settings_file(self):
        return self.path / "settings.json"

    def _file(self, configuration, seed):
        return self.path / "trials" / f"{configuration.name}_seed-{seed}.json"

    def _all_settings(self):
        contents = dataclasses.asdict(self.settings) | {"shapes": self.settings.shapes()}
        return json.loads(json.dumps(contents))  # tuples are lists, as in a file

    def _check_settings(self):
        if not self._settings_file.exists():
            return
        earlier = json.loads(self._settings_file.read_text(encoding="utf-8"))
        now = self._all_settings()
        changed = [
            f"{name}={earlier.get(name)} (now {now.get(name)})"
            for name in earlier | now
            if earlier.get(name) != now.get(name)
        ]
        if changed:
            raise ValueError(
                f"{self.path} holds a study with {', '.join(changed)}: give the same settings, "
                "delete it (--overwrite), or choose another folder."
            )


def _write(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(path)
