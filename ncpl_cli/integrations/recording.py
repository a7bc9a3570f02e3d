"""What the callbacks of every library share: a run of the store that is open while something trains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ncpl_cli.extraction.live import Live
from ncpl_cli.store import Recorder, open_store


class Recorded:
    """Stores epochs: what was logged, and what features show; the same again goes on where it stopped.

    store     a path or URL; scenario, seed, name, config: as of `Store.run`, where they are not given the library's
              seed and hyper-parameters
    measure   batches of (inputs, labels), or mappings with `labels`, unshuffled, whose features are measured after
              each epoch, here and of the test split in `measure_test`
    rename    names of logged metrics in the store, such as {"val_acc": "test_accuracy"}
    """

    def __init__(
        self, store: str, scenario: str, *, seed: int | None = None, name: str | None = None,
        config: Mapping[str, Any] | None = None, measure: Iterable[Any] | None = None,
        measure_test: Iterable[Any] | None = None, rename: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self._where, self._scenario, self._seed, self._name, self._config = store, scenario, seed, name, config
        self._live = None if measure is None else Live(measure, measure_test)
        self._rename = rename or {}
        self._run: Recorder | None = None

    def begin(self, seed: int, config: Mapping[str, Any]) -> None:
        """Claim the run, with the library's seed and hyper-parameters where none were given; one left open is freed."""
        self.end(SystemExit())
        plain = {key: value for key, value in config.items() if isinstance(value, int | float | str)}
        run = open_store(self._where).run(
            self._scenario, seed=seed if self._seed is None else self._seed, name=self._name,
            config=plain if self._config is None else self._config,
        )  # fmt: skip
        self._run = run.__enter__()

    def measured(self, module: Any) -> dict[str, Any]:
        """Features and what belongs to them, where there is something to measure."""
        return {} if self._live is None or self._run is None else self._live(module)

    def record(self, epoch: int, logged: Mapping[str, Any], measured: Mapping[str, Any]) -> None:
        """Store an epoch."""
        if self._run is not None:
            metrics = {self._rename.get(key, key.replace("@", "_")): value for key, value in logged.items()}
            self._run.record(epoch=epoch, metrics=metrics, **measured)

    def end(self, error: BaseException | None = None) -> None:
        """Finish the run, fail it with its error, or leave it interrupted."""
        run, self._run = self._run, None
        if run is not None:
            run.__exit__(None if error is None else type(error), error, None)
