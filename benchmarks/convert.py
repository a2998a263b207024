#!/usr/bin/env python3
"""Time and memory of converting a ConvMixer-1536/20, with random weights, in its two common file kinds.

  python benchmarks/convert.py

Each conversion runs in its own process. Memory is the largest resident set of that process less that of
one which only imports the same libraries, in multiples of the checkpoint's size. The goal is under 60 s and
under 3 times.
"""

import os
import subprocess
import sys
import tempfile

from timm_package import import_timm

IMPORTS = "import sys, keras, convmixer_keras.commands.convert as command"
WITH_TORCH = IMPORTS + ", torch"
CONVERT = IMPORTS + "; command.main(sys.argv[1:])"
MEASURE = """
import resource, subprocess, sys, time
start = time.perf_counter()
subprocess.run([sys.executable, "-c", *sys.argv[1:]], check=True, stdout=subprocess.DEVNULL)
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
"""


def main():
    import torch
    from safetensors.torch import save_file

    with tempfile.TemporaryDirectory() as folder:
        model = import_timm().create_model("convmixer_1536_20")
        pickled, safe = os.path.join(folder, "m.pth.tar"), os.path.join(folder, "m.safetensors")
        torch.save({"state_dict": model.state_dict()}, pickled)
        save_file(model.state_dict(), safe)
        size = os.path.getsize(safe)
        with_torch, without = measured(WITH_TORCH)[1], measured(IMPORTS)[1]
        print(f"ConvMixer-1536/20, a checkpoint of {size / 2**20:.0f} MiB")
        print("from          to           verified  seconds  memory / checkpoint")
        for source in (pickled, safe):
            for target in (os.path.join(folder, "m.keras"), os.path.join(folder, "m.weights.h5")):
                for flag in ("--verify", "--no-verify"):
                    seconds, peak = measured(CONVERT, source, target, flag)
                    imported = without if (source, flag) == (safe, "--no-verify") else with_torch
                    names = f"{os.path.basename(source):13} {os.path.basename(target):12}"
                    verified = "yes" if flag == "--verify" else "no"
                    print(f"{names} {verified:8} {seconds:8.1f} {(peak - imported) / size:20.2f}")


def measured(program, *arguments):
    """Returns the seconds and the peak bytes of memory that a Python program takes, start-up included."""
    command = [sys.executable, "-c", MEASURE, program, *arguments]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds, peak = output.split()
    return float(seconds), float(peak)


if __name__ == "__main__":
    main()
