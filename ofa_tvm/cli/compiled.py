"""What a verb is given: an artefact folder or a bare module, and the target that it was compiled for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ofa_tvm.deploy import Artefact, Classifier
from ofa_tvm.deploy.manifest import TargetEntry
from ofa_tvm.runtime import Runner, load_for
from ofa_tvm.runtime.stored import own_target, stored_metadata
from ofa_tvm.targets import Target, get_target


@dataclass(frozen=True)
class Compiled:
    """An artefact folder or a bare `.so`; `target` is what it says of its own."""

    given: Path
    module: Path
    target: TargetEntry
    artefact: Artefact | None = None

    @classmethod
    def open(cls, given: Path) -> Compiled:
        """Open what was named; none of its code is run.

        Raises
        ------
        UserError
            If it is neither, or damaged.
        """
        if given.is_dir() or (given.suffix != ".so" and not given.is_file()):
            artefact = Artefact.open(given)
            return cls(given, artefact.module_path, artefact.manifest.target, artefact)
        return cls(given, given, TargetEntry.from_dict(stored_metadata(given)["target"]))

    def on(self, target: str | None, threads: int | None) -> Target:
        """The target to run it on: as named, else the one that it was compiled for; with its own threads."""
        threads = self.target.threads if threads is None else threads
        if target is None:
            return own_target(self.target.name, self.target.kind, threads)
        return get_target(target).with_threads(threads)

    def runner(self) -> Runner:
        """It, loaded in this process."""
        return Runner(load_for(self.module)) if self.artefact is None else self.artefact.runner

    def classifier(self) -> Classifier:
        """It, with its preprocessing and labels.

        Raises
        ------
        UserError
            If it does not say how pictures become its input.
        """
        if self.artefact is not None:
            return self.artefact.classifier
        return Classifier.of(self.runner(), str(self.given))

    @property
    def takes_pictures(self) -> bool:
        """Whether it says how pictures become its input."""
        if self.artefact is not None:
            return self.artefact.manifest.preprocessing is not None
        return "preprocessing" in stored_metadata(self.module).get("onnx_metadata", {})
