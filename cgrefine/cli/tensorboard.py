"""Event files for TensorBoard, written with its own writer; nothing of TensorFlow is needed."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue] - made by protobuf
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue] - made by protobuf
from tensorboard.summary.writer.event_file_writer import EventFileWriter


@contextmanager
def board(folder: Path) -> Iterator[Callable[[int, Mapping[str, float]], None]]:
    """Yield write(step, scalars), which adds to a new event file in the folder; numbers that are not finite
    are left out."""
    writer = EventFileWriter(str(folder))

    def write(step: int, scalars: Mapping[str, float]) -> None:
        values = [Summary.Value(tag=tag, simple_value=v) for tag, v in scalars.items() if math.isfinite(v)]
        writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    try:
        yield write
    finally:
        writer.close()
