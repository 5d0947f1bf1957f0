"""Work on the parts of a cube, done here or by the workers of a Dask cluster.

Where a client was made (`distributed.Client`), parts are computed by its workers, whatever started them: processes of
this machine, `dask_jobqueue` on SLURM or PBS, Kubernetes. What all parts need, such as a model, is sent to every worker
once. A worker does one part at a time, as random numbers are seeded for each; give it one thread, or let PyTorch use
the others.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

__all__ = ["each"]

ONE_AT_A_TIME = threading.Lock()
ROUNDS = 4  # of sending what all parts need


def each(job: Callable[..., Any], shared: Sequence[Any], parts: Sequence[Any]) -> Iterator[Any]:
    """Results of a job for every part, as they come; in order where there is no cluster.

    Args:
        job: called as ``job(*shared, part)``; a function of a module that workers can import.
        shared: what all parts need.
        parts: the parts.

    Yields:
        A result for each.

    Raises:
        RuntimeError: workers were lost too often; the results so far were yielded.
    """
    client = _client()
    if client is None:
        yield from (job(*shared, part) for part in parts)
        return
    from distributed import KilledWorker, as_completed
    from distributed.client import FutureCancelledError

    words = (
        "Workers were lost again and again: give them more memory or smaller tiles, and call again; what is done stays."
    )
    left = list(parts)
    for _ in range(ROUNDS):
        known = client.scatter(list(shared), broadcast=True, hash=False) if shared else []
        futures = {client.submit(_alone, job, *known, part, pure=False): part for part in left}
        left = []
        try:
            for future, result in as_completed(futures, with_results=True):
                if isinstance(result, FutureCancelledError):  # what all need was lost with those that had it
                    left.append(futures[future])
                else:
                    yield result
        except KilledWorker as error:
            raise RuntimeError(words) from error
        finally:
            client.cancel(list(futures))
        if not left:
            return
    raise RuntimeError(words)


def _client():
    """The active client of this process, or none."""
    distributed = sys.modules.get("distributed")  # who has a client has imported it
    try:
        return distributed.default_client() if distributed else None
    except ValueError:
        return None


def _alone(job: Callable[..., Any], *arguments: Any) -> Any:
    with ONE_AT_A_TIME:
        return job(*arguments)
