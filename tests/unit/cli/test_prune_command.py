"""`intermodal prune`: lists with --dry-run, counts with --json, and does what it said."""

from __future__ import annotations

from pathlib import Path

from support.cli import intermodal


def test_it_lists_counts_and_removes(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert intermodal("images", home=tmp_path, cache=cache).code == 0
    left = tmp_path / "data" / "intermodal" / "store" / "tmp" / "0123456789abcdef.tmp"
    part = cache / "intermodal" / "files" / ("0" * 64) / "a.whl.part"
    tree = cache / "intermodal" / "rootfs" / ("1" * 64)
    part.parent.mkdir(parents=True)
    tree.mkdir(parents=True)
    tree.with_name(f"{tree.name}.lock").touch()
    for path, size_bytes in ((left, 1000), (part, 500), (tree / "file", 200)):
        path.write_bytes(bytes(size_bytes))
    listed = intermodal("prune", "--dry-run", home=tmp_path, cache=cache).out
    assert listed.startswith("would free 1.7 KB: 2 temporary files, 1 unpacked trees\n")
    assert all(str(path) in listed for path in (left, part, tree)) and left.exists() and tree.exists()
    told = intermodal("prune", "--json", home=tmp_path, cache=cache).json
    counts = {"blobs": 0, "temporary_files": 2, "unpacked_trees": 1, "container_folders": 0}
    assert told == told | counts | {"freed_bytes": 1700, "images": [], "dry_run": False}
    assert not left.exists() and not part.exists() and not tree.exists()
    assert intermodal("prune", home=tmp_path, cache=cache).out == "nothing to delete\n"
