"""sds2d.py as a process of its own, without the ten seconds in which its libraries load: a process that has loaded
them forks."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent


class Nursery:
    """start() is subprocess.Popen for `python sds2d.py …`."""

    def __init__(self):
        # Threads that are there already do not survive a fork: so the parent has none.
        # Those that the children start should not spin while they wait: other tests need the cores.
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "NUMBA_NUM_THREADS": "4",
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_WAIT_POLICY": "passive",
        }
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(self, *arguments, cwd=None, threads=1):
        return Child(self, [str(argument) for argument in arguments], cwd and str(cwd), threads)


class Child:
    def __init__(self, nursery, arguments, cwd, threads):
        self.nursery, self.returncode = nursery, None
        self.folder = tempfile.TemporaryDirectory()
        self.pid = nursery.ask(arguments=arguments, cwd=cwd, threads=threads, folder=self.folder.name)["pid"]

    def poll(self, wait=False):
        if self.returncode is None:
            self.returncode = self.nursery.ask(pid=self.pid, wait=wait)["code"]
        return self.returncode

    def communicate(self):
        self.poll(wait=True)
        return tuple((Path(self.folder.name) / name).read_text(errors="replace") for name in ("stdout", "stderr"))

    def send_signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def serve():
    """The parent: forks a child for each request that has arguments, and tells how one that is asked for has ended."""
    sys.path.insert(0, str(ROOT))
    import diffusers
    import matplotlib.figure  # noqa: F401
    import peft  # noqa: F401
    import transformers

    import representations.gaussian_kernels  # noqa: F401
    import sds2d

    # Naming them loads them.
    _ = diffusers.AutoencoderKL, diffusers.DDPMScheduler, diffusers.UNet2DConditionModel
    _ = transformers.CLIPTextModel, transformers.CLIPTokenizer, transformers.CLIPModel
    for line in sys.stdin:
        request = json.loads(line)
        if "arguments" in request:
            pid = os.fork()
            if not pid:
                run(sds2d, **request)
            reply = {"pid": pid}
        else:
            pid, status = os.waitpid(request["pid"], 0 if request["wait"] else os.WNOHANG)
            reply = {"code": os.waitstatus_to_exitcode(status) if pid else None}
        print(json.dumps(reply), flush=True)


def run(sds2d, arguments, cwd, threads, folder):
    torch.set_num_threads(threads)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT), number)
    os.chdir(cwd or ".")
    sys.argv = ["sds2d.py", *arguments]
    code = 0
    try:
        sds2d.main()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 99
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    serve()
