import sys, json
from ours import *
import ours
from timing import Pace
import dataclasses

what = {
    "model": model_folder("smollm2-135m-instruct"),
    "pace": dataclasses.asdict(Pace(warmup=1, steps=5)),
    "prompts": int(sys.argv[2]),
    "checked": 1,
    "workload": "varied",
    "adapter": "lora",
    "batch": 8,
}
what.update(json.loads(sys.argv[3]) if len(sys.argv) > 3 else {})
r = getattr(ours, sys.argv[1])(what)
print({k: v for k, v in r.items() if not isinstance(v, list)})
