"""The weaker rungs that a host can offer: a line for each, and the words that ask for it."""

from __future__ import annotations

from sandbox_lite.jail import limits
from sandbox_lite.jail.doctor.report import Weaker

OVERLAY = Weaker(
    lacks="overlay",
    option="--allow-weaker overlay",
    argument='allow_weaker={"overlay"}',
    detail="each sandbox gets a copy of the whole rootfs in a directory: a start takes the time "
    "and the room of copying it, its disk is bounded by measuring, and where the directory is on "
    "the host shows inside",
)
PIDS = Weaker(
    lacks="pids",
    option="--allow-weaker pids",
    argument='allow_weaker={"pids"}',
    detail="a fork bomb is ended by looking again and again: this host may stand still meanwhile",
)
CPUS = Weaker(
    lacks="cpus",
    option="--allow-weaker cpus",
    argument='allow_weaker={"cpus"}',
    detail="--cpus is refused here without it, and with it bounds nothing; every sandbox gives "
    "way to the host's own programs by nice 10",
)
REQUIRED = Weaker(
    lacks=limits.REQUIRE_VARIABLE,
    option=f"{limits.REQUIRE_VARIABLE}=",
    argument='require="sampling"',
    detail="without the variable the limits are held as well as this host can",
)
