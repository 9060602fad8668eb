"""Rows of evaluations written by hand, for the tests of tables, statistics and galleries."""


def row(method="TTI", fold=0, run=0, episode="a", class_id=1, counts=(1, 2), frames=4, **more):
    return {
        "benchmark": "ytvis-v1", "shots": 5, "encoder": "resnet50", "method": method, "fold": fold, "run": run,
        "episode": episode, "index": 0, "class_id": class_id, "class_name": f"class {class_id}", "video": episode,
        "frames": frames, "intersection": counts[0], "union": counts[1], **more,
    }  # fmt: skip


def only(table, **where):
    """The one line of a table with these values."""
    for key, value in where.items():
        table = table[table[key] == value]
    assert len(table) == 1
    return table.iloc[0]
