"""Changes the configuration of the gate under exam in the way that the exam names.

usage: reload_hook.py CONFIG SCENARIO
"""
import os, sys

config, scenario = sys.argv[1], sys.argv[2]
here = os.path.dirname(os.path.abspath(__file__))
good = open(os.path.join(here, "wicketgate.yaml")).read()
tight = good.replace("GET /weather/**: read:weather", "GET /weather/**: admin")
counter = config + ".count"


def write(text, path=config):
    """As an editor does: a new file moved over the old one."""
    if os.path.lexists(path) and not os.path.isfile(path):
        os.unlink(path)
    with open(path + ".new", "wb") as file:
        file.write(text if isinstance(text, bytes) else text.encode())
    os.replace(path + ".new", path)


def swap_symlink(text):
    """As Kubernetes does with a ConfigMap: the directory behind `..data` changes, the file is a link into it."""
    base = os.path.dirname(config)
    versions = [name for name in os.listdir(base) if name.startswith("..version")]
    version = "..version%d" % len(versions)
    os.makedirs(os.path.join(base, version))
    write(text, os.path.join(base, version, "wicketgate.yaml"))
    os.symlink(version, os.path.join(base, "..data.new"))
    os.replace(os.path.join(base, "..data.new"), os.path.join(base, "..data"))
    if not os.path.islink(config):
        os.symlink("..data/wicketgate.yaml", config + ".link")
        os.replace(config + ".link", config)


if scenario == "good":
    number = int(open(counter).read()) + 1 if os.path.exists(counter) else 1
    open(counter, "w").write(str(number))
    write(good.replace("/public/**: public", "/public/**: public\n      /extra-%d: admin" % number))
elif scenario == "tighten":
    write(tight)
elif scenario == "symlink":
    swap_symlink(good)
    swap_symlink(tight)
elif scenario == "broken":
    write(good.replace("services:", "services: [unclosed"))
elif scenario == "half":
    write(good[: len(good) // 2])
elif scenario == "empty":
    write("")
    os.unlink(config)
elif scenario == "unknown":
    write(good.replace("GET /weather/**: read:weather", "GET /weather/**: { scope: read:weather }"))
elif scenario == "secret":
    write(good + "logto: { endpoint: 'http://127.0.0.1:28482', app_id: a, app_secret_file: /nonexistent/secret }\n")
elif scenario == "bomb":
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += ["a%d: &a%d [%s]" % (i, i, ", ".join(["*a%d" % (i - 1)] * 9)) for i in range(1, 10)]
    write("\n".join(lines) + "\n" + good)
elif scenario == "types":
    write(good.replace("leeway: 2s", "leeway: 08").replace("cooldown: 2s", "cooldown: 1_000"))
elif scenario == "env":
    # The process has no such variable; what stands in braces must never become YAML.
    write(good.replace("GET /weather/**: read:weather", "GET /weather/**: \"${WICKETGATE_EXAM:-read:weather\\n      /admin/**: public}\""))
elif scenario == "unreadable":
    os.unlink(config)
    os.mkdir(config)
    os.rmdir(config)
    write(b"\xff\xfe" + good.encode())
elif scenario == "restore":
    write(good)
else:
    sys.exit("unknown scenario %s" % scenario)
