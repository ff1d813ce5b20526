"""A cluster of one machine: programs with the names of Slurm's that run what they are given as Slurm does.

Jobs of an array run side by side, tasks of several nodes too. Nodes are processes; what a cluster isolates (memory,
devices, a task's processes from other tasks) is not isolated.
"""

from __future__ import annotations

import sys
from pathlib import Path

PROGRAMS = {
    "sbatch": r"""
script = Path(sys.argv[-1]).read_text()
lines = [line for line in script.splitlines() if line.startswith("#SBATCH --")]
directives = dict(line.removeprefix("#SBATCH --").partition("=")[::2] for line in lines)
if directives.get("partition") == "wrong":
    sys.exit("sbatch: error: invalid partition specified: wrong")
if directives.get("partition") == "slow":
    (HERE / "asked").touch()
    time.sleep(3)
job = 100 * (1 + len(list(HERE.glob("*.job"))))
copy = HERE / f"{job}.job"
copy.write_text(script)
last = directives.get("array", "").partition("%")[0].partition("-")[2]
names = [f"{job}_{index}" for index in range(int(last) + 1)] if last else [str(job)]
for number, name in enumerate(names):
    environment = {
        **os.environ, "SLURM_JOB_ID": str(job + number), "SLURM_JOB_NAME": directives["job-name"],
        "SLURM_JOB_NUM_NODES": directives["nodes"], "SLURM_NTASKS": directives["nodes"],
        "SLURM_JOB_NODELIST": "localhost",
    }
    if last:
        environment |= {"SLURM_ARRAY_JOB_ID": str(job), "SLURM_ARRAY_TASK_ID": str(number)}
    run = [sys.executable, str(HERE / "slurmd"), name, str(copy)]
    none = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    started = subprocess.Popen(run, env=environment, start_new_session=True, **none)
    (HERE / f"{name}.queued").write_text(str(started.pid))
print("Submitted batch job", job)
""",
    "slurmd": r"""
signal.pthread_sigmask(signal.SIG_SETMASK, ())  # Slurm's daemons start jobs, not sbatch
name, script = sys.argv[1:]
for restart in range(10):
    environment = {**os.environ, **({"SLURM_RESTART_COUNT": str(restart)} if restart else {})}
    subprocess.run(["bash", script], env=environment)
    if not (HERE / f"{name}.requeue").exists():
        break
    (HERE / f"{name}.requeue").unlink()
(HERE / f"{name}.queued").unlink()
""",
    "srun": r"""
words = sys.argv[1:]
options = {}
while words[0].startswith("--"):
    option, equals, value = words.pop(0).partition("=")
    options[option] = value if equals or option == "--unbuffered" else words.pop(0)
signal.signal(signal.SIGUSR2, signal.SIG_IGN)
pattern = options["--output"]
for tag, variable in (("%A", "SLURM_ARRAY_JOB_ID"), ("%a", "SLURM_ARRAY_TASK_ID"), ("%j", "SLURM_JOB_ID")):
    pattern = pattern.replace(tag, os.environ.get(variable, tag))
tasks = []
for node in range(int(os.environ["SLURM_JOB_NUM_NODES"])):
    output = Path(pattern.replace("%t", str(node)))
    output.parent.mkdir(parents=True, exist_ok=True)
    own = {"SLURM_PROCID": str(node), "SLURM_NODEID": str(node), "SLURM_LOCALID": "0"}
    own |= {"SLURM_STEP_NUM_TASKS": os.environ["SLURM_NTASKS"], "SLURM_STEP_NUM_NODES": os.environ["SLURM_NTASKS"]}
    file = output.open("ab")
    tasks.append(subprocess.Popen(words, env={**os.environ, **own}, stdout=file, stderr=file))
sys.exit(max(abs(task.wait()) for task in tasks))
""",
    "scontrol": r"""
assert sys.argv[1] == "requeue"
(HERE / f"{sys.argv[2]}.requeue").touch()
""",
    "squeue": r"""
print(*{path.stem.partition("_")[0] for path in HERE.glob("*.queued")}, sep="\n")
""",
    "sacct": r"""
print("JobID|State|NodeList")
for path in HERE.glob("*.queued"):
    print(path.stem, "RUNNING", "localhost", sep="|")
""",
    "scancel": r"""
import psutil
for job in sys.argv[1:]:
    queued = HERE / f"{job}.queued"
    started = psutil.Process(int(queued.read_text()))
    below = started.children(recursive=True)
    # tasks, not srun, which is given the same words
    tasks = [process for process in below if process.cmdline()[3:4] == ["submitit.core._submit"]]
    for task in tasks:
        for process in [task, *task.children(recursive=True)]:
            process.terminate()
    if not tasks:  # it has not begun
        for process in [started, *below]:
            process.kill()
        queued.unlink()
    with (HERE / "cancelled").open("a") as file:
        file.write(job + "\n")
""",
}


def write_programs(folder: Path) -> None:
    """Puts the programs into a folder, for the front of ``PATH``; what they note of jobs stands beside them."""
    folder.mkdir()
    for name, code in PROGRAMS.items():
        program = folder / name
        imports = "import os, signal, subprocess, sys, time\nfrom pathlib import Path\n"
        program.write_text(f"#!{sys.executable}\n{imports}HERE = Path(__file__).parent\n{code}")
        program.chmod(0o755)
