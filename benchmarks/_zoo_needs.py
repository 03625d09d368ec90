"""Count anew what the zoo's networks need and write the table that ships; takes some minutes."""

import json
from dataclasses import asdict
from pathlib import Path

from raceline import loop, zoo

TABLE = Path(loop.__file__).parent / "zoo_needs.json"


def main() -> None:
    rows = {}
    for entry in zoo.list():
        rows[entry.name] = asdict(loop.count_network(entry))
        print(entry.name, len(rows[entry.name]["steps"]), "kinds of steps", flush=True)
    lines = [f"{json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items()]
    TABLE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
