"""A real Slurm cluster of one machine, for as long as a test needs it."""

import contextlib
import os
import shutil
import socket
import subprocess
import time

# Ports and folders of its own, and no more plugins than a single machine needs.
CONFIG = """
ClusterName=tests
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
KillWait=60
NodeName=localhost NodeHostname={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes=localhost Default=YES MaxTime=INFINITE State=UP
"""

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "scontrol", "sinfo")


def missing():
    """Why a cluster cannot be started here, or ""."""
    if os.getuid() != 0:
        return "needs root, for Slurm's daemons"
    absent = [program for program in PROGRAMS if not shutil.which(program)]
    return f"needs {', '.join(absent)} (Debian: slurm-wlm, munge)" if absent else ""


@contextlib.contextmanager
def slurm_cluster(folder, cpus=2):
    """Starts munged, slurmctld and slurmd in a folder; gives the environment for `srun`, and ends them."""
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    config = folder / "slurm.conf"
    ports = dict(zip(("controller", "daemon"), _free_ports(2), strict=True))
    config.write_text(
        CONFIG.format(folder=folder, host=socket.gethostname().split(".")[0], cpus=cpus, **ports)
    )
    environment = {**os.environ, "SLURM_CONF": str(config)}
    munge = ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket"]
    munge += [f"--{name}-file={folder}/munge.{name}" for name in ("pid", "log", "seed")]
    commands = (munge, ["slurmctld", "-D", "-f", config], ["slurmd", "-D", "-N", "localhost", "-f", config])
    with contextlib.ExitStack() as stack:
        for command in commands:
            daemon = stack.enter_context(
                subprocess.Popen(
                    list(map(str, command)),
                    env=environment,
                    stdout=subprocess.DEVNULL,
                    stderr=(folder / f"{command[0]}.stderr").open("w"),
                )
            )
            stack.callback(daemon.wait, 30)
            stack.callback(daemon.terminate)
            time.sleep(1)
        deadline = time.monotonic() + 60
        while "idle" not in (state := _state(environment)):
            assert time.monotonic() < deadline, (state, (folder / "slurmctld.log").read_text()[-2000:])
            time.sleep(0.5)
        yield environment


def _state(environment):
    return subprocess.run(
        ["sinfo", "--noheader", "--format=%T"], env=environment, capture_output=True, text=True
    ).stdout


def _free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        return [free.getsockname()[1] for free in sockets]
