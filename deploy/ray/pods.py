"""Prints the pods of a RayJob, and whatever else is in its file, as manifests that kubernetes-validate knows."""

import sys
from pathlib import Path

import yaml

for one in yaml.safe_load_all(Path(sys.argv[1]).read_text(encoding="utf-8")):
    if one["kind"] == "RayJob":
        cluster = one["spec"]["rayClusterSpec"]
        for number, group in enumerate((cluster["headGroupSpec"], *cluster["workerGroupSpecs"])):
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"ray-{number}"}}
            print("---", yaml.safe_dump(pod | {"spec": group["template"]["spec"]}), sep="\n")
    else:
        print("---", yaml.safe_dump(one), sep="\n")
