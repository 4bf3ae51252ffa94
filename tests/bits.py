"""What trainings leave, to be compared bit by bit."""

import json


def outcome(runs_dir, may_differ):
    """Every file of the runs, {name: content}, without the figures of a result that may differ."""
    found = {str(path.relative_to(runs_dir)): path.read_bytes() for path in runs_dir.rglob("*") if path.is_file()}
    for name, content in found.items():
        if name.endswith("result.json"):
            found[name] = {key: value for key, value in json.loads(content).items() if key not in may_differ}
    return found
