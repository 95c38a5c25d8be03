"""Downloads of the catalogue's archives: resumed where they were cut, checked while they arrive, unpacked safely.

Beside the archive ``NAME.zip`` lies ``NAME.zip.part`` until it is complete, checked and on the disk. What is known
about it between runs (the address and version of the part, that the archive was checked, what was unpacked) is in the
hidden folder ``.captioner`` of the data folder, with a lock file that lets one run at a time work on an archive; the
lock belongs to the process and ends with it, however it ends.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from captioner.data.download.catalog import Archive
from captioner.data.download.http import Patience
from captioner.data.download.job import Job, Outcome
from captioner.data.download.progress import Progress
from captioner.data.download.unpack import check_room

__all__ = ["Outcome", "Patience", "Progress", "download"]


def download(
    archives: Iterable[Archive],
    folder: str | Path,
    *,
    members: Sequence[str] = (),
    keep: bool = True,
    parallel: int = 3,
    patience: Patience | None = None,
    progress: Progress | None = None,
) -> Generator[Outcome, None, None]:
    """Download and unpack archives; yield the outcome of each as soon as it is known.

    An archive that fails does not hold up the others.

    Args:
        archives: what to download; one that is there and passes its check is not fetched again.
        folder: the folder of all data.
        members: patterns of the names of the members to unpack; if empty, all that the catalogue has a place for.
        keep: keep the archives after unpacking.
        parallel: how many are downloaded at once.
        patience: how long each is retried.
        progress: called at every step, from several threads.

    Raises:
        DownloadError: the disk has no room for all of it; nothing was done yet.
    """
    root, stop = Path(folder), threading.Event()
    jobs = [
        Job(archive, root, tuple(members), keep, patience or Patience(), progress or (lambda *step: None), stop)
        for archive in dict.fromkeys(archives)
    ]
    room = [job.room() for job in jobs]
    # Without keep, an archive and its members are on the disk together only while it is being unpacked.
    both = sorted((min(pair) for pair in room), reverse=True)
    check_room(root, sum(max(pair) for pair in room) + sum(both if keep else both[:parallel]))
    with ThreadPoolExecutor(parallel) as pool:
        futures = [pool.submit(job.run) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
