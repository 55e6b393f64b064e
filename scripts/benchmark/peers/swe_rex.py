"""The local runtime of SWE-ReX: a bash on a terminal, on the host itself."""

from __future__ import annotations

from benchmark.peers.package import served
from benchmark.peers.peer import Peer

_PROGRAM = """
import asyncio
from swerex.deployment.local import LocalDeployment
from swerex.runtime.abstract import BashAction, CreateBashSessionRequest
loop = asyncio.new_event_loop()
async def begin():
    one = LocalDeployment()
    await one.start()
    await one.runtime.create_session(CreateBashSessionRequest())
    return one
def start(): return loop.run_until_complete(begin())
def run(box, command):
    done = box.runtime.run_in_session(BashAction(command=command))
    return loop.run_until_complete(done).output + "\\n"
def close(box): loop.run_until_complete(box.stop())
"""

SWE_REX = Peer(
    name="swe-rex local", isolates=False, ready=lambda place: served(place.python, _PROGRAM)
)
