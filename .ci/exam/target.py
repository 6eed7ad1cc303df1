"""Writes the exam's target.json: the contract from the exam itself, with this project's binary and hook in it.

usage: target.py EXAM_DIR WORK_DIR BINARY
"""
import json, os, shutil, sys

exam, work, binary = (os.path.abspath(path) for path in sys.argv[1:4])
here = os.path.dirname(os.path.abspath(__file__))
target = json.load(open(os.path.join(exam, "target.json")))
os.makedirs(work, exist_ok=True)
config = os.path.join(work, "wicketgate.yaml")
target["start"] = {
    "prepare": ["cp", os.path.join(here, "wicketgate.yaml"), config],
    "cmd": [binary, "run", "--config", config],
}
target["log"] = "auto"
target["reload_hook"] = [sys.executable, os.path.join(here, "reload_hook.py"), config]
target["reload_s"] = 1.5
# What exists here beyond the exam's first guess. Each one that stays off is explained in docs/security.md.
target["capabilities"].update({"admin": True, "ws_idle": True})
json.dump(target, open(os.path.join(work, "target.json"), "w"), indent=1)
